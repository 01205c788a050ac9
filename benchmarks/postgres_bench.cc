// What does a lock of PostgreSQL cost through lockr, against libpq by hand? One private server, unix socket, all peers
// in one run: two prepared statements on one connection, the habit of a ping before each, a connection for each thread,
// and waiting in pg_advisory_lock.
#include <benchmark/benchmark.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "crowd.h"
#include "lockr/lockr.h"
#include "postgres_peers.h"
#include "report.h"

namespace {

using lockr::Key;
using lockr::Locker;
using lockr::Session;
using lockr::bench::Bare;
using lockr::bench::give_up;
using lockr::bench::Placement;
using lockr::bench::server_dsn;

constexpr std::size_t kKeys = 100;  // Of each thread, in turn.
constexpr std::size_t kMany = 64;

Locker& locker() {
  static const auto opened = lockr::bench::open_postgres(server_dsn());
  return *opened;
}

Bare& bare(std::size_t number = 0) {
  static std::vector<std::unique_ptr<Bare>> all;
  while (all.size() <= number) all.push_back(std::make_unique<Bare>(server_dsn()));
  return *all[number];
}

std::vector<Key> keys_of(std::size_t thread, std::size_t count = kKeys) {
  std::vector<Key> keys;
  for (std::size_t i = 0; i < count; ++i) {
    keys.push_back(Key::from_scopes({"bench", std::to_string(thread), std::to_string(i)}).value());
  }
  return keys;
}

std::int64_t bare_key(std::size_t thread, std::size_t i) { return static_cast<std::int64_t>(thread * 1000 + i); }

enum class End { release, destroy };

// A cycle over the thread's own keys.
auto lockr_cycle(std::size_t thread, End end) {
  std::shared_ptr<Session> session = locker().open_session().value();
  return [session, keys = keys_of(thread), end, i = std::size_t{0}]() mutable {
    auto held = session->lock(keys[i++ % kKeys]);
    if (!held) give_up(held.error().to_string());
    if (end == End::destroy) return;
    if (auto released = held->release(); !released) give_up(released.error().to_string());
  };
}

auto bare_cycle(std::size_t thread, bool pings) {
  return [&connection = bare(thread), thread, pings, i = std::size_t{0}]() mutable {
    const std::int64_t key = bare_key(thread, i++ % kKeys);
    if (pings) connection.ping();
    if (!connection.try_lock(key)) give_up("somebody holds a key of this benchmark");
    if (pings) connection.ping();
    connection.unlock(key);
  };
}

// ---- one thread

void count_cycles(benchmark::State& state) {
  state.counters["cycles_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

template <class Cycle>
void one_thread(benchmark::State& state, Placement placement, const std::vector<int>& server_pids, Cycle cycle) {
  lockr::bench::place(placement, server_pids);
  for (int i = 0; i < 20; ++i) cycle();
  for (auto _ : state) cycle();
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server_pids);
}

void lockr_thread(benchmark::State& state, Placement placement, End end) {
  auto cycle = lockr_cycle(0, end);
  one_thread(state, placement, lockr::bench::lockr_server_pids(server_dsn()), cycle);
}

void bare_thread(benchmark::State& state, Placement placement, bool pings) {
  auto cycle = bare_cycle(0, pings);
  one_thread(state, placement, {bare().server_pid()}, cycle);
}

void register_one_thread(const std::string& where, Placement placement) {
  const auto add = [&](const std::string& name, auto body) {
    benchmark::RegisterBenchmark((name + "/" + where).c_str(), body)->UseRealTime();
  };
  add("lockr_release", [=](benchmark::State& state) { lockr_thread(state, placement, End::release); });
  add("lockr_destructor", [=](benchmark::State& state) { lockr_thread(state, placement, End::destroy); });
  add("libpq", [=](benchmark::State& state) { bare_thread(state, placement, false); });
  add("libpq_pings", [=](benchmark::State& state) { bare_thread(state, placement, true); });
}

// ---- many threads

template <class MakeCycle>
void crowd(const std::string& name, std::size_t threads, MakeCycle make_cycle) {
  const std::chrono::milliseconds span{lockr::bench::quick() ? 100 : 700};
  const auto body = [=](benchmark::State& state) {
    for (auto _ : state) {
      const lockr::bench::Crowd all = lockr::bench::run_crowd(threads, span, make_cycle);
      state.SetIterationTime(std::chrono::duration<double>(span).count());
      state.counters["cycles_per_s"] = all.cycles_per_s;
      state.counters["worst_share"] = all.worst_share;
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), body)->Iterations(1)->UseManualTime();
}

void register_crowds() {
  for (const std::size_t threads : {4, 64}) {
    const std::string count = "/" + std::to_string(threads) + "_threads";
    crowd("lockr_release" + count, threads, [](std::size_t i) { return lockr_cycle(i, End::release); });
    crowd("lockr_destructor" + count, threads, [](std::size_t i) { return lockr_cycle(i, End::destroy); });
    bare(threads - 1);  // All are connected before any of them runs.
    crowd("libpq" + count, threads, [](std::size_t i) { return bare_cycle(i, false); });
  }
  crowd("lockr_hot_key", 8, [](std::size_t) {
    std::shared_ptr<Session> session = locker().open_session().value();
    return [session, key = Key::parse("bench:hot").value()] {
      auto held = session->lock(key);
      if (!held) give_up(held.error().to_string());
    };
  });
  crowd("libpq_hot_key", 8, [](std::size_t i) {
    return [&connection = bare(i)] {
      connection.lock(-1);
      connection.unlock(-1);
    };
  });
}

// ---- many keys

// Times the locking alone: what it then takes to give all back is not the question.
template <class Lock, class Unlock>
void lock_many(benchmark::State& state, const std::vector<int>& server_pids, Lock lock, Unlock unlock) {
  lockr::bench::place(Placement::apart, server_pids);
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    auto held = lock();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    unlock(held);
    state.SetIterationTime(took.count());
  }
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server_pids);
}

