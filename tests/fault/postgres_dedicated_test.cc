// Dedicated sessions: one connection each, beside the lock table. The first cases are what such a session has promised
// since there are sessions that own a connection, by those names.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::bigint;
using testing::eventually;
using testing::is_error;
using testing::PostgresServer;
using testing::Psql;

constexpr auto kPatience = testing::kPostgresPatience;

Key key_of(const std::string& name) { return Key::from_scopes({"dedicated", name}).value(); }

class PostgresDedicated : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<PostgresServer>();
    server_->prepare_fencing();
  }
  static void TearDownTestSuite() { server_.reset(); }
  void SetUp() override { locker_ = locker(); }
  void TearDown() override {
    locker_.reset();
    EXPECT_TRUE(eventually([] { return server_->advisory_locks().empty(); }));
    EXPECT_TRUE(eventually([] { return backends() == 0; })) << "a connection was left behind";
  }

  static PostgresServer& server() { return *server_; }
  static std::unique_ptr<Locker> locker(const std::string& fields = {}, const std::string& top = {},
                                        OpenOptions options = {}) {
    return testing::open_postgres(server_->dsn(), R"(, "lanes": 1, "waiters": 0)" + fields, top, std::move(options));
  }
  Locker& the_locker() { return *locker_; }
  std::unique_ptr<Session> dedicated(const std::string& label = {}) { return dedicated_of(*locker_, label); }
  static std::unique_ptr<Session> dedicated_of(Locker& locker, const std::string& label = {}) {
    auto session = locker.open_session({.label = label, .dedicated = true});
    EXPECT_TRUE(session) << session.error().to_string();
    return *std::move(session);
  }
  static int backends() {
    return std::stoi(
        Psql(server_->dsn()).row("select count(*) from pg_stat_activity where application_name like 'lockr/%'"));
  }
  /// The server's session that holds the key.
  static std::string holder_of(const Key& key) {
    const auto rows = Psql(server_->dsn())
                          .rows(
                              "select pid from pg_locks where locktype = 'advisory' and granted and "
                              "(classid::int8 << 32 | objid::int8) = " +
                              bigint(key));
    return rows.empty() ? std::string() : rows.front();
  }
  static bool somebody_waits() {
    const auto all = server_->advisory_locks();
    return std::any_of(all.begin(), all.end(), [](const std::string& each) { return each.starts_with("waits"); });
  }

 private:
  static std::unique_ptr<PostgresServer> server_;
  std::unique_ptr<Locker> locker_;
};
std::unique_ptr<PostgresServer> PostgresDedicated::server_;

// ---- the documented scenarios

TEST_F(PostgresDedicated, lock_and_release) {
  const auto session = dedicated();
  auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held) << held.error().to_string();
  EXPECT_TRUE(held->held());
  EXPECT_NE(holder_of(key_of("a")), "");
  EXPECT_TRUE(held->release());
  EXPECT_EQ(holder_of(key_of("a")), "");
}

TEST_F(PostgresDedicated, try_and_release) {
  const auto session = dedicated();
  auto held = session->try_lock(key_of("a"));
  ASSERT_TRUE(held) << held.error().to_string();
  EXPECT_NE(holder_of(key_of("a")), "");
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(held->release()) << "the second time it has nothing to tell";
  EXPECT_EQ(holder_of(key_of("a")), "");
}

TEST_F(PostgresDedicated, taken_twice_by_one_session) {
  const auto session = dedicated();
  auto first = session->lock(key_of("a"));
  auto second = session->lock(key_of("a"));
  ASSERT_TRUE(first);
  ASSERT_TRUE(second) << second.error().to_string();
  EXPECT_TRUE(session->try_lock(key_of("a"), Mode::shared)) << "exclusive covers shared";
  EXPECT_TRUE(first->release());
  EXPECT_NE(holder_of(key_of("a")), "") << "it was taken twice";
  EXPECT_TRUE(second->release());
  EXPECT_EQ(holder_of(key_of("a")), "");
  const auto reader = session->lock(key_of("a"), {.mode = Mode::shared});
  ASSERT_TRUE(reader);
  EXPECT_TRUE(is_error(session->lock(key_of("a")), errc::deadlock));
}

