// Does everyone get a turn at PostgreSQL, and how soon does a waiter follow a holder that was killed? Real processes
// over one private server, and foreign clients that block in pg_advisory_lock.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "postgres_peers.h"
#include "report.h"
#include "tests/support/postgres_server.h"
#include "worker.h"

namespace {

using lockr::Key;
using lockr::bench::Bare;
using lockr::bench::give_up;
using lockr::bench::server_dsn;
using lockr::bench::Worker;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kHold{1};
constexpr std::size_t kProcesses = 4;
constexpr std::size_t kThreads = 12;
constexpr std::size_t kKeys = 24;
constexpr std::size_t kForeign = 4;

Key key_of(std::size_t i) { return Key::from_scopes({"queue", std::to_string(i)}).value(); }

// ---- in a worker

void say(const std::string& line) {
  std::cout << line << '\n';
  std::cout.flush();
}

void await_start() {
  say("ready");
  std::string line;
  std::getline(std::cin, line);
}

// Waits for a key, holds it, and again, for a while. The last wait may end after that; it counts too.
template <class Lock>
std::vector<std::int64_t> take_turns(Clock::time_point end, Lock lock) {
  std::vector<std::int64_t> waits;
  for (auto begin = Clock::now(); begin < end; begin = Clock::now()) {
    const auto held = lock();
    waits.push_back(std::chrono::nanoseconds(Clock::now() - begin).count());
    std::this_thread::sleep_for(kHold);
  }
  return waits;
}

void tell(const std::vector<std::int64_t>& waits) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  for (const std::int64_t wait : waits) std::cout << wait << ' ';
  say("");
}

// One line a thread: its waits.
int run_threads(const std::string& dsn, std::size_t threads, std::size_t keys, std::chrono::milliseconds span) {
  const auto locker = lockr::bench::open_postgres(dsn);
  await_start();
  const auto end = Clock::now() + span;
  std::vector<std::thread> all;
  for (std::size_t i = 0; i < threads; ++i) {
    all.emplace_back([&] {
      std::mt19937_64 random{std::random_device{}()};
      const auto session = locker->open_session().value();
      tell(take_turns(end, [&] {
        auto held = session->lock(key_of(random() % keys), {.timeout = lockr::forever});
        if (!held) give_up(held.error().to_string());
        return held;
      }));
    });
  }
  for (std::thread& each : all) each.join();
  return 0;
}

int run_foreign(const std::string& dsn, std::chrono::milliseconds span) {
  Bare connection(dsn);
  const auto identity = static_cast<std::int64_t>(key_of(0).hash());
  const auto unlock = [&](const std::int64_t* held) { connection.unlock(*held); };
  await_start();
  tell(take_turns(Clock::now() + span, [&] {
    connection.lock(identity);
    return std::unique_ptr<const std::int64_t, decltype(unlock)>(&identity, unlock);
  }));
  return 0;
}

int run_holder(const std::string& dsn) {
  const auto locker = lockr::bench::open_postgres(dsn);
  const auto held = locker->lock(key_of(0));
  if (!held) give_up(held.error().to_string());
  await_start();  // It never comes.
  return 0;
}

int run_role(const std::vector<std::string>& words) {
  const auto number = [&](std::size_t i) { return static_cast<std::size_t>(std::atol(words[i].c_str())); };
  if (words[0] == "--threads") {
    return run_threads(words[1], number(2), number(3), std::chrono::milliseconds(number(4)));
  }
  if (words[0] == "--foreign") return run_foreign(words[1], std::chrono::milliseconds(number(2)));
  return run_holder(words[1]);
}

// ---- turns

struct Turns {
  std::size_t count = 0;
  std::size_t fewest = 0;  ///< Of one thread.
  std::vector<double> waits_ms;
};

void add_line(Turns& turns, const std::string& line, bool first) {
  std::size_t count = 0;
  const char* at = line.c_str();
  for (char* end = nullptr;; at = end, ++count) {
    const auto wait = std::strtoll(at, &end, 10);
    if (end == at) break;
    turns.waits_ms.push_back(static_cast<double>(wait) / 1e6);
  }
  turns.fewest = first ? count : std::min(turns.fewest, count);
  turns.count += count;
}