void lockr_many(benchmark::State& state) {
  const std::vector<Key> keys = keys_of(0, kMany);
  const auto session = locker().open_session().value();
  lock_many(
      state, lockr::bench::lockr_server_pids(server_dsn()), [&] { return session->lock_all(keys); },
      [](auto& held) {
        if (!held) give_up(held.error().to_string());
        for (lockr::Releaser& each : *held) {
          if (auto released = each.release(); !released) give_up(released.error().to_string());
        }
      });
}

void bare_many(benchmark::State& state) {
  const auto lock = [] {
    for (std::size_t i = 0; i < kMany; ++i) {
      if (!bare().try_lock(bare_key(0, i))) give_up("somebody holds a key of this benchmark");
    }
    return 0;
  };
  const auto unlock = [](int) {
    for (std::size_t i = 0; i < kMany; ++i) bare().unlock(bare_key(0, i));
  };
  lock_many(state, {bare().server_pid()}, lock, unlock);
}

// Locks and gives back, everything in as few round trips as there is a call for.
void lockr_many_cycle(benchmark::State& state) {
  const std::vector<int> server_pids = lockr::bench::lockr_server_pids(server_dsn());
  const std::vector<Key> keys = keys_of(0, kMany);
  lockr::bench::place(Placement::apart, server_pids);
  for (auto _ : state) {
    const auto session = locker().open_session().value();
    auto held = session->lock_all(keys);
    if (!held) give_up(held.error().to_string());
    if (auto closed = session->close(); !closed) give_up(closed.error().to_string());
  }
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server_pids);
}

void bare_many_cycle(benchmark::State& state) {
  const std::vector<int> server_pids{bare().server_pid()};
  lockr::bench::place(Placement::apart, server_pids);
  for (auto _ : state) {
    for (std::size_t i = 0; i < kMany; ++i) bare().try_lock(bare_key(0, i));
    for (std::size_t i = 0; i < kMany; ++i) bare().unlock(bare_key(0, i));
  }
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server_pids);
}

