// What does the lock table itself cost? lockr over the memory backend against oneTBB's concurrent_hash_map, the usual
// building block for a table of named locks, and against one std::mutex.
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <oneapi/tbb/concurrent_hash_map.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "crowd.h"
#include "lockr/lockr.h"
#include "report.h"

namespace {

using lockr::Key;
using lockr::Locker;
using lockr::Releaser;
using lockr::Session;
using Map = oneapi::tbb::concurrent_hash_map<std::string, int>;

constexpr std::size_t kNames = 100000;
constexpr std::size_t kHeld = 1000000;

std::string name(std::size_t i) { return "tenant:" + std::to_string(i) + ":invoice"; }

// The i-th of this thread's own part of the names, in an order without locality.
std::size_t scattered(std::size_t i, const benchmark::State& state) {
  const std::size_t part = kNames / static_cast<std::size_t>(state.threads());
  return static_cast<std::size_t>(state.thread_index()) * part + i * 7919 % part;
}

const std::vector<Key>& keys() {
  static const std::vector<Key> all = [] {
    std::vector<Key> made;
    for (std::size_t i = 0; i < kNames; ++i) made.push_back(Key::parse(name(i)).value());
    return made;
  }();
  return all;
}

const std::vector<std::string>& names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> made;
    for (std::size_t i = 0; i < kNames; ++i) made.push_back(name(i));
    return made;
  }();
  return all;
}

std::unique_ptr<Locker> open_memory() { return lockr::open(lockr::LockerConfig::from_url("memory:").value()).value(); }

void lockr_cycles(benchmark::State& state, Locker& locker) {
  const auto& all = keys();
  auto session = locker.open_session().value();
  std::size_t i = 0;
  for (auto _ : state) {
    auto held = session->lock(all[scattered(i++, state)]);
    if (!held) state.SkipWithError("not granted");
    benchmark::DoNotOptimize(held);
  }
}

void tbb_cycles(benchmark::State& state, Map& map) {
  const auto& all = names();
  std::size_t i = 0;
  for (auto _ : state) {
    Map::accessor held;
    map.insert(held, all[scattered(i++, state)]);
    benchmark::DoNotOptimize(held->second);
    map.erase(held);
  }
}

Locker& empty_locker() {
  static const std::unique_ptr<Locker> locker = open_memory();
  return *locker;
}

Map& empty_map() {
  static Map map;
  return map;
}

void memory_cycle(benchmark::State& state) { lockr_cycles(state, empty_locker()); }
void tbb_cycle(benchmark::State& state) { tbb_cycles(state, empty_map()); }
BENCHMARK(memory_cycle);
BENCHMARK(tbb_cycle);

void memory_cycle_2_threads(benchmark::State& state) { lockr_cycles(state, empty_locker()); }
void tbb_cycle_2_threads(benchmark::State& state) { tbb_cycles(state, empty_map()); }
BENCHMARK(memory_cycle_2_threads)->Threads(2)->UseRealTime();
BENCHMARK(tbb_cycle_2_threads)->Threads(2)->UseRealTime();

// A locker with a million keys held, and what each costs in memory beyond the Key that the caller has.
struct FullLocker {
  std::unique_ptr<Locker> locker = open_memory();
  std::unique_ptr<Session> session = locker->open_session().value();
  std::vector<Key> others;
  std::vector<Releaser> held;
  double bytes_per_key = 0;

  FullLocker() {
    others.reserve(kHeld);
    held.reserve(kHeld);
    for (std::size_t i = 0; i < kHeld; ++i) others.push_back(Key::parse("held:" + std::to_string(i)).value());
    const std::size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (const Key& key : others) held.push_back(session->lock(key).value());
    bytes_per_key = static_cast<double>(mallinfo2().uordblks + mallinfo2().hblkhd - before) / kHeld;
  }
};

FullLocker& full_locker() {
  static FullLocker full;
  return full;
}

Map& full_map() {
  static Map map;
  static const bool filled = [] {
    for (std::size_t i = 0; i < kHeld; ++i) map.insert(std::make_pair("held:" + std::to_string(i), 1));
    return true;
  }();
  benchmark::DoNotOptimize(filled);
  return map;
}

