// Locks that PostgreSQL, an administrator or the network takes away: each loss is told, within the bound that the
// locker states; new work goes on once the server can be reached; what was lost stays lost.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "lockr/lockr.h"
#include "tests/support/heart.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"
#include "tests/support/proxy.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::eventually;
using testing::Heart;
using testing::is_error;
using testing::open_postgres;
using testing::PostgresServer;
using testing::Proxy;
using testing::Psql;

constexpr auto kPatience = testing::kPostgresPatience;

/// Lookups of names in this program.
struct Lookups {
  static inline std::atomic<bool> held_up{false};
  static inline std::atomic<bool> waiting{false};
};

Key key_of(const std::string& name) { return Key::from_scopes({"loss", name}).value(); }

/// Keeps what it heard of losses.
class Ears final : public Observer {
 public:
  void on_event(const Event& event) noexcept override {
    std::lock_guard lock(mutex_);
    if (event.kind == Event::Kind::lost) reason_ = event.error;
  }
  std::optional<Error> reason() const {
    std::lock_guard lock(mutex_);
    return reason_;
  }

 private:
  mutable std::mutex mutex_;
  std::optional<Error> reason_;
};

}  // namespace
}  // namespace lockr::postgres

// In front of the system's, for libpq.
extern "C" __attribute__((visibility("default"))) int getaddrinfo(const char* node, const char* service,
                                                                  const addrinfo* hints, addrinfo** found) {
  using lockr::postgres::Lookups;
  static const auto next = reinterpret_cast<decltype(&getaddrinfo)>(::dlsym(RTLD_NEXT, "getaddrinfo"));
  while (node && std::strcmp(node, "localhost") == 0 && Lookups::held_up) {
    Lookups::waiting = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return next(node, service, hints, found);
}

namespace lockr::postgres {
namespace {

class PostgresLoss : public ::testing::Test {
 protected:
  ~PostgresLoss() override { Lookups::held_up = false; }

  void open_over(const std::string& dsn, const std::string& fields = {}) {
    ears_ = std::make_shared<Ears>();
    locker_ =
        open_postgres(dsn, R"(, "lanes": 1, "waiters": 1)" + fields, R"(, "reply_timeout": "1s")", {.observer = ears_});
    held_ = locker_->lock(key_of("a"));
    ASSERT_TRUE(held_) << held_.error().to_string();
  }

  /// Breaks it, and waits until the loss is told in every way: within the bound.
  void loses_it_when(const std::function<void()>& broken) {
    const std::stop_token token = held_->lost_token();
    const auto bound = locker_->capabilities().loss;
    const Heart heart;
    const auto start = std::chrono::steady_clock::now();
    broken();
    EXPECT_TRUE(eventually([&] { return held_->lost(); }));
    const auto took = std::chrono::steady_clock::now() - start;
    EXPECT_LE(took, bound + heart.slack()) << "the locker states " << format_duration(bound);
    std::printf("told after %.0f ms, the bound is %.0f ms\n", std::chrono::duration<double, std::milli>(took).count(),
                std::chrono::duration<double, std::milli>(bound).count());
    EXPECT_FALSE(held_->held());
    EXPECT_TRUE(eventually([&] { return token.stop_requested() && ears_->reason().has_value(); }));
    EXPECT_EQ(ears_->reason()->code(), errc::connection_lost) << ears_->reason()->to_string();
  }

  void works_again_and_the_old_one_stays_lost() {
    const auto again = locker_->lock(key_of("a"), {.timeout = kPatience});
    EXPECT_TRUE(again) << again.error().to_string();
    EXPECT_FALSE(held_->held());
    EXPECT_TRUE(is_error(held_->release(), errc::lock_lost));
    EXPECT_TRUE(again->held()) << "the old one gave back nothing";
  }

  std::string told_sqlstate() const { return std::string(ears_->reason()->native()); }

  PostgresServer server_;
  std::shared_ptr<Ears> ears_;
  std::unique_ptr<Locker> locker_;
  Result<Releaser> held_ = fail(Error(errc::not_acquired));
};

TEST_F(PostgresLoss, a_fast_shutdown) {
  open_over(server_.dsn());
  loses_it_when([&] { server_.stop(true); });
  EXPECT_EQ(told_sqlstate(), "57P01");
  EXPECT_TRUE(is_error(locker_->try_lock(key_of("b")), errc::connection_lost));
  server_.start();
  works_again_and_the_old_one_stays_lost();
}

TEST_F(PostgresLoss, an_immediate_shutdown) {
  open_over(server_.tcp_dsn());
  loses_it_when([&] { server_.stop(false); });
  server_.start();
  works_again_and_the_old_one_stays_lost();
}

TEST_F(PostgresLoss, another_process_of_the_server_crashes) {
  open_over(server_.dsn());
  const Psql other(server_.dsn());
  loses_it_when([&] { ::kill(other.backend_pid(), SIGKILL); });
  // The server says why on its way out and does not see to it that it arrives: a connection that is reset while
  // something of ours is unread loses the word. What it must not be is another one.
  const std::string sqlstate = told_sqlstate();
  EXPECT_TRUE(sqlstate == "57P02" || sqlstate.empty()) << sqlstate;
  works_again_and_the_old_one_stays_lost();
}

TEST_F(PostgresLoss, a_wait_outlives_a_restart) {
  open_over(server_.dsn());
  const auto theirs = open_postgres(server_.dsn());
  auto waiter = std::async(std::launch::async, [&] { return theirs->lock(key_of("a"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return theirs->stats().waiting == 1; }));
  loses_it_when([&] { server_.restart(true); });
  const auto got = waiter.get();
  EXPECT_TRUE(got) << got.error().to_string();
}

TEST_F(PostgresLoss, a_wait_outlives_a_server_that_lets_nobody_in_for_a_while) {
  Psql control(server_.dsn());
  control.rows("create role limited login");
  open_over(server_.dsn("limited"));
  control.rows("alter role limited connection limit 0");
  server_.terminate_clients();
  ASSERT_TRUE(eventually([&] {
    const auto tried = locker_->try_lock(key_of("b"));
    return !tried && tried.error().native() == "53300";
  }));
  EXPECT_TRUE(is_error(locker_->try_lock(key_of("b")), errc::connection_lost));
  auto waiter = std::async(std::launch::async, [&] { return locker_->lock(key_of("b"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return locker_->stats().waiting == 1; }));
  control.rows("alter role limited connection limit -1");
  const auto got = waiter.get();
  EXPECT_TRUE(got) << got.error().to_string();
}

TEST_F(PostgresLoss, an_idle_killer_of_the_server_does_not_get_us) {
  Psql(server_.dsn()).rows("alter role postgres set idle_session_timeout = '100ms'");
  open_over(server_.dsn());
  std::this_thread::sleep_for(500ms);  // What must not happen has had time for it.
  EXPECT_TRUE(held_->held());
  EXPECT_EQ(server_.advisory_locks().size(), 1u);
}

TEST_F(PostgresLoss, an_idle_killer_between_us_and_the_server) {
  Proxy proxy(server_.port());
  open_over("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port()));
  loses_it_when([&] { proxy.set(Proxy::Mood::harsh); });
  EXPECT_TRUE(is_error(locker_->try_lock(key_of("b")), errc::connection_lost));
  proxy.set(Proxy::Mood::honest);
  works_again_and_the_old_one_stays_lost();
}

TEST_F(PostgresLoss, a_network_that_garbles) {
  Proxy proxy(server_.port());
  open_over("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port()));
  loses_it_when([&] { proxy.set(Proxy::Mood::garbled); });
  EXPECT_TRUE(is_error(locker_->lock(key_of("b"), {.timeout = 100ms}), errc::connection_lost));
  proxy.set(Proxy::Mood::honest);
  works_again_and_the_old_one_stays_lost();
}

// Names are looked up by a call that blocks. Nobody else waits for that.
TEST_F(PostgresLoss, a_loss_is_told_while_a_name_is_looked_up) {
  open_over("host=localhost user=postgres dbname=postgres port=" + std::to_string(server_.port()));
  Psql administrator(server_.dsn());
  const std::string holder = administrator.row("select pid from pg_locks where locktype = 'advisory' and granted");
  Lookups::held_up = true;
  administrator.rows(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'lockr/%' and "
      "pid <> " +
      holder);
  ASSERT_TRUE(eventually([] { return Lookups::waiting.load(); })) << "the waiter is being connected anew";
  loses_it_when([&] { administrator.rows("select pg_terminate_backend(" + holder + ")"); });
  EXPECT_EQ(told_sqlstate(), "57P01") << "and not that its validity ran out";
  EXPECT_TRUE(is_error(locker_->try_lock(key_of("b")), errc::connection_lost));
  Lookups::held_up = false;
  works_again_and_the_old_one_stays_lost();
}

// The bounds are those of the connection that there is, not of the one that there was.
TEST_F(PostgresLoss, a_socket_gives_way_to_a_network) {
  PostgresServer other;
  open_over("user=postgres dbname=postgres host=" + server_.directory().path() +
            ",127.0.0.1 port=" + std::to_string(server_.port()) + "," + std::to_string(other.port()));
  EXPECT_FALSE(held_->valid_until()) << "over a unix socket a lock is believed in without an answer";
  loses_it_when([&] { server_.stop(true); });
  const auto again = locker_->lock(key_of("a"), {.timeout = kPatience});
  ASSERT_TRUE(again) << again.error().to_string();
  ASSERT_TRUE(again->valid_until());
  EXPECT_TRUE(eventually([&, first = *again->valid_until()] { return *again->valid_until() > first; }))
      << "heartbeats confirm it";
}

TEST_F(PostgresLoss, a_network_that_falls_silent) {
  Proxy proxy(server_.port());
  open_over("host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(proxy.port()));
  ASSERT_TRUE(held_->valid_until());
  loses_it_when([&] { proxy.set(Proxy::Mood::silent); });
  const Heart heart;
  const auto asked = std::chrono::steady_clock::now();
  EXPECT_TRUE(is_error(locker_->lock(key_of("b"), {.timeout = 100ms}), errc::connection_lost));
  EXPECT_LE(std::chrono::steady_clock::now() - asked, 100ms + 1s + heart.slack()) << "its timeout + reply_timeout";
  proxy.set(Proxy::Mood::honest);
  works_again_and_the_old_one_stays_lost();
}

// ---- a standby takes over

TEST_F(PostgresLoss, a_standby_is_not_worked_with_until_it_is_promoted) {
  PostgresServer standby(server_, {});
  open_over("user=postgres dbname=postgres host=" + server_.directory().path() + "," + standby.directory().path() +
            " port=" + std::to_string(server_.port()) + "," + std::to_string(standby.port()));
  loses_it_when([&] { server_.stop(true); });
  const auto refused = [&](const Result<Releaser>& result) {
    return !result && (result.error().code() == errc::unsafe_setup || result.error().code() == errc::connection_lost);
  };
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(refused(locker_->lock(key_of("b"), {.timeout = 20ms})));
  }
  EXPECT_TRUE(standby.advisory_locks().empty());
  EXPECT_EQ(Psql(standby.dsn()).row("select pg_promote()"), "t");
  EXPECT_TRUE(eventually([&] { return locker_->try_lock(key_of("b")).has_value(); }));
  EXPECT_TRUE(held_->lost());
}

TEST_F(PostgresLoss, tokens_grow_when_a_standby_is_promoted) {
  server_.prepare_fencing();
  const std::string fencing = R"(, "fencing": true, "lanes": 1, "waiters": 0)";
  PostgresServer standby(server_, {});
  std::uint64_t last = 0;
  {
    const auto before = open_postgres(server_.dsn(), fencing);
    for (int i = 0; i < 50; ++i) {
      const std::uint64_t token = before->lock(key_of("fenced"))->fencing_token().value();
      EXPECT_GT(token, last);
      last = token;
    }
    // Of these the standby hears nothing: the sequence goes back there.
    standby.stop(true);
    for (int i = 0; i < 200; ++i) last = before->lock(key_of("fenced"))->fencing_token().value();
  }
  server_.stop(true);
  standby.start();
  EXPECT_EQ(Psql(standby.dsn()).row("select pg_promote()"), "t");
  const auto after = open_postgres(standby.dsn(), fencing);
  const std::uint64_t first = after->lock(key_of("fenced"))->fencing_token().value();
  EXPECT_GT(first, last);
}

}  // namespace
}  // namespace lockr::postgres
