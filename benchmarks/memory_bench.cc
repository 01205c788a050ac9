// What does the lock table itself cost? lockr over the memory backend against oneTBB's concurrent_hash_map, the usual
// building block for a table of named locks, and against one std::mutex.
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <oneapi/tbb/concurrent_hash_map.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

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
template <class Cycle>
void hot(benchmark::State& state, Cycle cycle_of_thread) {
  constexpr std::size_t kThreads = 8;
  constexpr std::chrono::milliseconds kSpan{2000};
  for (auto _ : state) {
    std::array<std::uint64_t, kThreads> counts{};
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        auto cycle = cycle_of_thread();
        std::uint64_t count = 0;
        while (!stop.load(std::memory_order_relaxed)) {
          cycle();
          ++count;
        }
        counts[t] = count;
      });
    }
    std::this_thread::sleep_for(kSpan);
    stop = true;
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> span = std::chrono::steady_clock::now() - begin;
    std::uint64_t sum = 0;
    for (const std::uint64_t count : counts) sum += count;
    state.SetIterationTime(span.count());
    state.counters["cycles_per_s"] = static_cast<double>(sum) / span.count();
    state.counters["worst_share"] =
        static_cast<double>(*std::min_element(counts.begin(), counts.end())) * kThreads / static_cast<double>(sum);
  }
}

void memory_hot_key(benchmark::State& state) {
  const Key key = Key::parse("hot:key").value();
  hot(state, [&] {
    return [session = std::shared_ptr<Session>(empty_locker().open_session().value()), &key] {
      auto held = session->lock(key);
      benchmark::DoNotOptimize(held);
    };
  });
}

void mutex_hot_key(benchmark::State& state) {
  std::mutex mutex;
  hot(state, [&] {
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
  return lockr::bench::run(
      argc, argv,
      {
          {"memory: lock + release, 1 thread, against oneTBB", "memory_cycle", "tbb_cycle", "", 0.6, true},
          {"memory: the same, 2 threads on different keys", "memory_cycle_2_threads", "tbb_cycle_2_threads", "", 0.4,
           true},
          {"memory: bytes a held key, of 1,000,000", "memory_cycle_million_held", "", "bytes_per_key", 200, true},
          {"memory: cycle beside 1,000,000 held, against an empty table", "memory_cycle_million_held", "memory_cycle",
           "", 3, true},
          {"oneTBB: its own growth, for comparison", "tbb_cycle_million_held", "tbb_cycle", "", 1000, true},
          {"memory: one hot key, 8 threads, against one std::mutex", "memory_hot_key", "mutex_hot_key", "cycles_per_s",
           0.5, false},
          {"memory: the hot key's worst thread, part of its fair share", "memory_hot_key", "", "worst_share", 0.5,
           false},
      });
}