TEST_F(PostgresDedicated, try_fails_while_another_holds) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto held = one->lock(key_of("a"));
  ASSERT_TRUE(held);
  EXPECT_TRUE(is_error(two->try_lock(key_of("a")), errc::not_acquired));
  EXPECT_TRUE(is_error(two->lock(key_of("a"), {.timeout = 0s}), errc::not_acquired));
  EXPECT_TRUE(is_error(the_locker().try_lock(key_of("a")), errc::not_acquired));
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(two->try_lock(key_of("a")));
}

TEST_F(PostgresDedicated, different_keys_do_not_conflict) {
  const auto one = dedicated();
  const auto two = dedicated();
  const auto a = one->lock(key_of("a"));
  const auto b = two->try_lock(key_of("b"));
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  EXPECT_NE(holder_of(key_of("a")), holder_of(key_of("b")));
}

TEST_F(PostgresDedicated, lock_blocks_until_released) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto held = one->lock(key_of("a"));
  ASSERT_TRUE(held);
  auto waiter = std::async(std::launch::async, [&] { return two->lock(key_of("a"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits)) << "it waits in the server's queue";
  EXPECT_EQ(waiter.wait_for(0s), std::future_status::timeout);
  EXPECT_TRUE(held->release());
  const auto got = waiter.get();
  ASSERT_TRUE(got) << got.error().to_string();
  EXPECT_TRUE(got->held());
}

TEST_F(PostgresDedicated, cancel) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto held = one->lock(key_of("a"));
  const auto other = two->lock(key_of("b"));
  ASSERT_TRUE(held);
  ASSERT_TRUE(other);
  std::stop_source stop;
  auto waiter = std::async(std::launch::async,
                           [&] { return two->lock(key_of("a"), {.timeout = kPatience, .stop = stop.get_token()}); });
  ASSERT_TRUE(eventually(somebody_waits));
  stop.request_stop();
  EXPECT_TRUE(is_error(waiter.get(), errc::cancelled));
  EXPECT_TRUE(other->held()) << "what else the session holds stays";
  EXPECT_NE(holder_of(key_of("b")), "");
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(eventually([] { return holder_of(key_of("a")).empty() && !somebody_waits(); }));
  EXPECT_TRUE(two->lock(key_of("a"))) << "the session serves on";
}

TEST_F(PostgresDedicated, lock_timeout) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto held = one->lock(key_of("a"));
  const auto other = two->lock(key_of("b"));
  ASSERT_TRUE(held);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(is_error(two->lock(key_of("a"), {.timeout = 3ms}), errc::timeout));
  }
  EXPECT_TRUE(other->held());
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(eventually([] { return holder_of(key_of("a")).empty(); })) << "a late grant was given back";
  EXPECT_TRUE(two->try_lock(key_of("a")));
}

TEST_F(PostgresDedicated, several_locks_released_in_any_order) {
  const auto session = dedicated();
  const auto other = dedicated();
  std::vector<Releaser> held;
  for (const char* name : {"a", "b", "c", "d"}) {
    auto one = session->lock(key_of(name));
    ASSERT_TRUE(one);
    held.push_back(*std::move(one));
  }
  for (const std::size_t each : {2u, 0u, 3u, 1u}) {
    EXPECT_TRUE(held[each].release());
    EXPECT_TRUE(other->try_lock(held[each].key()));
  }
}

TEST_F(PostgresDedicated, release_of_what_is_not_held) {
  const auto session = dedicated();
  auto stolen = session->lock(key_of("a"));
  ASSERT_TRUE(stolen);
  auto lost = session->lock(key_of("b"));
  ASSERT_TRUE(lost);
  const std::string pid = holder_of(key_of("a"));
  Psql(server().dsn()).row("select pg_terminate_backend(" + pid + ")");
  ASSERT_TRUE(eventually([&] { return stolen->lost(); }));
  EXPECT_TRUE(is_error(stolen->release(), errc::lock_lost));
  EXPECT_TRUE(stolen->release()) << "told once";
  const auto closed_session = dedicated();
  auto outlives = closed_session->lock(key_of("c"));
  ASSERT_TRUE(outlives);
  EXPECT_TRUE(closed_session->close());
  EXPECT_TRUE(is_error(outlives->release(), errc::session_closed));
  EXPECT_TRUE(outlives->release());
}

