// Thousands of keys on a handful of connections.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
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
using testing::open_postgres;
using testing::PostgresServer;
using testing::Psql;
using Clock = std::chrono::steady_clock;

constexpr auto kPatience = 60s;

Key key_of(const std::string& name) { return Key::from_scopes({"many", name}).value(); }

std::string connections(const PostgresServer& server) {
  return Psql(server.dsn()).row("select count(*) from pg_stat_activity where application_name like 'lockr/%'");
}

/// Holds 5,000 keys.
std::vector<Releaser> hold_many(Session& session) {
  constexpr int kBatch = 500;
  std::vector<Releaser> all;
  for (int first = 0; first < 5000; first += kBatch) {
    std::vector<Key> keys;
    for (int i = 0; i < kBatch; ++i) keys.push_back(key_of("held" + std::to_string(first + i)));
    auto some = session.lock_all(keys, {.timeout = kPatience});
    EXPECT_TRUE(some) << some.error().to_string();
    if (!some) return all;
    for (Releaser& each : *some) all.push_back(std::move(each));
  }
  return all;
}

TEST(PostgresMany, a_process_holds_5000_keys_and_waits_for_500_on_six_connections) {
  constexpr int kWaits = 500;
  PostgresServer server;
  const auto ours = open_postgres(server.dsn(), {}, R"(, "limits": {"held": 10000})");
  const auto session = ours->open_session();
  ASSERT_TRUE(session);
  const std::vector<Releaser> held = hold_many(**session);
  ASSERT_EQ(held.size(), 5000u);

  Psql foreign(server.dsn());
  for (int i = 0; i < kWaits; ++i) {
    foreign.row("select pg_advisory_lock(" + bigint(key_of("wanted" + std::to_string(i))) + ")");
  }
  std::vector<std::atomic<Clock::time_point>> granted(kWaits);
  std::vector<std::jthread> threads;
  for (int i = 0; i < kWaits; ++i) {
    threads.emplace_back([&, i] {
      const auto got = ours->lock(key_of("wanted" + std::to_string(i)), {.timeout = kPatience});
      EXPECT_TRUE(got) << got.error().to_string();
      granted[i] = Clock::now();
    });
  }
  ASSERT_TRUE(eventually([&] { return ours->stats().waiting == kWaits; }));
  EXPECT_EQ(connections(server), "6") << "2 lanes and 4 waiters";

  std::vector<Clock::time_point> freed(kWaits);
  for (int i = 0; i < kWaits; ++i) {
    freed[i] = Clock::now();
    foreign.row("select pg_advisory_unlock(" + bigint(key_of("wanted" + std::to_string(i))) + ")");
  }
  threads.clear();
  EXPECT_EQ(connections(server), "6");
  std::vector<double> waits;
  for (int i = 0; i < kWaits; ++i) {
    ASSERT_NE(granted[i].load(), Clock::time_point()) << i;
    waits.push_back(std::chrono::duration<double, std::milli>(granted[i].load() - freed[i]).count());
  }
  std::sort(waits.begin(), waits.end());
  std::printf("from the foreign release to the grant: median %.1f ms, p99 %.1f ms, most %.1f ms\n", waits[kWaits / 2],
              waits[kWaits * 99 / 100], waits.back());
  for (const Releaser& each : held) EXPECT_TRUE(each.held());
}

TEST(PostgresMany, a_foreign_client_in_the_queue_is_not_starved) {
  PostgresServer server;
  const auto ours = open_postgres(server.dsn());
  const Key key = key_of("hot");
  std::atomic<bool> over{false};
  std::atomic<int> turns{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto session = ours->open_session();
      while (!over) {
        if (const auto held = (*session)->lock(key, {.timeout = kPatience})) ++turns;
      }
    });
  }
  ASSERT_TRUE(eventually([&] { return turns > 100; }));
  Psql foreign(server.dsn());
  foreign.rows("set lock_timeout = '20s'");  // Ends the test if it starves.
  for (int i = 0; i < 20; ++i) {
    foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
    foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
  }
  over = true;
}

}  // namespace
}  // namespace lockr::postgres
