// What happens to locks held through PostgreSQL when others are at work there: foreign clients, administrators, a full
// lock table, a server that stops answering.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::bigint;
using testing::eventually;
using testing::PostgresServer;
using testing::Psql;

constexpr auto kPatience = testing::kPostgresPatience;

Key key_of(const std::string& name) { return Key::from_scopes({"locks", name}).value(); }

/// One server for all cases; each ends with no advisory lock left on it.
class PostgresLocks : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<PostgresServer>(
        std::vector<std::string>{"max_connections=40", "max_locks_per_transaction=10", "max_prepared_transactions=0"});
    server_->prepare_fencing();
  }
  static void TearDownTestSuite() { server_.reset(); }
  void TearDown() override { EXPECT_TRUE(nothing_is_locked()); }

  /// To be asked while the lockers are open: their end gives everything back.
  static ::testing::AssertionResult nothing_is_locked() {
    if (eventually([] { return server_->advisory_locks().empty(); })) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << server_->advisory_locks().size() << " locks, "
                                         << server_->advisory_locks()[0];
  }

  static PostgresServer& server() { return *server_; }
  static std::unique_ptr<Locker> locker(const std::string& fields = {}, const std::string& top = {}) {
    return testing::open_postgres(server_->dsn(), fields, top);
  }
  /// The server's processes that serve lockr.
  static std::vector<int> backends() {
    std::vector<int> pids;
    for (const std::string& pid :
         Psql(server_->dsn()).rows("select pid from pg_stat_activity where application_name like 'lockr/%'")) {
      pids.push_back(std::stoi(pid));
    }
    return pids;
  }

 private:
  static std::unique_ptr<PostgresServer> server_;
};
std::unique_ptr<PostgresServer> PostgresLocks::server_;

// ---- foreign clients