void memory_cycle_million_held(benchmark::State& state) {
  lockr_cycles(state, *full_locker().locker);
  state.counters["bytes_per_key"] = full_locker().bytes_per_key;
}
void tbb_cycle_million_held(benchmark::State& state) { tbb_cycles(state, full_map()); }
BENCHMARK(memory_cycle_million_held);
BENCHMARK(tbb_cycle_million_held);

// Eight threads on one lock for a while: cycles a second, and the worst thread's part of a fair share.
template <class MakeCycle>
void hot(benchmark::State& state, MakeCycle make_cycle) {
  const std::chrono::milliseconds span{lockr::bench::quick() ? 200 : 2000};
  for (auto _ : state) {
    const lockr::bench::Crowd crowd = lockr::bench::run_crowd(8, span, make_cycle);
    state.SetIterationTime(std::chrono::duration<double>(span).count());
    state.counters["cycles_per_s"] = crowd.cycles_per_s;
    state.counters["worst_share"] = crowd.worst_share;
  }
}

void memory_hot_key(benchmark::State& state) {
  const Key key = Key::parse("hot:key").value();
  hot(state, [&](std::size_t) {
    return [session = std::shared_ptr<Session>(empty_locker().open_session().value()), &key] {
      auto held = session->lock(key);
      benchmark::DoNotOptimize(held);
    };
  });
}

void mutex_hot_key(benchmark::State& state) {
  std::mutex mutex;
  hot(state, [&](std::size_t) {
    return [&mutex] {
      std::lock_guard lock(mutex);
      benchmark::ClobberMemory();
    };
  });
}
BENCHMARK(memory_hot_key)->Iterations(1)->UseManualTime();
BENCHMARK(mutex_hot_key)->Iterations(1)->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
  const std::string tbb = "oneTBB concurrent_hash_map";
  return lockr::bench::run(argc, argv,
                           {
                               {.question = "memory: lock + release, 1 thread, against oneTBB",
                                .backend = "memory",
                                .ours = "memory_cycle",
                                .peer = "tbb_cycle",
                                .peer_name = tbb,
                                .goal = 0.6,
                                .at_most = true},
                               {.question = "memory: the same, 2 threads on different keys",
                                .backend = "memory",
                                .threads = 2,
                                .ours = "memory_cycle_2_threads",
                                .peer = "tbb_cycle_2_threads",
                                .peer_name = tbb,
                                .goal = 0.4,
                                .at_most = true},
                               {.question = "memory: bytes a held key, of 1,000,000",
                                .backend = "memory",
                                .ours = "memory_cycle_million_held",
                                .counter = "bytes_per_key",
                                .unit = "bytes",
                                .goal = 200,
                                .at_most = true},
                               {.question = "memory: cycle beside 1,000,000 held, against an empty table",
                                .backend = "memory",
                                .ours = "memory_cycle_million_held",
                                .peer = "memory_cycle",
                                .peer_name = "an empty table",
                                .goal = 3,
                                .at_most = true},
                               {.question = "oneTBB: its own growth, for comparison",
                                .backend = "memory",
                                .ours = "tbb_cycle_million_held",
                                .peer = "tbb_cycle",
                                .peer_name = "an empty oneTBB map",
                                .at_most = true},
                               {.question = "memory: one hot key, 8 threads, against one std::mutex",
                                .backend = "memory",
                                .threads = 8,
                                .ours = "memory_hot_key",
                                .peer = "mutex_hot_key",
                                .peer_name = "std::mutex",
                                .counter = "cycles_per_s",
                                .unit = "cycles/s",
                                .goal = 0.5,
                                .at_most = false},
                               {.question = "memory: the hot key's worst thread, part of its fair share",
                                .backend = "memory",
                                .threads = 8,
                                .ours = "memory_hot_key",
                                .counter = "worst_share",
                                .unit = "of a fair share",
                                .goal = 0.5,
                                .at_most = false},
                           });
}
