// What does a lock of Redis cost through lockr, against hiredis by hand? One private server on loopback TCP, all peers
// in one run: SET NX PX and a script that compares and deletes, on one connection or on one for each thread; beside
// them what the server can do at most, redis-benchmark with 32 commands in flight on each connection, running our
// scripts.
#include <benchmark/benchmark.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backends/redis/scripts.h"
#include "crowd.h"
#include "lockr/lockr.h"
#include "redis_peers.h"
#include "report.h"
#include "worker.h"

namespace {

using lockr::Key;
using lockr::Locker;
using lockr::Session;
using lockr::bench::BareRedis;
using lockr::bench::give_up;
using lockr::bench::Placement;
using lockr::bench::redis_server;

constexpr std::size_t kKeys = 100;  // Of each thread, in turn.
constexpr std::size_t kMany = 64;

enum class Tokens { none, fencing };

Locker& locker(Tokens tokens) {
  static const auto plain = lockr::bench::open_redis(redis_server().port(), false);
  static const auto fencing = lockr::bench::open_redis(redis_server().port(), true);
  return tokens == Tokens::fencing ? *fencing : *plain;
}

BareRedis& bare(std::size_t number = 0) {
  static std::vector<std::unique_ptr<BareRedis>> all;
  while (all.size() <= number) all.push_back(std::make_unique<BareRedis>(redis_server().port()));
  return *all[number];
}

std::vector<Key> keys_of(std::size_t thread, std::size_t count = kKeys) {
  std::vector<Key> keys;
  for (std::size_t i = 0; i < count; ++i) {
    keys.push_back(Key::from_scopes({"bench", std::to_string(thread), std::to_string(i)}).value());
  }
  return keys;
}

std::vector<std::string> bare_keys(std::size_t thread, std::size_t count = kKeys) {
  std::vector<std::string> keys;
  for (const Key& key : keys_of(thread, count)) keys.push_back("bare:" + std::string(key.string()));
  return keys;
}

enum class End { release, destroy };

// A cycle over the thread's own keys.
auto lockr_cycle(std::size_t thread, Tokens tokens, End end) {
  std::shared_ptr<Session> session = locker(tokens).open_session().value();
  return [session, keys = keys_of(thread), end, i = std::size_t{0}]() mutable {
    auto held = session->lock(keys[i++ % kKeys]);
    if (!held) give_up(held.error().to_string());
    if (end == End::destroy) return;
    if (auto released = held->release(); !released) give_up(released.error().to_string());
  };
}

auto bare_cycle(std::size_t thread) {
  return [&connection = bare(thread), keys = bare_keys(thread), i = std::size_t{0}]() mutable {
    const std::string& key = keys[i++ % kKeys];
    if (!connection.lock(key)) give_up("somebody holds a key of this benchmark");
    if (!connection.unlock(key, connection.value())) give_up("a key of this benchmark was not held");
  };
}

void count_cycles(benchmark::State& state) {
  state.counters["cycles_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

// ---- one thread

template <class Cycle>
void one_thread(benchmark::State& state, Placement placement, Cycle cycle) {
  const std::vector<int> server{redis_server().pid()};
  lockr::bench::place(placement, server);
  for (int i = 0; i < 20; ++i) cycle();
  for (auto _ : state) cycle();
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server);
}

void register_one_thread(const std::string& where, Placement placement) {
  const auto add = [&](const std::string& name, auto make_cycle) {
    const auto body = [=](benchmark::State& state) { one_thread(state, placement, make_cycle()); };
    benchmark::RegisterBenchmark((name + "/" + where).c_str(), body)->UseRealTime();
  };
  add("lockr_release", [] { return lockr_cycle(0, Tokens::none, End::release); });
  add("lockr_destructor", [] { return lockr_cycle(0, Tokens::none, End::destroy); });
  add("lockr_release_fencing", [] { return lockr_cycle(0, Tokens::fencing, End::release); });
  add("lockr_destructor_fencing", [] { return lockr_cycle(0, Tokens::fencing, End::destroy); });
  add("hiredis", [] { return bare_cycle(0); });
}

// ---- many threads

constexpr std::size_t kThreads = 64;

template <class MakeCycle>
void crowd(const std::string& name, MakeCycle make_cycle) {
  const std::chrono::milliseconds span{lockr::bench::quick() ? 100 : 700};
  const auto body = [=](benchmark::State& state) {
    for (auto _ : state) {
      const lockr::bench::Crowd all = lockr::bench::run_crowd(kThreads, span, make_cycle);
      state.SetIterationTime(std::chrono::duration<double>(span).count());
      state.counters["cycles_per_s"] = all.cycles_per_s;
      state.counters["worst_share"] = all.worst_share;
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), body)->Iterations(1)->UseManualTime();
}

void register_crowds() {
  crowd("lockr_release/64_threads", [](std::size_t i) { return lockr_cycle(i, Tokens::none, End::release); });
  crowd("lockr_destructor/64_threads", [](std::size_t i) { return lockr_cycle(i, Tokens::none, End::destroy); });
  crowd("lockr_release_fencing/64_threads",
        [](std::size_t i) { return lockr_cycle(i, Tokens::fencing, End::release); });
  crowd("lockr_destructor_fencing/64_threads",
        [](std::size_t i) { return lockr_cycle(i, Tokens::fencing, End::destroy); });
  bare(kThreads - 1);  // All are connected before any of them runs.
  crowd("hiredis/64_threads", [](std::size_t i) { return bare_cycle(i); });
}

// ---- the ceiling

// Requests a second, as redis-benchmark (of redis-tools) prints them.
double most_per_second(std::size_t requests, std::size_t range, const std::string& command) {
  const std::string text = lockr::bench::output_of(
      "redis-benchmark -h 127.0.0.1 -p " + std::to_string(redis_server().port()) + " -c 64 -P 32 --csv -n " +
      std::to_string(requests) + " -r " + std::to_string(range) + " " + command);
  // "test","rps",…  and then a line of values.
  const std::size_t row = text.rfind("\n\"");
  const std::size_t value = row == text.npos ? text.npos : text.find("\",\"", row);
  if (value == text.npos) give_up("redis-benchmark said no figures:\n" + text);
  return std::atof(text.c_str() + value + 3);
}

std::string evalsha(lockr::testing::RedisClient& client, lockr::redis::Script script) {
  return "EVALSHA " + client.one({"SCRIPT", "LOAD", lockr::redis::text_of(script)});
}

// Keys of redis-benchmark are random numbers: of so many that nearly all are free, or held.
constexpr std::size_t kManyKeys = 200'000;

void fill(lockr::testing::RedisClient& client) {
  client.all({"EVAL",
              "for i = 0, ARGV[1] - 1 do redis.call('SET', string.format('ceiling:l:%012d', i), 'v', 'PX', 60000) end",
              "0", std::to_string(kManyKeys)});
}

void forget(lockr::testing::RedisClient& client) { client.all({"FLUSHDB"}); }

// One script for each take and each release: no batches, but never a pause of the server either.
void ceiling(benchmark::State& state, Tokens tokens) {
  lockr::testing::RedisClient client(redis_server().socket());
  const std::size_t requests = lockr::bench::quick() ? 5'000 : 20'000;
  const std::string least = tokens == Tokens::fencing ? "1" : "''";
  const std::string take =
      evalsha(client, lockr::redis::Script::take) +
      " 3 ceiling:token ceiling:l:__rand_int__ ceiling:q:__rand_int__ ceiling: 500 process 60000 " + least +
      " each x v ''";
  const std::string release = evalsha(client, lockr::redis::Script::release) +
                              " 2 ceiling:l:__rand_int__ ceiling:q:__rand_int__ ceiling: 500 x v 0";
  for (auto _ : state) {
    forget(client);
    const double takes = most_per_second(requests, 100 * kManyKeys, take);
    forget(client);
    fill(client);
    const double releases = most_per_second(requests, kManyKeys, release);
    forget(client);
    const double cycles = 1 / (1 / takes + 1 / releases);
    state.counters["cycles_per_s"] = cycles;
    state.SetIterationTime(1 / cycles);
  }
}

void register_ceilings() {
  if (!lockr::bench::program_is_there("redis-benchmark")) return;
  for (const auto& [name, tokens] :
       {std::pair{"redis_benchmark", Tokens::none}, std::pair{"redis_benchmark_fencing", Tokens::fencing}}) {
    const auto body = [tokens = tokens](benchmark::State& state) { ceiling(state, tokens); };
    benchmark::RegisterBenchmark(name, body)->Iterations(1)->UseManualTime();
  }
}

// ---- many keys

// Times the locking alone: what it then takes to give all back is not the question.
template <class Lock, class Unlock>
void lock_many(benchmark::State& state, Lock lock, Unlock unlock) {
  const std::vector<int> server{redis_server().pid()};
  lockr::bench::place(Placement::apart, server);
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    auto held = lock();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    unlock(held);
    state.SetIterationTime(took.count());
  }
  count_cycles(state);
  lockr::bench::place(Placement::anywhere, server);
}

template <class Held>
void release_all(Held& held) {
  for (lockr::Releaser& each : held) {
    if (auto released = each.release(); !released) give_up(released.error().to_string());
  }
}

void lockr_many(benchmark::State& state) {
  const std::vector<Key> keys = keys_of(0, kMany);
  const auto session = locker(Tokens::fencing).open_session().value();
  const auto lock = [&] {
    auto held = session->lock_all(keys);
    if (!held) give_up(held.error().to_string());
    return *std::move(held);
  };
  lock_many(state, lock, [](auto& held) { release_all(held); });
}

void lockr_one_by_one(benchmark::State& state) {
  const std::vector<Key> keys = keys_of(0, kMany);
  const auto session = locker(Tokens::fencing).open_session().value();
  const auto lock = [&] {
    std::vector<lockr::Releaser> all;
    for (const Key& key : keys) {
      auto held = session->lock(key);
      if (!held) give_up(held.error().to_string());
      all.push_back(*std::move(held));
    }
    return all;
  };
  lock_many(state, lock, [](auto& held) { release_all(held); });
}

void bare_one_by_one(benchmark::State& state) {
  const std::vector<std::string> keys = bare_keys(0, kMany);
  const auto lock = [&] {
    std::vector<std::string> values;
    for (const std::string& key : keys) {
      if (!bare().lock(key)) give_up("somebody holds a key of this benchmark");
      values.push_back(bare().value());
    }
    return values;
  };
  lock_many(state, lock, [&](const std::vector<std::string>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) bare().unlock(keys[i], values[i]);
  });
}

