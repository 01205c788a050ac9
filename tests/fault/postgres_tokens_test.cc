// Fencing tokens of PostgreSQL over crashes of the server: those of a key grow, and none is given twice.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/postgres.h"
#include "tests/support/postgres_case.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::eventually;
using testing::is_error;
using testing::kPostgresPatience;
using testing::open_postgres;
using testing::PostgresServer;
using testing::Psql;

constexpr std::uint64_t kLeap = std::uint64_t{1} << 30;
// What of a token the sequence gives: the timeline stands above it, the number of the pass below.
std::uint64_t number_of(std::uint64_t token) { return token >> 10 & ((std::uint64_t{1} << 43) - 1); }
const std::string kFencing = R"(, "fencing": true)";
const std::string kPatient = R"(, "connect_timeout": "20s")";

Key key_of(const std::string& name) { return Key::parse(name).value(); }

/// A server that asks the disk for each flush, and waits 0.1 s before: a commit is seen long before it is safe.
std::vector<std::string> slow_flush() {
  return {"fsync=on", "commit_delay=100000", "commit_siblings=0", "wal_writer_delay=10s"};
}

/// Crashes, from within: one of its processes is killed, and it starts all others anew by itself.
void crash_by_a_process(PostgresServer& server) {
  Psql victim(server.dsn());
  Psql witness(server.dsn());
  ASSERT_EQ(::kill(victim.backend_pid(), SIGKILL), 0);
  ASSERT_TRUE(eventually([&] {
    PQclear(PQexec(witness.get(), "select 1"));
    return PQstatus(witness.get()) == CONNECTION_BAD;
  }));
  ASSERT_TRUE(eventually([&] { return PQping(server.dsn().c_str()) == PQPING_OK; }));
}

class PostgresTokens : public ::testing::Test {
 protected:
  explicit PostgresTokens(std::vector<std::string> settings = {}) : server_(std::move(settings)) {
    server_.prepare_fencing();
  }

  /// The number that the sequence gave to a lock.
  std::uint64_t draw(Locker& locker) {
    const auto held = locker.lock(key_of("one"), {.timeout = kPostgresPatience});
    if (!held) throw std::runtime_error(held.error().to_string());
    return number_of(held->fencing_token().value());
  }
  std::uint64_t last_value() {
    return std::stoull(Psql(server_.dsn()).row("select last_value from lockr.fencing_token"));
  }

  PostgresServer server_;
};

TEST_F(PostgresTokens, leap_once_after_a_crash_and_never_after_a_clean_stop) {
  const auto locker = open_postgres(server_.dsn(), kFencing, kPatient);
  std::uint64_t last = draw(*locker);
  EXPECT_EQ(draw(*locker), last + 1);
  server_.restart(true);
  const std::uint64_t restarted = draw(*locker);
  EXPECT_GT(restarted, last);
  EXPECT_LT(restarted, last + kLeap);
  last = restarted;
  for (const bool by_a_process : {true, false}) {
    if (by_a_process) {
      crash_by_a_process(server_);
    } else {
      server_.restart(false);
    }
    const std::uint64_t crashed = draw(*locker);
    EXPECT_GE(crashed, last + kLeap);
    EXPECT_LT(crashed, last + 2 * kLeap);
    last = crashed;
  }
}

TEST_F(PostgresTokens, leap_once_though_many_come_at_once) {
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t before = last_value();
    server_.restart(false);
    std::vector<std::future<std::unique_ptr<Locker>>> opened;
    for (int i = 0; i < 6; ++i) {
      opened.push_back(
          std::async(std::launch::async, [&] { return open_postgres(server_.dsn(), kFencing, kPatient); }));
    }
    for (auto& each : opened) EXPECT_GE(draw(*each.get()), before + kLeap);
    EXPECT_LT(last_value(), before + 2 * kLeap);
  }
}

