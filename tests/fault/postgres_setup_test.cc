// What the PostgreSQL backend says of a wrong config, a server that refuses, and set-ups where locks would not hold.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"
#include "tests/support/tcp_service.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::PgBouncer;
using testing::PostgresServer;
using testing::Psql;
using testing::TcpService;

/// One server for all cases.
class PostgresSetup : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = std::make_unique<PostgresServer>(); }
  static void TearDownTestSuite() { server_.reset(); }
  static PostgresServer& server() { return *server_; }
  static std::string rows(const std::string& sql) {
    const auto all = Psql(server_->dsn()).rows(sql);
    return all.empty() ? "" : all.front();
  }

 private:
  static std::unique_ptr<PostgresServer> server_;
};
std::unique_ptr<PostgresServer> PostgresSetup::server_;

Result<std::unique_ptr<Locker>> open_with(const std::string& dsn, const std::string& fields = {},
                                          const std::string& top = R"("connect_timeout": "20s")") {
  auto config = LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"" + fields +
                                        "}, " + top + "}");
  if (!config) return fail(config.error());
  return open(*config);
}

/// Whether opening fails with this code and SQLSTATE, and its sentence contains the part.
::testing::AssertionResult refused(const Result<std::unique_ptr<Locker>>& opened, errc code, const std::string& native,
                                   const std::string& part) {
  if (opened) return ::testing::AssertionFailure() << "it opened";
  const Error& error = opened.error();
  if (error.code() == code && error.native() == native && error.message().find(part) != std::string::npos) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << error.to_string();
}

::testing::AssertionResult works(const Result<std::unique_ptr<Locker>>& opened) {
  if (!opened) return ::testing::AssertionFailure() << opened.error().to_string();
  const auto held = (*opened)->try_lock({"setup", "works"});
  if (!held) return ::testing::AssertionFailure() << held.error().to_string();
  return ::testing::AssertionSuccess();
}

// ---- the config

TEST_F(PostgresSetup, a_dsn_that_can_not_be_read_is_refused_without_its_words) {
  for (const char* dsn :
       {"host=db password=s3 cr3t dbname=x", "postgresql://app:s3@cr3t@db/x", "s3cr3t", "postgresql://app:s3/cr3t@db/x",
        "host=db port=s3cr3t", "postgresql://app@db/x?s3cr3t=1", "host=db nonsense=s3cr3t", "password='s3cr3t"}) {
    const auto opened = open_with(dsn);
    EXPECT_TRUE(refused(opened, errc::invalid_config, "", "a connection string of libpq")) << dsn;
    if (opened) continue;
    EXPECT_EQ(opened.error().to_string().find("s3"), std::string::npos) << opened.error().to_string();
    EXPECT_EQ(opened.error().to_string().find("cr3t"), std::string::npos) << opened.error().to_string();
  }
}

TEST_F(PostgresSetup, fields_out_of_range_are_refused) {
  EXPECT_TRUE(refused(open_with("", R"(, "lanes": 0)"), errc::invalid_config, "", "/postgres/lanes"));
  EXPECT_TRUE(refused(open_with("", R"(, "waiters": 65)"), errc::invalid_config, "", "/postgres/waiters"));
  EXPECT_TRUE(refused(open_with("", R"(, "session_ttl": "10ms")"), errc::invalid_config, "", "from 1s to 1h"));
  EXPECT_TRUE(refused(open_with("", R"(, "lane": 1)"), errc::invalid_config, "", "\"lanes\""));
}

TEST_F(PostgresSetup, a_url_has_the_same_fields) {
  const std::string place = "postgresql:///postgres?host=" + server().directory().path() +
                            "&lanes=1&port=" + std::to_string(server().port()) + "&user=postgres&waiters=1";
  const auto config = LockerConfig::from_url(place);
  ASSERT_TRUE(config) << config.error().to_string();
  const auto opened = open(*config);
  ASSERT_TRUE(works(opened));
  const auto& facts = (*opened)->capabilities().facts;
  EXPECT_TRUE(std::any_of(facts.begin(), facts.end(), [](const auto& fact) {
    return fact.second.find("1 lanes, 1 waiters, over a unix socket") != std::string::npos;
  }));
  for (const char* wrong : {"&lanes=none", "&waiters", "&fencing=yes", "&session_ttl=5", "&lanes=1"}) {
    const auto read = LockerConfig::from_url(place + wrong);
    ASSERT_TRUE(read);
    EXPECT_TRUE(refused(open(*read), errc::invalid_config, "", "the URL")) << wrong;
  }
  const auto misspelt = LockerConfig::from_url(place + "&lannes=2");
  ASSERT_TRUE(misspelt);
  EXPECT_TRUE(refused(open(*misspelt), errc::invalid_config, "", "one of yours is neither"));
}

