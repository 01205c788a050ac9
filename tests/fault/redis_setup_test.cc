// What the Redis backend says of a wrong config, a server that refuses, and set-ups where locks would not hold.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/redis_server.h"
#include "tests/support/tcp_service.h"

namespace lockr::redis {
namespace {

using namespace std::chrono_literals;
using testing::RedisClient;
using testing::RedisServer;

Result<std::unique_ptr<Locker>> open_url(const std::string& url) {
  auto config = LockerConfig::from_url(url);
  if (!config) return fail(config.error());
  return open(*config);
}

Result<std::unique_ptr<Locker>> open_with(const std::string& section, const std::string& top = {}) {
  auto config = LockerConfig::from_json(R"({"backend": "redis", "redis": {)" + section + "}" + top + "}");
  if (!config) return fail(config.error());
  return open(*config);
}

::testing::AssertionResult refused(const Result<std::unique_ptr<Locker>>& opened, errc code, const std::string& part) {
  if (opened) return ::testing::AssertionFailure() << "it opened";
  const std::string words = opened.error().to_string();
  if (opened.error().code() == code && words.find(part) != words.npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << words;
}

::testing::AssertionResult works(const Result<std::unique_ptr<Locker>>& opened) {
  if (!opened) return ::testing::AssertionFailure() << opened.error().to_string();
  for (const Mode mode : {Mode::exclusive, Mode::shared}) {
    auto held = (*opened)->lock(Key::parse("setup:works").value(), {.mode = mode});
    if (!held) return ::testing::AssertionFailure() << held.error().to_string();
    if (const auto released = held->release(); !released) {
      return ::testing::AssertionFailure() << released.error().to_string();
    }
  }
  return ::testing::AssertionSuccess();
}

class RedisSetup : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = std::make_unique<RedisServer>(); }
  static void TearDownTestSuite() { server_.reset(); }
  static RedisServer& server() { return *server_; }
  static std::string tcp(const std::string& rest = {}) {
    return "redis://127.0.0.1:" + std::to_string(server_->port()) + rest;
  }
  static std::string tls(const std::string& host, const std::string& rest) {
    return "rediss://" + host + ":" + std::to_string(server_->tls_port()) + rest;
  }