// Who makes the leap waits for the disk before another may draw; when it ends without, the next one leaps.
TEST_F(PostgresTokens, are_not_drawn_while_another_has_not_leapt_to_the_end) {
  Psql(server_.dsn()).rows("truncate lockr.fencing_leapt");
  const std::uint64_t before = last_value();
  Psql other(server_.dsn());
  other.rows("begin");
  other.row("select lockr.fencing_leap()");
  auto opened = std::async(std::launch::async, [&] { return open_postgres(server_.dsn(), kFencing, kPatient); });
  ASSERT_TRUE(eventually([&] {
    return Psql(server_.dsn())
               .row(
                   "select count(*) from pg_stat_activity where application_name like 'lockr/%' and wait_event_type = "
                   "'Lock'") == "1";
  }));
  other.rows("rollback");
  EXPECT_GE(draw(*opened.get()), before + 2 * kLeap);
}

TEST_F(PostgresTokens, of_a_database_that_was_made_from_a_dump_leap) {
  { draw(*open_postgres(server_.dsn(), kFencing, kPatient)); }
  const std::uint64_t before = last_value();
  Psql(server_.dsn()).rows("create database copy template postgres");
  EXPECT_GE(draw(*open_postgres(server_.dsn("postgres", "copy"), kFencing, kPatient)), before + kLeap);
}

TEST_F(PostgresTokens, of_an_older_installation_need_init_once_more) {
  for (const char* sql : {"drop function lockr.fencing_leap()", "drop table lockr.fencing_leapt"}) {
    Psql(server_.dsn()).rows(sql);
    const auto config = LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"fencing": true, "dsn": ")" +
                                                server_.dsn() + "\"}}");
    ASSERT_TRUE(config);
    const auto opened = open(*config);
    ASSERT_TRUE(is_error(opened, errc::backend_failure));
    EXPECT_NE(opened.error().message().find("lockr postgres init"), std::string::npos) << opened.error().to_string();
    EXPECT_FALSE(opened.error().retryable());
    Psql(server_.dsn()).rows("select setval('lockr.fencing_token', 4711)");
    const auto made = init(*config);
    ASSERT_TRUE(made) << made.error().to_string();
    EXPECT_GT(draw(*open_postgres(server_.dsn(), kFencing, kPatient)), 4711U);
  }
}

class PostgresTokensSlowly : public PostgresTokens {
 protected:
  PostgresTokensSlowly() : PostgresTokens(slow_flush()) {}

  /// Draws for a key of its own, until the end.
  void work(Locker& locker, const Key& key) {
    const auto session = locker.open_session();
    ASSERT_TRUE(session);
    std::uint64_t last = 0;
    while (!over_) {
      const auto held = (*session)->lock(key, {.timeout = 1s});
      const auto token = held ? held->fencing_token() : fail(held.error());
      if (!token) continue;
      EXPECT_GT(*token, last) << key.string();
      last = *token;
      std::lock_guard lock(mutex_);
      if (!all_.insert(*token).second) ++repeated_;
      ++drawn_;
    }
  }

  std::atomic<bool> over_{false};
  std::atomic<int> drawn_{0};
  std::mutex mutex_;
  std::set<std::uint64_t> all_;
  int repeated_ = 0;
};

TEST_F(PostgresTokensSlowly, grow_over_crashes) {
  std::vector<std::unique_ptr<Locker>> lockers;
  for (int i = 0; i < 4; ++i) {
    lockers.push_back(open_postgres(server_.dsn(), R"(, "fencing": true, "lanes": 4, "waiters": 1)", kPatient));
  }
  std::vector<std::jthread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] { work(*lockers.at(i / 4), key_of("key " + std::to_string(i))); });
  }
  for (int crash = 0; crash < 6; ++crash) {
    const int before = drawn_;
    EXPECT_TRUE(eventually([&] { return drawn_ > before + 300; }));
    if (crash % 2 == 0) {
      crash_by_a_process(server_);
    } else {
      server_.restart(false);
    }
  }
  const int before = drawn_;
  EXPECT_TRUE(eventually([&] { return drawn_ > before + 300; }));
  over_ = true;
  threads.clear();
  EXPECT_EQ(repeated_, 0) << "of " << drawn_;
}

}  // namespace
}  // namespace lockr::postgres