// ---- who refuses

TEST_F(PostgresSetup, a_wrong_password) {
  rows("create role app login password 'right'");
  server().set_hba("local all all trust\nhost all app 127.0.0.1/32 scram-sha-256\nhost all all all trust\n");
  EXPECT_TRUE(works(open_with(server().tcp_dsn("app") + " password=right")));
  const auto opened = open_with(server().tcp_dsn("app") + " password=wr0ng");
  EXPECT_TRUE(refused(opened, errc::access_denied, "28P01", "password authentication failed for user \"app\""));
  EXPECT_EQ(opened.error().to_string().find("wr0ng"), std::string::npos);
  EXPECT_FALSE(opened.error().retryable());
}

TEST_F(PostgresSetup, no_such_database) {
  EXPECT_TRUE(refused(open_with(server().dsn("postgres", "nowhere")), errc::invalid_config, "3D000",
                      "database \"nowhere\" does not exist"));
}

TEST_F(PostgresSetup, no_server) {
  const testing::Port nobodys;
  const auto opened = open_with("host=127.0.0.1 user=postgres port=" + std::to_string(nobodys.number()));
  EXPECT_TRUE(refused(opened, errc::connection_lost, "", "Connection refused"));
  EXPECT_TRUE(opened.error().retryable());
}

TEST_F(PostgresSetup, no_connection_left) {
  rows("create role few login connection limit 3");
  const auto opened = open_with(server().dsn("few"));
  EXPECT_TRUE(refused(opened, errc::capacity, "53300", "too many connections for role"));
  EXPECT_TRUE(opened.error().retryable());
  // The server counts a connection for a moment after it was closed.
  EXPECT_TRUE(testing::eventually([&] { return open_with(server().dsn("few"), R"(, "waiters": 1)").has_value(); }));
}

TEST_F(PostgresSetup, fencing_needs_its_sequence) {
  const std::string fencing = R"(, "fencing": true)";
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::backend_failure, "42P01", "lockr postgres init"));
  rows("create schema lockr");
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::backend_failure, "42P01", "lockr postgres init"));
  rows("create sequence lockr.fencing_token cache 10");
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::unsafe_setup, "", "CACHE 1"));
  rows("alter sequence lockr.fencing_token cache 1");
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::backend_failure, "42P01", "lockr postgres init"));
  server().prepare_fencing();
  EXPECT_TRUE(works(open_with(server().dsn(), fencing)));
  rows("alter table lockr.fencing_leapt set logged");
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::unsafe_setup, "", "UNLOGGED"));
  rows("alter table lockr.fencing_leapt set unlogged");
  rows("select setval('lockr.fencing_token', 1::bigint << 43)");
  EXPECT_TRUE(refused(open_with(server().dsn(), fencing), errc::unsupported, "", "fencing_token"));
  rows("select setval('lockr.fencing_token', 1)");
  rows("create role guest login");
  EXPECT_TRUE(refused(open_with(server().dsn("guest"), fencing), errc::access_denied, "42501", "lockr"));
  rows("grant usage on schema lockr to guest");
  EXPECT_TRUE(refused(open_with(server().dsn("guest"), fencing), errc::access_denied, "42501", "fencing_token"));
  rows("grant usage on sequence lockr.fencing_token to guest");
  EXPECT_TRUE(works(open_with(server().dsn("guest"), fencing)));
}

// ---- what is no server

std::string message(char type, const std::string& body) {
  const auto size = static_cast<std::uint32_t>(body.size() + 4);
  std::string out(1, type);
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(size >> shift & 0xff);
  return out + body;
}

std::string dsn_of(const TcpService& service, const std::string& host = "127.0.0.1") {
  return "host=" + host +
         " sslmode=disable gssencmode=disable user=app password=s3cr3t port=" + std::to_string(service.port());
}

TEST_F(PostgresSetup, a_server_that_talks_garbage) {
  const TcpService service([](int fd) {
    testing::receive_some(fd);
    testing::send_all(fd, "HTTP/1.1 400 Bad Request\r\n\r\n");
  });
  EXPECT_TRUE(refused(open_with(dsn_of(service)), errc::connection_lost, "", "expected authentication request"));
}