TEST_F(PostgresLocks, a_foreign_client_and_we_exclude_each_other) {
  const auto ours = locker();
  Psql foreign(server().dsn());
  const Key key = key_of("interop");
  const std::string number = bigint(key);
  foreign.row("select pg_advisory_lock(" + number + ")");
  EXPECT_EQ(ours->try_lock(key).error().code(), errc::not_acquired);
  EXPECT_EQ(ours->try_lock(key, Mode::shared).error().code(), errc::not_acquired);
  EXPECT_EQ(ours->lock(key, {.timeout = 30ms}).error().code(), errc::timeout);
  auto waiter = std::async(std::launch::async, [&] { return ours->lock(key, {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return ours->stats().waiting == 1; }));
  foreign.row("select pg_advisory_unlock(" + number + ")");
  auto held = waiter.get();
  ASSERT_TRUE(held) << held.error().to_string();
  EXPECT_EQ(foreign.row("select pg_try_advisory_lock(" + number + ")"), "f");
  EXPECT_TRUE(held->release());
  EXPECT_EQ(foreign.row("select pg_try_advisory_lock(" + number + ")"), "t");
  EXPECT_EQ(foreign.row("select pg_advisory_unlock(" + number + ")"), "t");
  const auto shared = ours->lock(key, {.mode = Mode::shared});
  ASSERT_TRUE(shared);
  EXPECT_EQ(foreign.row("select pg_try_advisory_lock_shared(" + number + ")"), "t");
  EXPECT_EQ(foreign.row("select pg_advisory_unlock_shared(" + number + ")"), "t");
}

TEST_F(PostgresLocks, the_number_of_a_key_is_the_published_one) {
  const auto ours = locker();
  const auto held = ours->lock({"tenant", "42", "invoice"});
  ASSERT_TRUE(held);
  const auto listed = server().advisory_locks();
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_TRUE(listed[0].starts_with("held: -3583285275511122158|ExclusiveLock|")) << listed[0] << "; see docs/keys.md";
}

TEST_F(PostgresLocks, a_foreign_queue_and_we_both_get_turns) {
  const auto ours = locker();
  const Key key = key_of("queue");
  std::atomic<bool> over{false};
  std::atomic<int> foreign_turns{0};
  std::vector<std::jthread> foreigners;
  for (int i = 0; i < 3; ++i) {
    foreigners.emplace_back([&] {
      Psql foreign(server().dsn());
      while (!over) {
        foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
        ++foreign_turns;
        std::this_thread::sleep_for(1ms);
        foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    const int before = foreign_turns;
    ASSERT_TRUE(ours->lock(key, {.timeout = kPatience}));
    EXPECT_TRUE(eventually([&] { return foreign_turns > before; }));
  }
  over = true;
}

TEST_F(PostgresLocks, who_lists_foreign_clients_beside_ours) {
  const auto ours = locker();
  const auto theirs = locker();
  Psql foreign(server().dsn() + " application_name=reports");
  const Key key = key_of("who");
  foreign.row("select pg_advisory_lock_shared(" + bigint(key) + ")");
  const auto session = theirs->open_session({.label = "painter"});
  ASSERT_TRUE(session);
  const auto held = (*session)->lock(key, {.mode = Mode::shared});
  ASSERT_TRUE(held);
  const auto rows = ours->inspect(&key);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].label, "painter");
  EXPECT_EQ((*rows)[0].pid, ::getpid());
  EXPECT_EQ((*rows)[1].label, "reports");
  EXPECT_EQ((*rows)[1].pid, 0);
  for (const Holder& row : *rows) {
    EXPECT_EQ(row.key, key.string());
    EXPECT_EQ(row.mode, Mode::shared);
    EXPECT_FALSE(row.waiting);
  }
  const auto all = ours->inspect();
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[1].key, key.string()) << "named by whoever else has it";
  const Key unnamed = key_of("unnamed");
  foreign.row("select pg_advisory_lock(" + bigint(unnamed) + ")");
  const auto more = ours->inspect();
  ASSERT_TRUE(more);
  EXPECT_EQ(
      std::count_if(more->begin(), more->end(), [&](const Holder& row) { return row.key == "#" + bigint(unnamed); }),
      1);
}

TEST_F(PostgresLocks, who_shows_a_silent_holder_by_what_the_server_knows) {
  const auto ours = locker();
  const auto theirs = locker(R"(, "waiters": 0, "lanes": 1)");
  const Key key = key_of("silent holder");
  const auto held = theirs->lock(key);
  ASSERT_TRUE(held);
  const auto holder = Psql(server().dsn()).row("select pid from pg_locks where locktype = 'advisory'");
  ::kill(std::stoi(holder), SIGSTOP);
  const auto rows = ours->inspect(&key);
  ::kill(std::stoi(holder), SIGCONT);
  ASSERT_TRUE(rows) << rows.error().to_string();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].pid, ::getpid());
  EXPECT_EQ((*rows)[0].label, "");
}