// Starts all at once; the turns of each process.
std::vector<Turns> turns_of(const std::vector<std::vector<std::string>>& roles) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (const auto& role : roles) {
    workers.push_back(std::make_unique<Worker>(role));
    workers.back()->await("ready");
  }
  for (const auto& worker : workers) worker->say("go");
  std::vector<Turns> all;
  for (const auto& worker : workers) {
    Turns turns;
    const std::vector<std::string> lines = worker->finish();
    for (std::size_t i = 0; i < lines.size(); ++i) add_line(turns, lines[i], i == 0);
    all.push_back(std::move(turns));
  }
  return all;
}

std::chrono::milliseconds span() { return std::chrono::milliseconds(lockr::bench::quick() ? 1000 : 10000); }

std::vector<std::string> threads_role(std::size_t threads, std::size_t keys) {
  return {"--threads", server_dsn(), std::to_string(threads), std::to_string(keys), std::to_string(span().count())};
}

void tell_waits(benchmark::State& state, const std::vector<Turns>& all) {
  std::vector<double> waits;
  std::size_t fewest = all.front().fewest;
  for (const Turns& each : all) {
    waits.insert(waits.end(), each.waits_ms.begin(), each.waits_ms.end());
    fewest = std::min(fewest, each.fewest);
  }
  std::sort(waits.begin(), waits.end());
  state.counters["turns_per_s"] = static_cast<double>(waits.size()) / std::chrono::duration<double>(span()).count();
  state.counters["fewest_turns"] = static_cast<double>(fewest);
  state.counters["median_wait_ms"] = waits[waits.size() / 2];
  state.counters["p99_wait_ms"] = waits[waits.size() * 99 / 100];
  state.counters["longest_wait_ms"] = waits.back();
  state.counters["longest_to_median"] = waits.back() / waits[waits.size() / 2];
}

void shares(benchmark::State& state) {
  for (auto _ : state) {
    const std::vector<Turns> all =
        turns_of(std::vector<std::vector<std::string>>(kProcesses, threads_role(kThreads, kKeys)));
    double sum = 0;
    for (const Turns& each : all) sum += static_cast<double>(each.count);
    double worst = 0;
    for (const Turns& each : all) {
      worst = std::max(worst, std::abs(static_cast<double>(each.count) * kProcesses / sum - 1));
    }
    tell_waits(state, all);
    state.counters["off_fair_share"] = worst;
    state.SetIterationTime(std::chrono::duration<double>(span()).count());
  }
}

void queue(benchmark::State& state) {
  for (auto _ : state) {
    std::vector<std::vector<std::string>> roles{threads_role(1, 1)};
    for (std::size_t i = 0; i < 3; ++i) roles.push_back(threads_role(kThreads, 1));
    for (std::size_t i = 0; i < kForeign; ++i) {
      roles.push_back({"--foreign", server_dsn(), std::to_string(span().count())});
    }
    const std::vector<Turns> all = turns_of(roles);
    tell_waits(state, all);
    state.counters["single_thread_turns"] = static_cast<double>(all[0].count);
    state.counters["single_thread_longest_ms"] = *std::max_element(all[0].waits_ms.begin(), all[0].waits_ms.end());
    state.SetIterationTime(std::chrono::duration<double>(span()).count());
  }
}

// ---- many contended keys

constexpr std::size_t kHeld = 5000;
constexpr std::size_t kContended = 500;

Key contended(std::size_t i) { return Key::from_scopes({"contended", std::to_string(i)}).value(); }

// Milliseconds from each key's release by a foreign client to its grant, sorted.
std::vector<double> wait_for_many(lockr::Locker& locker) {
  Bare foreign(server_dsn());
  for (std::size_t i = 0; i < kContended; ++i) foreign.lock(static_cast<std::int64_t>(contended(i).hash()));
  std::vector<Clock::time_point> granted(kContended);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kContended; ++i) {
    threads.emplace_back([&, i] {
      const auto held = locker.lock(contended(i), {.timeout = lockr::forever});
      granted[i] = Clock::now();
      if (!held) give_up(held.error().to_string());
    });
  }
  while (locker.stats().waiting != kContended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::vector<Clock::time_point> freed(kContended);
  for (std::size_t i = 0; i < kContended; ++i) {
    freed[i] = Clock::now();
    foreign.unlock(static_cast<std::int64_t>(contended(i).hash()));
  }
  for (std::thread& each : threads) each.join();
  std::vector<double> waits;
  for (std::size_t i = 0; i < kContended; ++i) {
    waits.push_back(std::chrono::duration<double, std::milli>(granted[i] - freed[i]).count());
  }
  std::sort(waits.begin(), waits.end());
  return waits;
}