 private:
  static std::unique_ptr<RedisServer> server_;
};
std::unique_ptr<RedisServer> RedisSetup::server_;

// ---- the config

TEST_F(RedisSetup, urls_reach_the_server_in_each_way) {
  EXPECT_TRUE(works(open_url(tcp())));
  EXPECT_TRUE(works(open_url(tcp("/3?ttl=2s&lanes=1&fencing=false&prefix=other%3A"))));
  EXPECT_TRUE(works(open_url(server().url())));
  EXPECT_TRUE(works(open_url(server().url("?database=2"))));
  EXPECT_TRUE(works(open_url(tls("127.0.0.1", "?tls_ca=" + server().certificate()))));
  EXPECT_TRUE(works(open_url(tls("localhost", "/1?tls_ca=" + server().certificate()))));
}

TEST_F(RedisSetup, what_is_wrong_in_a_url_is_refused_without_its_words) {
  for (const char* rest :
       {"host:s3cr3t", "host/s3cr3t", "user:s3%zzcr3t@host", "host?s3cr3t", "host?s3cr3t=1", "host?ttl=s3cr3t",
        "host?lanes=65", "host?lanes=1&lanes=2", "host?fencing=s3cr3t", "[::1?password=s3cr3t", "host?port=1",
        "host?ttl=10s&margin=6s", "host?lock_delay=2h", "host?ttl=10ms", "s3cr3t@host", "host?tls_ca=/s3cr3t"}) {
    const auto opened = open_url(std::string("redis://") + rest);
    EXPECT_TRUE(refused(opened, errc::invalid_config, "the URL")) << rest;
    if (opened) continue;
    EXPECT_EQ(opened.error().to_string().find("s3cr3t"), std::string::npos) << opened.error().to_string();
  }
  EXPECT_TRUE(refused(open_url("redis+unix://relative"), errc::invalid_config, "socket"));
}

TEST_F(RedisSetup, a_wrong_parameter_of_a_url_is_told_what_may_stand_there) {
  const auto told = [](const std::string& query, const std::string& part) {
    return refused(open_url("redis://127.0.0.1?" + query), errc::invalid_config, "the URL: expected " + part);
  };
  const std::string names = "behind the ? NAME=VALUE, each name once: user, password, ";
  EXPECT_TRUE(told("tll=30s", names));
  EXPECT_TRUE(told("ttl", names));
  EXPECT_TRUE(told("lanes=1&lanes=2", names));
  EXPECT_TRUE(told("lanes=65", "lanes: an integer from 1 to 64"));
  EXPECT_TRUE(told("ttl=30", "ttl: one number and its unit, such as 10s"));
  EXPECT_TRUE(told("fencing=no", "fencing: true or false"));
  EXPECT_TRUE(told("ttl=500ms", "ttl: a duration from 1s to 1h"));
}

TEST_F(RedisSetup, a_url_of_another_engine_in_a_section_is_refused) {
  EXPECT_TRUE(
      refused(open_with(R"("url": "mysql://127.0.0.1")"), errc::invalid_config, "/redis/url: expected redis://"));
  EXPECT_TRUE(refused(open_with(R"("url": "redis")"), errc::invalid_config, "/redis/url: expected redis://"));
}

TEST_F(RedisSetup, what_is_wrong_in_a_section_is_named) {
  const auto names = [](const std::string& section, const std::string& part) {
    return refused(open_with(section), errc::invalid_config, part);
  };
  EXPECT_TRUE(names(R"("hots": "a")", "host"));
  EXPECT_TRUE(names(R"("port": 0)", "/redis/port"));
  EXPECT_TRUE(names(R"("socket": "/a", "host": "b")", "/redis/socket"));
  EXPECT_TRUE(names(R"("socket": "a")", "/redis/socket"));
  EXPECT_TRUE(names(R"("user": "a")", "/redis/password"));
  EXPECT_TRUE(names(R"("tls_ca": "/a")", "/redis/tls"));
  EXPECT_TRUE(names(R"("tls": true, "tls_key": "/a")", "/redis/tls_key"));
  EXPECT_TRUE(names(R"("ttl": "500ms")", "/redis/ttl"));
  EXPECT_TRUE(names(R"("margin": "9s")", "/redis/margin"));
  EXPECT_TRUE(names(R"("prefix": "")", "/redis/prefix"));
  EXPECT_TRUE(names(R"("url": "redis://a", "lanes": 1)", "either a url or the other fields"));
  EXPECT_TRUE(names(R"("tls": true, "tls_ca": "/no/such/file")", "/no/such/file"));
}

TEST_F(RedisSetup, prefixes_and_databases_keep_lockers_apart) {
  const auto one = open_url(server().url());
  ASSERT_TRUE(works(one));
  const auto held = (*one)->lock({"same"});
  ASSERT_TRUE(held);
  for (const char* apart : {"?prefix=b:", "?database=1"}) {
    const auto other = open_url(server().url(apart));
    ASSERT_TRUE(works(other));
    EXPECT_TRUE((*other)->try_lock({"same"}));
  }
  const auto same = open_url(server().url());
  EXPECT_FALSE((*same)->try_lock({"same"}));
}

// ---- who may in

// The line of the README.
constexpr const char* kAclLine[] = {"resetkeys",
                                    "~lockr:*",
                                    "resetchannels",
                                    "&lockr:*",
                                    "-@all",
                                    "+auth",
                                    "+role",
                                    "+info",
                                    "+select",
                                    "+client|setname",
                                    "+subscribe",
                                    "+evalsha",
                                    "+eval",
                                    "+get",
                                    "+set",
                                    "+msetnx",
                                    "+incrby",
                                    "+del",
                                    "+exists",
                                    "+type",
                                    "+pexpire",
                                    "+pttl",
                                    "+time",
                                    "+zadd",
                                    "+zrem",
                                    "+zscore",
                                    "+zrange",
                                    "+zrangebyscore",
                                    "+zremrangebyscore",
                                    "+publish",
                                    "+pubsub|numsub",
                                    "+scan"};

TEST_F(RedisSetup, a_user_with_the_rights_of_the_readme_can_do_all) {
  RedisServer own;
  RedisClient control(own.socket());
  std::vector<std::string> command{"ACL", "SETUSER", "locks", "on", ">s3cr3t"};
  command.insert(command.end(), std::begin(kAclLine), std::end(kAclLine));
  ASSERT_EQ(control.one(command), "OK");
  control.one({"ACL", "SETUSER", "default", "off"});
  ASSERT_EQ(control.one({"PING"}), "PONG");  // Was let in before.
  const std::string user = "?ttl=1s&user=locks&password=s3cr3t";
  const auto one = open_url(own.url(user));
  const auto two = open_url(own.url(user));
  ASSERT_TRUE(works(one));
  ASSERT_TRUE(works(two));
  for (const Mode mode : {Mode::shared, Mode::exclusive}) {
    auto held = (*one)->lock(Key::parse("a").value(), {.mode = mode});
    ASSERT_TRUE(held);
    EXPECT_TRUE((*two)->inspect());
    EXPECT_FALSE((*two)->lock(Key::parse("a").value(), {.timeout = 1500ms})) << "renewed meanwhile";
    EXPECT_TRUE(held->held());
    std::jthread waiter([&] { EXPECT_TRUE((*two)->lock(Key::parse("a").value(), {.timeout = 20s})); });
    EXPECT_TRUE(held->release());
  }
  const auto session = (*one)->open_session().value();
  const std::vector keys{Key::parse("a").value(), Key::parse("b").value()};
  EXPECT_TRUE(session->lock_all(keys, {.timeout = 20s}));
  EXPECT_TRUE(session->try_lock_any(keys));
  EXPECT_TRUE((*one)->lock(Key::parse("c").value(), {.hold_at_least = 1h}));
  EXPECT_FALSE((*two)->try_lock(Key::parse("c").value()));
  control.one({"DEL", "lockr:token"});
  EXPECT_TRUE((*one)->try_lock(Key::parse("d").value())) << "a new token was denied";
  EXPECT_EQ(control.one({"ACL", "LOG"}), "") << "something was denied";
  EXPECT_TRUE(refused(open_url(own.url()), errc::access_denied, "NOAUTH"));
  EXPECT_TRUE(refused(open_url(own.url("?password=wrong")), errc::access_denied, "password"));
  EXPECT_TRUE(refused(open_url(own.url("?user=locks&password=wrong")), errc::access_denied, "WRONGPASS"));
  EXPECT_TRUE(works(open_url("redis://locks:s%33cr3t@127.0.0.1:" + std::to_string(own.port()))));
  EXPECT_TRUE(works(open_url("redis+unix://locks:s3cr3t@" + own.socket())));
}

TEST_F(RedisSetup, a_secret_comes_from_a_file_and_is_not_told) {
  RedisServer own({"--requirepass", "s3cr3t"});
  own.directory().write("secret", "s3cr3t\n");
  const std::string section = R"("socket": ")" + own.socket() + R"(", "password": "${file:)";
  EXPECT_TRUE(works(open_with(section + (own.directory() / "secret") + "}\"")));
  own.directory().write("secret", "wr0ng\n");
  const auto opened = open_with(section + (own.directory() / "secret") + "}\"");
  EXPECT_TRUE(refused(opened, errc::access_denied, "WRONGPASS"));
  EXPECT_EQ(opened.error().to_string().find("wr0ng"), std::string::npos);
}

TEST_F(RedisSetup, a_user_who_may_not_listen_is_refused) {
  RedisClient(server().socket()).one({"ACL", "SETUSER", "deaf", "on", ">s3cr3t", "~*", "resetchannels", "+@all"});
  EXPECT_TRUE(refused(open_url(server().url("?user=deaf&password=s3cr3t")), errc::access_denied, "NOPERM"));
}

// An address of this machine that is not loopback.
std::optional<std::string> outer_address() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return std::nullopt;
  std::optional<std::string> found;
  for (const ifaddrs* each = all; each && !found; each = each->ifa_next) {
    if (!each->ifa_addr || each->ifa_addr->sa_family != AF_INET || (each->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN] = {};
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, text, sizeof text);
    found = text;
  }
  ::freeifaddrs(all);
  return found;
}

TEST_F(RedisSetup, a_password_does_not_cross_a_network_in_clear_text) {
  const auto address = outer_address();
  if (!address) GTEST_SKIP() << "this machine has no address but loopback";
  std::atomic<bool> heard{false};
  testing::TcpService network(
      [&](int fd) {
        std::string first = testing::receive_some(fd);
        heard = heard || first.find("s3cr3t") != first.npos;
      },
      *address);
  const std::string section =
      R"("host": ")" + *address + R"(", "port": )" + std::to_string(network.port()) + R"(, "password": "s3cr3t")";
  EXPECT_TRUE(refused(open_with(section), errc::unsafe_setup, "clear_text_password"));
  EXPECT_FALSE(heard);
  EXPECT_FALSE(open_with(section, R"(, "accept_risk": ["clear_text_password"])"));
  EXPECT_TRUE(heard);
}

// ---- TLS

TEST_F(RedisSetup, a_certificate_that_nobody_vouches_for_is_refused) {
  EXPECT_TRUE(refused(open_url(tls("127.0.0.1", "")), errc::access_denied, "certificate"));
}

TEST_F(RedisSetup, a_certificate_for_another_name_is_refused) {
  const std::string ca = "?tls_ca=" + server().certificate();
  EXPECT_TRUE(refused(open_url(tls("127.0.0.1", ca + "&tls_name=example.org")), errc::access_denied, "certificate"));
  EXPECT_TRUE(works(open_url(tls("127.0.0.1", ca + "&tls_name=localhost"))));
}

TEST_F(RedisSetup, a_server_that_asks_for_our_certificate_gets_it) {
  RedisServer own({"--tls-auth-clients", "yes"});
  const std::string url =
      "rediss://127.0.0.1:" + std::to_string(own.tls_port()) + "?lockr.connect_timeout=2s&tls_ca=" + own.certificate();
  EXPECT_TRUE(refused(open_url(url), errc::connection_lost, ""));
  const std::string key = own.directory() / "server.key";
  EXPECT_TRUE(works(open_url(url + "&tls_certificate=" + own.certificate() + "&tls_key=" + key)));
  EXPECT_TRUE(refused(open_url(url + "&tls_certificate=" + own.certificate() + "&tls_key=" + own.certificate()),
                      errc::invalid_config, "tls_key"));
}

TEST_F(RedisSetup, a_server_without_tls_is_told_from_one_with) {
  const std::string url = "rediss://127.0.0.1:" + std::to_string(server().port()) + "?lockr.connect_timeout=500ms";
  EXPECT_TRUE(refused(open_url(url), errc::connection_lost, ""));
}

// ---- servers that do not keep locks

TEST_F(RedisSetup, a_server_that_evicts_is_refused_unless_accepted) {
  RedisServer own({"--maxmemory", "50mb", "--maxmemory-policy", "volatile-ttl"});
  EXPECT_TRUE(refused(open_url(own.url()), errc::unsafe_setup, "volatile-ttl"));
  EXPECT_TRUE(works(open_url(own.url("?lockr.accept_risk=eviction"))));
  RedisClient(own.socket()).one({"CONFIG", "SET", "maxmemory-policy", "noeviction"});
  EXPECT_TRUE(works(open_url(own.url())));
}

TEST_F(RedisSetup, a_replica_is_refused) {
  RedisServer own({"--replicaof", "127.0.0.1 " + std::to_string(server().port())});
  EXPECT_TRUE(refused(open_url(own.url()), errc::unsafe_setup, "replica"));
}

TEST_F(RedisSetup, a_cluster_is_refused) {
  // Its bus has the port plus 10,000 unless it is told another, which is no port at all for the upper ones.
  const testing::Port bus;
  RedisServer own({"--cluster-enabled", "yes", "--cluster-port", std::to_string(bus.number())});
  EXPECT_TRUE(refused(open_url(own.url()), errc::unsafe_setup, "Cluster"));
}

// ---- what is no server

TEST_F(RedisSetup, nobody_who_listens_is_said) {
  const testing::Port nobodys;
  const std::string port = std::to_string(nobodys.number());
  EXPECT_TRUE(refused(open_url("redis://127.0.0.1:" + port), errc::connection_lost, "127.0.0.1:" + port));
  EXPECT_TRUE(refused(open_url("redis+unix:///no/such/socket"), errc::connection_lost, "/no/such/socket"));
  EXPECT_TRUE(refused(open_url("redis://no-such-host.invalid"), errc::connection_lost, "resolved"));
}

TEST_F(RedisSetup, a_server_that_does_not_answer_is_given_up) {
  testing::TcpService silent([](int fd) {
    while (!testing::receive_some(fd).empty()) {
    }
  });
  const std::string url = "redis://127.0.0.1:" + std::to_string(silent.port()) + "?lockr.connect_timeout=300ms";
  EXPECT_TRUE(refused(open_url(url), errc::connection_lost, "did not answer"));
}

TEST_F(RedisSetup, another_protocol_is_told) {
  testing::TcpService web([](int fd) {
    testing::receive_some(fd);
    testing::send_all(fd, "HTTP/1.1 400 Bad Request\r\n\r\n");
  });
  EXPECT_TRUE(refused(open_url("redis://127.0.0.1:" + std::to_string(web.port())), errc::connection_lost, "protocol"));
}

TEST_F(RedisSetup, a_server_that_is_too_old_is_refused) {
  testing::TcpService old([](int fd) {
    testing::receive_some(fd);
    testing::send_all(fd, "*1\r\n$6\r\nmaster\r\n");
    testing::receive_some(fd);
    const std::string info = "# Server\r\nredis_version:5.0.14\r\nrun_id:abc\r\n";
    testing::send_all(fd, "$" + std::to_string(info.size()) + "\r\n" + info + "\r\n");
    testing::receive_some(fd);
  });
  EXPECT_TRUE(refused(open_url("redis://127.0.0.1:" + std::to_string(old.port())), errc::unsupported, "5.0.14"));
}

// Its first connection is gone by then, and was to another process of the server than the others.
TEST_F(RedisSetup, a_server_that_is_started_anew_while_a_locker_opens_is_met_again) {
  RedisServer restarted;
  std::atomic<int> connections{0};
  testing::TcpService road([&](int fd) {
    if (++connections == 2) {
      restarted.stop();
      restarted.start();
    }
    testing::forward(fd, restarted.port());
  });
  const auto locker = open_url("redis://127.0.0.1:" + std::to_string(road.port()));
  EXPECT_GE(connections, 2);
  EXPECT_TRUE(works(locker));
}

TEST_F(RedisSetup, doctor_is_told_what_holds) {
  const auto locker = open_url(server().url("?ttl=12s"));
  ASSERT_TRUE(works(locker));
  const Capabilities& told = (*locker)->capabilities();
  EXPECT_TRUE(told.shared && told.fencing && told.cross_process && told.cross_host);
  EXPECT_GE(told.takeover, 12s);
  EXPECT_GE(told.loss, 4s);
  EXPECT_EQ(told.facts.front().first, "server");
}

}  // namespace
}  // namespace lockr::redis