TEST_F(PostgresLocks, who_tells_since_when) {
  const auto now = [] { return std::chrono::system_clock::now(); };
  const auto ours = locker();
  const auto theirs = locker();
  Psql foreign(server().dsn() + " application_name=reports");
  const Key key = key_of("since");
  const auto start = now();
  foreign.rows("set lock_timeout = '20s'");
  auto held = theirs->lock(key);
  ASSERT_TRUE(held);
  auto waiter = std::async(std::launch::async, [&] { return theirs->lock(key, {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return theirs->stats().waiting == 1; }));
  auto other = std::async(std::launch::async,
                          [&] { return foreign.row("select pg_advisory_lock(" + bigint(key) + ") is null"); });
  ASSERT_TRUE(eventually([&] { return server().advisory_locks().size() == 2; }));
  for (Locker* const asked : {ours.get(), theirs.get()}) {
    const auto rows = asked->inspect(&key);
    ASSERT_TRUE(rows) << rows.error().to_string();
    ASSERT_EQ(rows->size(), 3u);
    for (const Holder& row : *rows) {
      ASSERT_TRUE(row.since) << row.label;
      EXPECT_GE(*row.since, start - 1s) << row.label;
      EXPECT_LE(*row.since, now() + 1s) << row.label;
    }
  }
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(waiter.get());
  other.get();
}

// ---- beside a database at work

// It waits for every transaction that might see the table; one that waits for a lock with a snapshot is such a one.
TEST_F(PostgresLocks, a_long_wait_lets_create_index_concurrently_end) {
  const auto ours = locker();
  Psql foreign(server().dsn());
  Psql builder(server().dsn());
  const Key key = key_of("index");
  foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
  auto waiter = std::async(std::launch::async, [&] { return ours->lock(key, {.timeout = 2 * kPatience}); });
  ASSERT_TRUE(eventually([&] { return server().advisory_locks().size() == 2; }));
  builder.rows("create table things (n int)");
  builder.rows("set statement_timeout = '20s'");  // Ends the test if it does not.
  builder.rows("create index concurrently things_n on things (n)");
  EXPECT_EQ(waiter.wait_for(0s), std::future_status::timeout);
  foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
  EXPECT_TRUE(waiter.get());
}

// ---- the budget

TEST_F(PostgresLocks, many_contended_keys_wait_on_few_connections) {
  constexpr int kKeys = 60;
  const auto ours = locker();
  Psql foreign(server().dsn());
  std::vector<std::jthread> threads;
  std::atomic<int> granted{0};
  for (int i = 0; i < kKeys; ++i) {
    foreign.row("select pg_advisory_lock(" + bigint(key_of("many" + std::to_string(i))) + ")");
  }
  for (int i = 0; i < kKeys; ++i) {
    threads.emplace_back([&, i] {
      const auto held = ours->lock(key_of("many" + std::to_string(i)), {.timeout = kPatience});
      EXPECT_TRUE(held) << held.error().to_string();
      ++granted;
    });
  }
  ASSERT_TRUE(eventually([&] { return ours->stats().waiting == kKeys; }));
  EXPECT_EQ(backends().size(), 6u);
  for (int i = 0; i < kKeys; ++i) {
    foreign.row("select pg_advisory_unlock(" + bigint(key_of("many" + std::to_string(i))) + ")");
    EXPECT_TRUE(eventually([&] { return granted == i + 1; }));
  }
  threads.clear();
  EXPECT_EQ(backends().size(), 6u);
}

TEST_F(PostgresLocks, without_waiters_every_wait_is_polled) {
  const auto ours = locker(R"(, "waiters": 0, "lanes": 1)");
  Psql foreign(server().dsn());
  const Key key = key_of("polled");
  foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
  auto waiter = std::async(std::launch::async, [&] { return ours->lock(key, {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return ours->stats().waiting == 1; }));
  EXPECT_EQ(backends().size(), 1u);
  foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
  EXPECT_TRUE(waiter.get());
}

// ---- administrators

/// Turns that one gives and many take.
class Turns {
 public:
  void give(int count) {
    std::lock_guard lock(mutex_);
    left_ += count;
    open_ += count;
    given_.notify_all();
  }
  /// Waits for one. False: it is to stop.
  bool take(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    return given_.wait(lock, stop, [this] { return left_ > 0; }) && left_-- > 0;
  }
  void done() {
    std::lock_guard lock(mutex_);
    --open_;
  }
  bool all_done() {
    std::lock_guard lock(mutex_);
    return open_ == 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any given_;
  int left_ = 0;
  int open_ = 0;
};

// Cancelled statements of all kinds: what was not granted is not held, what was released is not held. Who fights waits
// for the administrator: beside threads that wake each other without end, schedulers of Linux were seen to keep others
// from running for seconds, the processes that PostgreSQL makes for connections among them.
TEST_F(PostgresLocks, cancelled_statements_leave_nothing_behind) {
  const auto ours = locker();
  const auto theirs = locker();
  Psql administrator(server().dsn());
  Turns turns;
  std::atomic<int> granted{0};
  std::atomic<int> in_it{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i](const std::stop_token& stop) {
      Locker& mine = i % 2 == 0 ? *ours : *theirs;
      while (turns.take(stop)) {
        if (const auto held = mine.lock(key_of("cancel"), {.timeout = 500ms})) {
          EXPECT_EQ(++in_it, 1);
          ++granted;
          --in_it;
        }
        turns.done();
      }
    });
  }
  const std::string cancel =
      "select pg_cancel_backend(pid) from pg_stat_activity where application_name like 'lockr/%'";
  const std::string key = bigint(key_of("cancel"));
  for (int round = 0; round < 200 && !HasFailure(); ++round) {
    administrator.rows("select pg_advisory_lock(" + key + ")");
    turns.give(40);
    // Somebody waits at the server, and is cancelled; then all fight.
    EXPECT_TRUE(eventually([&] {
      return administrator.row("select count(*) from pg_locks where locktype = 'advisory' and not granted") != "0";
    }));
    administrator.rows(cancel);
    administrator.rows("select pg_advisory_unlock(" + key + ")");
    EXPECT_TRUE(eventually([&] {
      for (int i = 0; i < 5; ++i) administrator.rows(cancel);
      return turns.all_done();
    }));
  }
  EXPECT_NE(server().directory().read("server.log").find("canceling statement due to user request"), std::string::npos)
      << "nothing was cancelled";
  EXPECT_TRUE(eventually([&, before = granted.load()] {
    if (turns.all_done()) turns.give(4);
    return granted > before + 20;
  }));
  threads.clear();
  EXPECT_TRUE(ours->lock(key_of("cancel"), {.timeout = kPatience}));
  EXPECT_TRUE(theirs->lock(key_of("cancel"), {.timeout = kPatience}));
  EXPECT_TRUE(nothing_is_locked());
}

TEST_F(PostgresLocks, a_terminated_session_is_told_with_its_sqlstate) {
  const auto ours = locker();
  auto held = ours->lock(key_of("terminated"));
  ASSERT_TRUE(held);
  server().terminate_clients();
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  const auto released = held->release();
  ASSERT_FALSE(released);
  EXPECT_EQ(released.error().code(), errc::lock_lost);
  EXPECT_NE(released.error().message().find("terminating connection due to administrator command"), std::string::npos)
      << released.error().message();
  EXPECT_TRUE(ours->lock(key_of("terminated"), {.timeout = kPatience}));
}

// Half of the statements in flight are long ones, of many keys.
TEST_F(PostgresLocks, cancelled_batches_leave_nothing_behind) {
  const auto ours = locker(R"(, "lanes": 1, "waiters": 0)");
  std::atomic<bool> over{false};
  std::atomic<int> granted{0};
  std::jthread worker([&] {
    std::vector<Key> keys;
    for (int i = 0; i < 60; ++i) keys.push_back(key_of("batch" + std::to_string(i)));
    while (!over) {
      const auto session = ours->open_session();
      ASSERT_TRUE(session);
      if (const auto held = (*session)->lock_all(keys, {.timeout = 500ms})) {
        ++granted;
        const Status closed = (*session)->close();
        EXPECT_TRUE(closed) << closed.error().to_string();
      }
    }
  });
  Psql administrator(server().dsn());
  const std::string cancel = "select pg_cancel_backend(" + std::to_string(backends().at(0)) + ")";
  for (int round = 0; round < 5000; ++round) administrator.row(cancel);
  EXPECT_TRUE(eventually([&, before = granted.load()] { return granted > before + 5; }));
  over = true;
  worker.join();
  EXPECT_TRUE(nothing_is_locked());
}

/// As long as it lives, a function of the test's own is the server's pg_advisory_unlock(int8) for whoever connects
/// anew. `body`: plpgsql, in which `real_unlock` is the server's.
class UnlockInstead {
 public:
  UnlockInstead(Psql& administrator, const std::string& body) : administrator_(administrator) {
    administrator_.rows("alter function pg_catalog.pg_advisory_unlock(int8) rename to real_unlock");
    administrator_.rows("create function pg_catalog.pg_advisory_unlock(k int8) returns bool language plpgsql as $$ " +
                        body + " $$");
  }
  UnlockInstead(const UnlockInstead&) = delete;
  UnlockInstead& operator=(const UnlockInstead&) = delete;
  ~UnlockInstead() {
    administrator_.rows("drop function pg_catalog.pg_advisory_unlock(int8)");
    administrator_.rows("alter function pg_catalog.real_unlock(int8) rename to pg_advisory_unlock");
  }

 private:
  Psql& administrator_;
};

// A release that is answered with an error may have happened, and is sent again, while a take of the same key is on its
// way behind it: the second release must not give back what that took. The first release is slow and fails, before or
// after it has happened.
TEST_F(PostgresLocks, a_release_that_is_sent_again_gives_back_no_later_grant) {
  Psql administrator(server().dsn());
  administrator.rows("create schema faulty");
  administrator.rows("create sequence faulty.calls");
  administrator.rows("create table faulty.released_first (yes bool)");
  const auto theirs = locker();
  const UnlockInstead faulty(administrator,
                             "declare given bool; begin "
                             "if nextval('faulty.calls') <> 1 then return real_unlock(k); end if; "
                             "if (select yes from faulty.released_first) then given := real_unlock(k); end if; "
                             "perform pg_sleep(0.2); raise exception sqlstate '57014'; end");
  for (const char* released_first : {"true", "false"}) {
    administrator.rows("truncate faulty.released_first");
    administrator.rows(std::string("insert into faulty.released_first values (") + released_first + ")");
    administrator.rows("alter sequence faulty.calls restart");
    const auto ours = testing::open_postgres(server().dsn(), R"(, "lanes": 1, "waiters": 0)");
    const Key key = key_of("sent again");
    { ASSERT_TRUE(ours->lock(key)); }  // The destructor does not wait for the answer.
    auto next = ours->lock(key, {.timeout = kPatience});
    ASSERT_EQ(administrator.row("select is_called from faulty.calls"), "t");
    if (!next) {
      EXPECT_EQ(next.error().native(), "57014") << next.error().to_string();
      EXPECT_TRUE(eventually([] { return server().advisory_locks().empty(); })) << "what failed is not held";
      next = ours->lock(key, {.timeout = kPatience});
    }
    ASSERT_TRUE(next) << next.error().to_string();
    ASSERT_TRUE(ours->try_lock(key_of("another"))) << "all that was sent before is answered";
    EXPECT_EQ(theirs->try_lock(key).error().code(), errc::not_acquired) << "granted, and not held at the server";
    const Status released = next->release();
    EXPECT_TRUE(released) << released.error().to_string();
    EXPECT_TRUE(theirs->try_lock(key)) << "held once too often";
  }
  administrator.rows("drop schema faulty cascade");
}

class Ears final : public Observer {
 public:
  void on_event(const Event& event) noexcept override {
    if (event.kind == Event::Kind::not_released) ++not_released;
  }
  std::atomic<int> not_released{0};
};

// The server gives back, and says that there was nothing.
TEST_F(PostgresLocks, what_the_server_says_was_not_held_is_not_released) {
  Psql administrator(server().dsn());
  const UnlockInstead denying(administrator, "begin perform real_unlock(k); return false; end");
  const auto ears = std::make_shared<Ears>();
  const auto ours = testing::open_postgres(server().dsn(), R"(, "lanes": 1, "waiters": 0)", {}, {.observer = ears});
  for (const bool dedicated : {false, true}) {
    const auto session = ours->open_session({.dedicated = dedicated});
    ASSERT_TRUE(session);
    auto held = (*session)->lock(key_of("denied"));
    ASSERT_TRUE(held);
    const Status released = held->release();
    ASSERT_FALSE(released);
    EXPECT_EQ(released.error().code(), errc::not_released);
    EXPECT_EQ(released.error().native(), "pg_advisory_unlock returned false");
    EXPECT_TRUE(held->release()) << "told once";
  }
  { ASSERT_TRUE(ours->lock(key_of("denied"))); }  // A destructor has no other way to tell.
  EXPECT_TRUE(eventually([&] { return ears->not_released == 1; }));
}

TEST_F(PostgresLocks, a_grant_that_gets_no_token_is_given_back) {
  Psql administrator(server().dsn());
  administrator.rows("create role weak login");
  administrator.rows("grant usage on schema lockr to weak");
  administrator.rows("grant usage on sequence lockr.fencing_token to weak");
  auto config = LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"fencing": true, "dsn": ")" +
                                        server().dsn("weak") + "\"}}");
  ASSERT_TRUE(config);
  const auto ours = open(*config);
  ASSERT_TRUE(ours) << ours.error().to_string();
  administrator.rows("revoke usage on sequence lockr.fencing_token from weak");
  const Key key = key_of("token");
  const auto denied = [&](const Result<Releaser>& result) {
    return !result && result.error().code() == errc::access_denied && result.error().native() == "42501";
  };
  EXPECT_TRUE(denied((*ours)->try_lock(key)));
  EXPECT_TRUE(denied((*ours)->try_lock(key, Mode::shared)));
  EXPECT_TRUE(server().advisory_locks().empty());
  administrator.row("select pg_advisory_lock(" + bigint(key) + ")");
  auto waiter = std::async(std::launch::async, [&] { return (*ours)->lock(key, {.timeout = kPatience}); });
  ASSERT_TRUE(eventually([&] { return server().advisory_locks().size() == 2; }));
  administrator.row("select pg_advisory_unlock(" + bigint(key) + ")");
  EXPECT_TRUE(denied(waiter.get()));
  EXPECT_TRUE(server().advisory_locks().empty());
  administrator.rows("grant usage on sequence lockr.fencing_token to weak");
  EXPECT_TRUE((*ours)->try_lock(key));
}