void many_contended(benchmark::State& state) {
  const auto locker = lockr::bench::open_postgres(server_dsn(), R"(, "limits": {"held": 10000})");
  const auto session = locker->open_session().value();
  std::vector<Key> keys;
  for (std::size_t i = 0; i < kHeld; ++i) keys.push_back(Key::from_scopes({"held", std::to_string(i)}).value());
  const auto held = session->lock_all(keys);
  if (!held) give_up(held.error().to_string());
  for (auto _ : state) {
    const std::vector<double> waits = wait_for_many(*locker);
    state.counters["connections"] = static_cast<double>(lockr::bench::lockr_server_pids(server_dsn()).size());
    state.counters["median_ms"] = waits[waits.size() / 2];
    state.counters["p99_ms"] = waits[waits.size() * 99 / 100];
    state.counters["longest_ms"] = waits.back();
    state.SetIterationTime(waits.back() / 1e3);
  }
}

// ---- takeover

void await_waiter_at_the_server(lockr::testing::Psql& control) {
  while (control.row("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == "0") {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Milliseconds from kill -9 of the holder to the waiter's grant.
double take_over(lockr::Locker& locker, lockr::testing::Psql& control) {
  Worker holder({"--holder", server_dsn()});
  holder.await("ready");
  Clock::time_point granted;
  std::thread waiter([&] {
    const auto held = locker.lock(key_of(0));
    granted = Clock::now();
    if (!held) give_up(held.error().to_string());
  });
  await_waiter_at_the_server(control);
  const auto killed = Clock::now();
  holder.kill();
  waiter.join();
  return std::chrono::duration<double, std::milli>(granted - killed).count();
}

void takeover(benchmark::State& state) {
  const auto locker = lockr::bench::open_postgres(server_dsn());
  lockr::testing::Psql control(server_dsn());
  for (auto _ : state) {
    std::vector<double> all;
    const int trials = lockr::bench::quick() ? 5 : 50;
    for (int i = 0; i < trials; ++i) all.push_back(take_over(*locker, control));
    std::sort(all.begin(), all.end());
    state.counters["median_ms"] = all[all.size() / 2];
    state.counters["longest_ms"] = all.back();
    state.SetIterationTime(all.back() / 1e3);
  }
}

void register_all() {
  const int repetitions = lockr::bench::repetitions(3);
  benchmark::RegisterBenchmark("shares", shares)->Iterations(1)->Repetitions(repetitions)->UseManualTime();
  benchmark::RegisterBenchmark("queue", queue)->Iterations(1)->Repetitions(repetitions)->UseManualTime();
  benchmark::RegisterBenchmark("many_contended", many_contended)
      ->Iterations(1)
      ->Repetitions(repetitions)
      ->UseManualTime();
  benchmark::RegisterBenchmark("takeover", takeover)->Iterations(1)->Repetitions(1)->UseManualTime();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (!words.empty() && (words[0] == "--threads" || words[0] == "--foreign" || words[0] == "--holder")) {
    return run_role(words);
  }
  const auto row = [](const char* question, int threads, const char* ours, const char* counter, const char* unit,
                      double goal) {
    return lockr::bench::Row{.question = question,
                             .backend = "postgres",
                             .threads = threads,
                             .ours = ours,
                             .counter = counter,
                             .unit = unit,
                             .goal = goal,
                             .at_most = true};
  };
  return lockr::bench::run(
      argc, argv,
      {
          row("postgres: 4 processes x 12 threads on 24 keys, hold 1 ms: furthest off a fair share", 48, "shares",
              "off_fair_share", "of a fair share", 0.2),
          row("postgres: 1 thread, 3 x 12 threads, 4 foreign clients on a key: longest wait to median", 41, "queue",
              "longest_to_median", "times the median", 10),
          row("postgres: 500 contended keys, 5,000 held, 6 connections: foreign release to grant, p99, ms", 500,
              "many_contended", "p99_ms", "ms", 1000),
          row("postgres: takeover after kill -9, longest of 50 trials, ms", 1, "takeover", "longest_ms", "ms", 50),
      },
      register_all);
}