TEST_F(PostgresSetup, a_server_that_talks_garbage_later) {
  const TcpService service([](int fd) {
    testing::receive_some(fd);
    testing::send_all(fd, message('R', std::string(4, '\0')) +
                              message('S', std::string("server_version\0"
                                                       "15.1\0",
                                                       20)) +
                              message('K', std::string(8, '\1')) + message('Z', "I"));
    testing::receive_some(fd);
    testing::send_all(fd, std::string(64, '\xff'));
    testing::receive_some(fd);
  });
  EXPECT_TRUE(refused(open_with(dsn_of(service)), errc::connection_lost, "", "the connection to PostgreSQL ended"));
}

TEST_F(PostgresSetup, a_server_that_closes) {
  const TcpService service([](int fd) { testing::receive_some(fd); });
  EXPECT_TRUE(refused(open_with(dsn_of(service)), errc::connection_lost, "", "server closed the connection"));
}

TEST_F(PostgresSetup, a_server_that_never_answers) {
  const TcpService service([](int fd) {
    while (!testing::receive_some(fd).empty()) {
    }
  });
  const auto started = std::chrono::steady_clock::now();
  const auto opened = open_with(dsn_of(service), {}, R"("connect_timeout": "200ms")");
  EXPECT_TRUE(refused(opened, errc::connection_lost, "", "did not answer in time"));
  EXPECT_GE(std::chrono::steady_clock::now() - started, 200ms);
}

TEST_F(PostgresSetup, a_server_that_is_too_old) {
  const TcpService service([](int fd) {
    testing::receive_some(fd);
    testing::send_all(fd, message('R', std::string(4, '\0')) +
                              message('S', std::string("server_version\0"
                                                       "13.4\0",
                                                       20)) +
                              message('K', std::string(8, '\1')) + message('Z', "I"));
    testing::receive_some(fd);
  });
  EXPECT_TRUE(refused(open_with(dsn_of(service)), errc::unsupported, "", "PostgreSQL 14 or later"));
}

// ---- clear-text passwords

std::optional<std::string> address_off_the_host() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return std::nullopt;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(all, ::freeifaddrs);
  for (const ifaddrs* each = all; each; each = each->ifa_next) {
    if (!each->ifa_addr || each->ifa_addr->sa_family != AF_INET || (each->ifa_flags & IFF_LOOPBACK)) continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    const auto* const address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
    if (::inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size())) return std::string(text.data());
  }
  return std::nullopt;
}