// ---- limits of the server

TEST_F(PostgresLocks, a_full_lock_table_is_capacity_and_the_batch_is_given_back) {
  const auto ours = locker({}, R"(, "limits": {"held": 100000})");
  const auto session = ours->open_session();
  ASSERT_TRUE(session);
  std::vector<Releaser> held;
  std::optional<Error> full;
  for (int batch = 0; batch < 400 && !full; ++batch) {
    std::vector<Key> keys;
    for (int i = 0; i < 50; ++i) keys.push_back(key_of("full" + std::to_string(batch * 50 + i)));
    auto some = (*session)->lock_all(keys, {.timeout = 0s});
    if (!some) {
      full = some.error();
      break;
    }
    for (Releaser& each : *some) held.push_back(std::move(each));
  }
  ASSERT_TRUE(full) << held.size() << " keys are held";
  EXPECT_GT(held.size(), 0u);
  for (const Releaser& each : held) EXPECT_TRUE(each.held());
  // Room for those who look: they need some locks, too.
  for (int i = 0; i < 100 && !held.empty(); ++i) held.pop_back();
  const auto held_at_the_server = [] {
    try {
      return server().advisory_locks().size();
    } catch (const std::runtime_error&) {
      return std::size_t{0};
    }
  };
  ASSERT_TRUE(eventually([&] { return held_at_the_server() == held.size(); }))
      << held_at_the_server() << " instead of " << held.size();
  EXPECT_EQ(full->code(), errc::capacity) << full->to_string();
  EXPECT_EQ(full->native(), "53200");
  EXPECT_TRUE(full->retryable());
  EXPECT_TRUE((*session)->try_lock(key_of("again")));
}