// ---- start and close

TEST_F(PostgresDedicated, each_session_owns_one_connection_and_close_ends_it) {
  const int before = backends();
  const auto one = dedicated();
  const auto two = dedicated();
  EXPECT_EQ(backends(), before + 2);
  const auto held = one->lock(key_of("a"));
  ASSERT_TRUE(held);
  const std::string pid = holder_of(key_of("a"));
  EXPECT_TRUE(one->close());
  EXPECT_EQ(holder_of(key_of("a")), "") << "when close() returns nothing is held";
  EXPECT_TRUE(eventually(
      [&] { return Psql(server().dsn()).row("select count(*) from pg_stat_activity where pid = " + pid) == "0"; }));
  EXPECT_FALSE(held->held());
  EXPECT_TRUE(is_error(one->lock(key_of("a")), errc::session_closed));
  EXPECT_TRUE(is_error(one->try_lock(key_of("a")), errc::session_closed));
  EXPECT_TRUE(one->close()) << "again is no harm";
  EXPECT_TRUE(two->lock(key_of("a")));
}

TEST_F(PostgresDedicated, closing_makes_its_waiter_leave) {
  const auto one = dedicated();
  const auto two = dedicated();
  const auto held = one->lock(key_of("a"));
  ASSERT_TRUE(held);
  auto waiter = std::async(std::launch::async, [&] { return two->lock(key_of("a"), {.timeout = forever}); });
  ASSERT_TRUE(eventually(somebody_waits));
  EXPECT_TRUE(two->close());
  EXPECT_TRUE(is_error(waiter.get(), errc::session_closed));
  EXPECT_TRUE(eventually([] { return !somebody_waits(); }));
}

TEST_F(PostgresDedicated, its_locker_closes_it) {
  const auto ours = locker();
  const auto session = dedicated_of(*ours);
  auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  EXPECT_TRUE(ours->close());
  EXPECT_EQ(holder_of(key_of("a")), "");
  EXPECT_TRUE(is_error(session->lock(key_of("a")), errc::session_closed));
  EXPECT_TRUE(is_error(held->release(), errc::session_closed));
  EXPECT_TRUE(is_error(ours->open_session({.dedicated = true}), errc::session_closed));
}

TEST_F(PostgresDedicated, does_what_the_guide_says) {
  Locker* const locker = &the_locker();
  // [dedicated]
  auto session = locker->open_session({.label = "nightly report", .dedicated = true});
  if (session) {
    auto held = (*session)->lock({"report", "2026-11"}, {.timeout = 5s});
    EXPECT_TRUE(held);
    EXPECT_TRUE((*session)->close());  // The connection ends, and every lock on it.
  }
  // [dedicated]
  EXPECT_TRUE(session);
}

TEST_F(PostgresDedicated, no_connection_left_for_it) {
  Psql(server().dsn()).rows("create role two_only login connection limit 2");
  const auto ours = testing::open_postgres(server().dsn("two_only"), R"(, "lanes": 1, "waiters": 0)");
  const auto one = dedicated_of(*ours);
  const auto another = ours->open_session({.dedicated = true});
  ASSERT_TRUE(is_error(another, errc::capacity));
  EXPECT_EQ(another.error().native(), "53300");
}

// ---- its connection