void register_all() {
  register_one_thread("apart", Placement::apart);
  register_one_thread("together", Placement::together);
  register_crowds();
  benchmark::RegisterBenchmark("lockr_lock_all_64", lockr_many)->UseManualTime();
  benchmark::RegisterBenchmark("libpq_lock_64", bare_many)->UseManualTime();
  benchmark::RegisterBenchmark("lockr_lock_all_64_close", lockr_many_cycle)->UseRealTime();
  benchmark::RegisterBenchmark("libpq_lock_64_unlock_64", bare_many_cycle)->UseRealTime();
}

// ---- the rows

using lockr::bench::Row;

const char* const kBare = "libpq, two prepared statements";
const char* const kHabit = "libpq, ping-lock-ping-unlock";

void add_one_thread(std::vector<Row>& rows, const std::string& where, const std::string& said, bool counts) {
  const auto add = [&](const std::string& what, const std::string& ours, const std::string& peer, Row row) {
    row.question = "postgres: 1 thread, " + what + ", " + said;
    row.backend = "postgres";
    row.ours = ours + "/" + where;
    row.peer = peer + "/" + where;
    if (!counts) row.goal = 0;
    rows.push_back(std::move(row));
  };
  add("lock + release(), time against libpq's", "lockr_release", "libpq",
      {.peer_name = kBare, .goal = 1.05, .at_most = true});
  add("lock + destructor, time against libpq's", "lockr_destructor", "libpq",
      {.peer_name = kBare, .goal = 0.6, .at_most = true});
  add("lock + destructor, cycles against ping-lock-ping-unlock", "lockr_destructor", "libpq_pings",
      {.peer_name = kHabit, .counter = "cycles_per_s", .unit = "cycles/s", .goal = 3.3, .at_most = false});
}

void add_cycles(std::vector<Row>& rows, const std::string& question, int threads, const std::string& ours,
                const std::string& peer, const char* peer_name, double goal) {
  rows.push_back({.question = "postgres: " + question,
                  .backend = "postgres",
                  .threads = threads,
                  .ours = ours,
                  .peer = peer,
                  .peer_name = peer_name,
                  .counter = "cycles_per_s",
                  .unit = "cycles/s",
                  .goal = goal,
                  .at_most = false});
}

std::vector<Row> rows() {
  std::vector<Row> rows;
  add_one_thread(rows, "apart", "different CPUs", true);
  add_one_thread(rows, "together", "one CPU", false);
  const std::string four = "4 threads on 2 lanes, different keys, cycles against 4 connections, ";
  add_cycles(rows, four + "release()", 4, "lockr_release/4_threads", "libpq/4_threads", kBare, 1.0);
  add_cycles(rows, four + "destructor", 4, "lockr_destructor/4_threads", "libpq/4_threads", kBare, 1.5);
  const std::string many = "64 threads on 2 lanes, different keys, cycles against 64 connections, ";
  add_cycles(rows, many + "release()", 64, "lockr_release/64_threads", "libpq/64_threads", kBare, 2.5);
  add_cycles(rows, many + "destructor", 64, "lockr_destructor/64_threads", "libpq/64_threads", kBare, 2.5);
  add_cycles(rows, "lock_all of 64 free keys against one after the other", 1, "lockr_lock_all_64", "libpq_lock_64",
             kBare, 40);
  add_cycles(rows, "the same, and giving all back", 1, "lockr_lock_all_64_close", "libpq_lock_64_unlock_64", kBare, 40);
  add_cycles(rows, "8 threads on one key, cycles against 8 connections that block", 8, "lockr_hot_key", "libpq_hot_key",
             "libpq, pg_advisory_lock", 15);
  return rows;
}

}  // namespace

int main(int argc, char** argv) { return lockr::bench::run(argc, argv, rows(), register_all); }