/// Asks for the password in clear text, and keeps what it is sent.
class Eavesdropper {
 public:
  explicit Eavesdropper(const std::string& address)
      : service_(
            [this](int fd) {
              testing::receive_some(fd);
              // In two parts: the decision is not made on the first.
              const std::string request = message('R', std::string("\0\0\0\3", 4));
              testing::send_all(fd, request.substr(0, 6));
              ::usleep(20'000);
              testing::send_all(fd, request.substr(6));
              const std::string heard = testing::receive_some(fd);
              std::lock_guard lock(mutex_);
              heard_ += heard;
            },
            address) {}

  const TcpService& service() const { return service_; }
  std::string heard() const {
    std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  mutable std::mutex mutex_;
  std::string heard_;
  TcpService service_;
};

TEST_F(PostgresSetup, a_clear_text_password_does_not_leave_the_host) {
  const auto address = address_off_the_host();
  if (!address) GTEST_SKIP() << "this machine has no address but loopback";
  {
    const Eavesdropper server(*address);
    EXPECT_TRUE(refused(open_with(dsn_of(server.service(), *address)), errc::unsafe_setup, "", "clear_text_password"));
    EXPECT_EQ(server.heard(), "");
  }
  const Eavesdropper server(*address);
  EXPECT_FALSE(open_with(dsn_of(server.service(), *address), {}, R"("accept_risk": ["clear_text_password"])"));
  EXPECT_NE(server.heard().find("s3cr3t"), std::string::npos);
}

TEST_F(PostgresSetup, a_clear_text_password_may_go_to_this_host) {
  const Eavesdropper server("127.0.0.1");
  EXPECT_FALSE(open_with(dsn_of(server.service())));
  EXPECT_NE(server.heard().find("s3cr3t"), std::string::npos);
}

// ---- poolers and proxies

TEST_F(PostgresSetup, transaction_pooling_is_refused) {
  for (const int pool_size : {1, 10}) {
    const PgBouncer pooler(server(), "transaction", pool_size);
    EXPECT_TRUE(refused(open_with(pooler.dsn()), errc::unsafe_setup, "", "transaction_pooler")) << pool_size;
  }
}

// The two lockers share one server session, in which what one has prepared is in the other's way.
TEST_F(PostgresSetup, transaction_pooling_that_is_accepted_serves) {
  const PgBouncer pooler(server(), "transaction", 1);
  const std::string accepted = R"("accept_risk": ["transaction_pooler"])";
  const auto one = open_with(pooler.dsn(), {}, accepted);
  const auto two = open_with(pooler.dsn(), {}, accepted);
  ASSERT_TRUE(one) << one.error().to_string();
  ASSERT_TRUE(two) << two.error().to_string();
  // What is checked for tokens would be checked once, though the server sessions change.
  server().prepare_fencing();
  EXPECT_TRUE(refused(open_with(pooler.dsn(), R"(, "fencing": true)", accepted), errc::unsafe_setup, "", "fencing"));
  for (const auto* locker : {&one, &two}) {
    auto held = (**locker)->lock({"pooled"}, {.timeout = 1s});
    ASSERT_TRUE(held) << held.error().to_string();
    EXPECT_TRUE(held->release());
  }
}

// Others take the server sessions between our questions: what is seen of the pool is different each time.
TEST_F(PostgresSetup, transaction_pooling_is_refused_beside_others) {
  const PgBouncer pooler(server(), "transaction", 4);
  std::atomic<bool> over{false};
  std::vector<std::jthread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([&] {
      Psql other(pooler.dsn());
      while (!over) other.row("select pg_sleep(0.0002)");
    });
  }
  for (int i = 0; i < 60; ++i) {
    EXPECT_TRUE(refused(open_with(pooler.dsn()), errc::unsafe_setup, "", "transaction_pooler"));
  }
  over = true;
}

TEST_F(PostgresSetup, statement_pooling_is_refused) {
  const PgBouncer pooler(server(), "statement", 10);
  EXPECT_TRUE(refused(open_with(pooler.dsn()), errc::unsafe_setup, "", "in statement mode"));
}

TEST_F(PostgresSetup, session_pooling_works) {
  const PgBouncer pooler(server(), "session", 20);
  const auto opened = open_with(pooler.dsn());
  ASSERT_TRUE(works(opened));
  const auto held = (*opened)->lock({"pooled"});
  ASSERT_TRUE(held);
  const auto direct = open_with(server().dsn());
  ASSERT_TRUE(direct);
  EXPECT_FALSE((*direct)->try_lock({"pooled"}));
}

TEST_F(PostgresSetup, a_session_pool_that_is_too_small_is_told) {
  const PgBouncer pooler(server(), "session", 1);
  EXPECT_TRUE(refused(open_with(pooler.dsn(), {}, R"("connect_timeout": "500ms")"), errc::connection_lost, "",
                      "no server session left"));
}

TEST_F(PostgresSetup, a_plain_proxy_is_no_pooler) {
  const std::uint16_t port = server().port();
  const TcpService proxy([port](int fd) { testing::forward(fd, port); });
  const auto opened = open_with("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port()));
  ASSERT_TRUE(works(opened));
  const auto& facts = (*opened)->capabilities().facts;
  EXPECT_TRUE(std::any_of(facts.begin(), facts.end(),
                          [](const auto& fact) { return fact.second.ends_with("over TCP, in clear text"); }));
}

TEST_F(PostgresSetup, all_connections_but_the_first_are_made_at_a_time) {
  const std::uint16_t port = server().port();
  std::atomic<int> begun{0};
  const TcpService proxy([&](int fd) {
    // The second one is served when there is a third.
    if (++begun == 1 || testing::eventually([&] { return begun >= 3; })) testing::forward(fd, port);
  });
  EXPECT_TRUE(works(open_with("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port()))));
}

TEST_F(PostgresSetup, one_connection_that_can_not_be_made_is_told_among_many) {
  const std::uint16_t port = server().port();
  std::atomic<int> begun{0};
  const TcpService proxy([&](int fd) {
    if (++begun != 4) testing::forward(fd, port);
  });
  EXPECT_TRUE(refused(open_with("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port())),
                      errc::connection_lost, "", "server closed the connection"));
}

TEST_F(PostgresSetup, a_hot_standby_is_refused) {
  server().set_hba("local all all trust\nlocal replication all trust\nhost all all all trust\n");
  const PostgresServer standby(server(), {});
  EXPECT_TRUE(refused(open_with(standby.dsn()), errc::unsafe_setup, "", "hot standby"));
  // Of several hosts the primary is taken.
  const auto hosts = [](const PostgresServer& one, const PostgresServer& other) {
    return "user=postgres dbname=postgres host=" + one.directory().path() + "," + other.directory().path() +
           " port=" + std::to_string(one.port()) + "," + std::to_string(other.port());
  };
  EXPECT_TRUE(works(open_with(hosts(standby, server()))));
  EXPECT_TRUE(refused(open_with(hosts(standby, standby)), errc::unsafe_setup, "", "hot standby"));
}

}  // namespace
}  // namespace lockr::postgres