void register_all() {
  register_one_thread("apart", Placement::apart);
  register_one_thread("together", Placement::together);
  register_crowds();
  register_ceilings();
  benchmark::RegisterBenchmark("lockr_lock_all_64", lockr_many)->UseManualTime();
  benchmark::RegisterBenchmark("lockr_lock_64", lockr_one_by_one)->UseManualTime();
  benchmark::RegisterBenchmark("hiredis_lock_64", bare_one_by_one)->UseManualTime();
}

// ---- the rows

using lockr::bench::Row;

const char* const kBare = "hiredis, SET NX PX and compare-and-delete";

void add_one_thread(std::vector<Row>& rows, const std::string& where, const std::string& said, bool counts) {
  const auto add = [&](const std::string& what, const std::string& ours, double goal) {
    rows.push_back({.question = "redis: 1 thread, " + what + ", time against hiredis', " + said,
                    .backend = "redis",
                    .ours = ours + "/" + where,
                    .peer = "hiredis/" + where,
                    .peer_name = kBare,
                    .goal = counts ? goal : 0,
                    .at_most = true});
  };
  add("lock + release()", "lockr_release", 1.05);
  add("lock + release(), fencing", "lockr_release_fencing", 1.05);
  add("lock + destructor", "lockr_destructor", 0.6);
  add("lock + destructor, fencing", "lockr_destructor_fencing", 0.6);
}