// What a wait looks up between two slices needs no room in the table.
TEST_F(PostgresLocks, a_wait_survives_a_full_lock_table) {
  const auto ours = locker(R"(, "lanes": 1, "waiters": 0)");
  const auto session = ours->open_session({.dedicated = true});
  ASSERT_TRUE(session);
  const auto held = (*session)->lock(key_of("held"));
  ASSERT_TRUE(held);
  Psql foreign(server().dsn());
  Psql filler(server().dsn());
  const Key key = key_of("wanted");
  foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
  auto waiter = std::async(std::launch::async, [&] { return (*session)->lock(key, {.timeout = 2 * kPatience}); });
  ASSERT_TRUE(eventually([&] { return server().advisory_locks().size() == 3; }));
  EXPECT_THROW(filler.rows("select pg_advisory_lock(1, n) from generate_series(1, 100000) n"), std::runtime_error);
  // Two slices of a dedicated session that holds something.
  EXPECT_EQ(waiter.wait_for(3500ms), std::future_status::timeout);
  EXPECT_FALSE(held->lost());
  foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
  const auto got = waiter.get();
  EXPECT_TRUE(got) << got.error().to_string();
  EXPECT_FALSE(held->lost());
}

TEST_F(PostgresLocks, a_server_without_a_connection_left_is_capacity) {
  std::vector<std::unique_ptr<Psql>> all;
  try {
    for (int i = 0; i < 100; ++i) all.push_back(std::make_unique<Psql>(server().dsn()));
  } catch (const std::runtime_error&) {
    // As many as there are.
  }
  ASSERT_LT(all.size(), 100u);
  const auto config =
      LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + server().dsn() + "\"}}");
  const auto refused = open(config.value());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), errc::capacity) << refused.error().to_string();
  EXPECT_EQ(refused.error().native(), "53300");
  EXPECT_TRUE(refused.error().retryable());
  const auto room = all.size() - 6;
  all.resize(room);
  ASSERT_TRUE(eventually([&] { return open(config.value()).has_value(); })) << "lanes + waiters are six";
}