TEST_F(PostgresDedicated, another_threads_call_is_session_busy_and_releases_are_not) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto a = one->lock(key_of("a"));
  auto b = two->lock(key_of("b"));
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  auto waiter = std::async(std::launch::async, [&] { return two->lock(key_of("a"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits));
  const auto busy = two->try_lock(key_of("c"));
  ASSERT_TRUE(is_error(busy, errc::session_busy));
  EXPECT_TRUE(busy.error().retryable());
  EXPECT_TRUE(is_error(two->lock(key_of("c")), errc::session_busy));
  const std::vector<Key> many{key_of("c"), key_of("d")};
  EXPECT_TRUE(is_error(two->lock_all(many), errc::session_busy));
  EXPECT_TRUE(is_error(two->try_lock_any(many), errc::session_busy));
  EXPECT_TRUE(b->release()) << "who waits for a can give b back";
  EXPECT_EQ(holder_of(key_of("b")), "");
  EXPECT_EQ(waiter.wait_for(0s), std::future_status::timeout);
  EXPECT_TRUE(a->release());
  EXPECT_TRUE(waiter.get());
}

class Ears final : public Observer {
 public:
  void on_event(const Event& event) noexcept override {
    std::lock_guard lock(mutex_);
    heard_.push_back(event);
  }
  std::vector<Event> heard() const {
    std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Event> heard_;
};

TEST_F(PostgresDedicated, when_its_connection_ends_everything_is_lost_for_good) {
  const auto ears = std::make_shared<Ears>();
  const auto ours = locker({}, {}, {.observer = ears});
  const auto session = dedicated_of(*ours, "painter");
  const auto other = dedicated_of(*ours);
  const auto blocker = other->lock(key_of("blocked"));
  auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  const std::stop_token token = held->lost_token();
  auto waiter =
      std::async(std::launch::async, [&] { return session->lock(key_of("blocked"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits));
  Psql(server().dsn()).row("select pg_terminate_backend(" + holder_of(key_of("a")) + ")");
  const auto waited = waiter.get();
  EXPECT_TRUE(is_error(waited, errc::connection_lost));
  EXPECT_TRUE(eventually([&] { return token.stop_requested() && !ears->heard().empty(); }));
  EXPECT_EQ(ears->heard()[0].kind, Event::Kind::lost);
  EXPECT_EQ(ears->heard()[0].label, "painter");
  EXPECT_TRUE(held->lost());
  const auto after = session->lock(key_of("c"), {.timeout = kPatience});
  ASSERT_TRUE(is_error(after, errc::connection_lost));
  EXPECT_FALSE(after.error().retryable());
  EXPECT_EQ(after.error().native(), "57P01") << after.error().to_string();
  EXPECT_TRUE(is_error(session->try_lock(key_of("c")), errc::connection_lost));
  EXPECT_TRUE(session->close());
  EXPECT_TRUE(dedicated_of(*ours)->lock(key_of("a"))) << "another one is a new start";
}

TEST_F(PostgresDedicated, a_lost_connection_is_noticed_while_nobody_calls) {
  const auto ours = locker(R"(, "session_ttl": "1s")", R"(, "reply_timeout": "300ms")");
  const auto session = dedicated_of(*ours);
  const auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  ASSERT_TRUE(held->valid_until());
  const pid_t pid = std::stoi(holder_of(key_of("a")));
  ::kill(pid, SIGSTOP);
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  ::kill(pid, SIGCONT);
}

TEST_F(PostgresDedicated, a_forked_child_holds_nothing) {
  const auto session = dedicated();
  auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool good = !held->held() && is_error(held->release(), errc::forked_process) &&
                      is_error(session->try_lock(key_of("b")), errc::forked_process) &&
                      is_error(session->close(), errc::forked_process);
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(held->held());
  EXPECT_TRUE(held->release()) << "the child did not end the connection";
}

// ---- beside the table

TEST_F(PostgresDedicated, waiting_for_what_the_table_holds_is_a_deadlock) {
  const auto session = dedicated();
  auto held = the_locker().lock(key_of("a"));
  ASSERT_TRUE(held);
  const auto waited = session->lock(key_of("a"), {.timeout = forever});
  ASSERT_TRUE(is_error(waited, errc::deadlock));
  EXPECT_EQ(waited.error().key(), key_of("a").string());
  const std::vector<Key> both{key_of("b"), key_of("a")};
  EXPECT_TRUE(is_error(session->lock_all(both, {.timeout = forever}), errc::deadlock));
  EXPECT_TRUE(is_error(session->try_lock(key_of("a")), errc::not_acquired));
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(session->lock(key_of("a"), {.timeout = forever}));
  const auto reader = the_locker().lock(key_of("a"), {.mode = Mode::shared});
  ASSERT_TRUE(reader);
  EXPECT_TRUE(session->lock(key_of("a"), {.mode = Mode::shared})) << "readers do not keep readers out";
  EXPECT_TRUE(is_error(session->lock(key_of("a")), errc::deadlock));
}

TEST_F(PostgresDedicated, a_namespace_is_kept) {
  const auto red = locker({}, R"(, "namespace": "red")");
  const auto session = dedicated_of(*red);
  const auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  EXPECT_NE(holder_of(key_of("a").prefixed("red").value()), "");
  const auto table = red->lock(key_of("b"));
  ASSERT_TRUE(table);
  EXPECT_TRUE(is_error(session->lock(key_of("b")), errc::deadlock));
}

TEST_F(PostgresDedicated, tokens_grow_with_those_of_the_table) {
  const auto fenced = locker(R"(, "fencing": true)");
  const auto session = dedicated_of(*fenced);
  std::uint64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    for (const bool table : {true, false}) {
      const auto held = table ? fenced->lock(key_of("a")) : session->lock(key_of("a"));
      ASSERT_TRUE(held);
      EXPECT_GT(held->fencing_token().value(), last);
      last = held->fencing_token().value();
      ASSERT_TRUE(const_cast<Releaser&>(*held).release());
    }
  }
}

TEST_F(PostgresDedicated, who_lists_what_it_holds) {
  const auto session = dedicated("painter");
  const auto held = session->lock(key_of("a"));
  ASSERT_TRUE(held);
  const Key key = key_of("a");
  const auto rows = the_locker().inspect(&key);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].label, "painter");
  EXPECT_EQ((*rows)[0].pid, ::getpid());
}

TEST_F(PostgresDedicated, many_keys_at_once) {
  const auto one = dedicated();
  const auto two = dedicated();
  const std::vector<Key> keys{key_of("a"), key_of("b"), key_of("c")};
  auto b = two->lock(keys[1]);
  ASSERT_TRUE(b);
  EXPECT_TRUE(is_error(one->lock_all(keys, {.timeout = 10ms}), errc::timeout));
  auto waiter = std::async(std::launch::async, [&] { return one->lock_all(keys, {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits));
  EXPECT_TRUE(b->release());
  const auto all = waiter.get();
  ASSERT_TRUE(all) << all.error().to_string();
  EXPECT_TRUE(is_error(two->try_lock_any(keys), errc::not_acquired));
}

// The server sees it, as each of the two waits on the connection that holds the other's key.
TEST_F(PostgresDedicated, a_cycle_of_two_sessions_is_a_deadlock_for_one) {
  const auto one = dedicated();
  const auto two = dedicated();
  auto a = one->lock(key_of("a"));
  auto b = two->lock(key_of("b"));
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  const auto want = [](Session& session, const char* name, Releaser& held) {
    auto got = session.lock(key_of(name), {.timeout = kPatience});
    if (!got) {
      EXPECT_TRUE(held.held()) << "what it holds stays";
      EXPECT_TRUE(held.release());
    }
    return got;
  };
  auto first = std::async(std::launch::async, [&] { return want(*one, "b", *a); });
  auto second = std::async(std::launch::async, [&] { return want(*two, "a", *b); });
  const auto for_one = first.get();
  const auto for_two = second.get();
  ASSERT_NE(for_one.has_value(), for_two.has_value());
  const Error& error = for_one ? for_two.error() : for_one.error();
  EXPECT_EQ(error.code(), errc::deadlock) << error.to_string();
  EXPECT_EQ(error.native(), "40P01");
  EXPECT_TRUE(error.retryable());
}

TEST_F(PostgresDedicated, a_foreign_queue_does_not_starve_it) {
  const auto session = dedicated();
  std::atomic<bool> over{false};
  std::vector<std::jthread> foreigners;
  for (int i = 0; i < 3; ++i) {
    foreigners.emplace_back([&] {
      Psql foreign(server().dsn());
      while (!over) {
        foreign.row("select pg_advisory_lock(" + bigint(key_of("a")) + ")");
        std::this_thread::sleep_for(1ms);
        foreign.row("select pg_advisory_unlock(" + bigint(key_of("a")) + ")");
      }
    });
  }
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(session->lock(key_of("a"), {.timeout = kPatience}));
  over = true;
}

}  // namespace
}  // namespace lockr::postgres