void add_cycles(std::vector<Row>& rows, const std::string& question, int threads, const std::string& ours,
                const std::string& peer, const char* peer_name, double goal) {
  rows.push_back({.question = "redis: " + question,
                  .backend = "redis",
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
  const std::string many = "64 threads on 2 lanes, different keys, cycles against ";
  const char* const peer = "hiredis/64_threads";
  add_cycles(rows, many + "64 connections, release()", 64, "lockr_release/64_threads", peer, kBare, 3);
  add_cycles(rows, many + "64 connections, destructor", 64, "lockr_destructor/64_threads", peer, kBare, 3);
  add_cycles(rows, many + "64 connections, fencing, release()", 64, "lockr_release_fencing/64_threads", peer, kBare, 2);
  add_cycles(rows, many + "64 connections, fencing, destructor", 64, "lockr_destructor_fencing/64_threads", peer, kBare,
             2);
  const char* const ceiling = "redis-benchmark -c 64 -P 32, the same scripts, a key each";
  add_cycles(rows, many + "redis-benchmark -P 32", 64, "lockr_release/64_threads", "redis_benchmark", ceiling, 0);
  add_cycles(rows, many + "redis-benchmark -P 32, fencing", 64, "lockr_release_fencing/64_threads",
             "redis_benchmark_fencing", ceiling, 0);
  add_cycles(rows, "lock_all of 64 free keys against one after the other", 1, "lockr_lock_all_64", "lockr_lock_64",
             "lockr, one lock() a key", 30);
  add_cycles(rows, "lock_all of 64 free keys against hiredis, one after the other", 1, "lockr_lock_all_64",
             "hiredis_lock_64", kBare, 30);
  return rows;
}

}  // namespace

int main(int argc, char** argv) { return lockr::bench::run(argc, argv, rows(), register_all); }