// ---- a server that stops answering

TEST_F(PostgresLocks, a_stopped_server_keeps_no_caller_beyond_its_time) {
  const auto ours = locker({}, R"(, "reply_timeout": "300ms")");
  auto held = ours->lock(key_of("stopped"));
  ASSERT_TRUE(held);
  const std::vector<int> pids = backends();
  for (const int pid : pids) ::kill(pid, SIGSTOP);
  const auto tried = ours->try_lock(key_of("other"));
  ASSERT_FALSE(tried);
  EXPECT_EQ(tried.error().code(), errc::connection_lost) << tried.error().to_string();
  const auto waited = ours->lock(key_of("another"), {.timeout = 100ms});
  if (!waited) {
    EXPECT_TRUE(waited.error().code() == errc::connection_lost || waited.error().code() == errc::timeout);
  }
  for (const int pid : pids) ::kill(pid, SIGCONT);
  EXPECT_TRUE(ours->lock(key_of("other"), {.timeout = kPatience}));
  (void)held->release();
  EXPECT_TRUE(ours->lock(key_of("stopped"), {.timeout = kPatience}));
}

TEST_F(PostgresLocks, a_silent_server_loses_the_lock_by_its_session_ttl) {
  const auto ours = locker(R"(, "session_ttl": "1s", "lanes": 1)");
  const auto theirs = locker();
  const auto held = ours->lock(key_of("silent"));
  ASSERT_TRUE(held);
  ASSERT_TRUE(held->valid_until());
  EXPECT_LE(*held->valid_until(), BootClock::now() + 1s);
  const auto stopped = Psql(server().dsn()).rows("select pid from pg_locks where locktype = 'advisory'");
  ASSERT_EQ(stopped.size(), 1u);
  ::kill(std::stoi(stopped[0]), SIGSTOP);
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  EXPECT_EQ(theirs->try_lock(key_of("silent")).error().code(), errc::not_acquired) << "we are to know it first";
  ::kill(std::stoi(stopped[0]), SIGCONT);
  EXPECT_TRUE(theirs->lock(key_of("silent"), {.timeout = kPatience}));
  EXPECT_TRUE(held->lost()) << "what was told does not change";
}

}  // namespace
}  // namespace lockr::postgres
