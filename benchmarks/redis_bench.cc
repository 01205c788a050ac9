// What does a lock of Redis cost through lockr, against hiredis by hand? One private server, loopback TCP, all peers in
// one run. By hand is what most programs do: SET NX PX, and a script that compares and deletes.
#include <benchmark/benchmark.h>
#include <hiredis/hiredis.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "report.h"
#include "tests/support/redis_server.h"

namespace {

using lockr::Key;
using lockr::Locker;
using lockr::Session;
using lockr::testing::RedisServer;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kKeys = 100;  // Of each thread, in turn.
constexpr std::size_t kMany = 64;
constexpr std::size_t kLeases = 10'000;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

RedisServer& server() {
  static RedisServer one;
  return one;
}

std::unique_ptr<Locker> open_locker(const std::string& parameters) {
  const std::string url = "redis://127.0.0.1:" + std::to_string(server().port()) + "?" + parameters;
  auto opened = lockr::open(lockr::LockerConfig::from_url(url).value());
  if (!opened) give_up(opened.error().to_string());
  return *std::move(opened);
}

Locker& locker(bool fencing) {
  static const std::array lockers{open_locker("fencing=false&prefix=plain:"), open_locker("fencing=true")};
  return *lockers[fencing ? 1 : 0];
}

/// hiredis by hand, one connection.
class Bare {
 public:
  Bare() : context_(redisConnect("127.0.0.1", server().port())) {
    if (!context_ || context_->err != 0) give_up("hiredis can't connect");
    digest_ = call("SCRIPT LOAD %s",
                   "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end");
  }
  Bare(const Bare&) = delete;
  Bare& operator=(const Bare&) = delete;
  ~Bare() { redisFree(context_); }

  void lock(const std::string& key) {
    if (call("SET %b %s NX PX 10000", key.data(), key.size(), kValue) != "OK") give_up("a key is taken");
  }
  void unlock(const std::string& key) {
    if (call("EVALSHA %s 1 %b %s", digest_.c_str(), key.data(), key.size(), kValue) != "1") give_up("a key is gone");
  }

 private:
  static constexpr const char* kValue = "3f1c2a7e-51b8-4a39-9a47-6f0f7d3e2b10";

  template <class... Arguments>
  std::string call(const char* format, Arguments... arguments) {
    auto* const reply = static_cast<redisReply*>(redisCommand(context_, format, arguments...));
    if (!reply) give_up(context_->errstr);
    const std::string text = reply->type == REDIS_REPLY_INTEGER ? std::to_string(reply->integer)
                             : reply->str                       ? reply->str
                                                                : "";
    freeReplyObject(reply);
    return text;
  }

  redisContext* context_;
  std::string digest_;
};

Bare& bare(std::size_t number = 0) {
  static std::vector<std::unique_ptr<Bare>> all;
  while (all.size() <= number) all.push_back(std::make_unique<Bare>());
  return *all[number];
}

std::vector<Key> keys_of(std::size_t thread, std::size_t count = kKeys) {
  std::vector<Key> keys;
  for (std::size_t i = 0; i < count; ++i) {
    keys.push_back(Key::from_scopes({"bench", std::to_string(thread), std::to_string(i)}).value());
  }
  return keys;
}

std::vector<std::string> names_of(std::size_t thread, std::size_t count = kKeys) {
  std::vector<std::string> names;
  for (const Key& each : keys_of(thread, count)) names.push_back("bare:" + std::string(each.string()));
  return names;
}

// ---- cycles

enum class End { release, destroy };

std::function<void()> lockr_cycle(std::size_t thread, bool fencing, End end) {
  std::shared_ptr<Session> session = locker(fencing).open_session().value();
  return [session, keys = keys_of(thread), end, i = std::size_t{0}]() mutable {
    auto held = session->lock(keys[i++ % kKeys]);
    if (!held) give_up(held.error().to_string());
    if (end == End::destroy) return;
    if (auto released = held->release(); !released) give_up(released.error().to_string());
  };
}

std::function<void()> bare_cycle(std::size_t thread) {
  return [&connection = bare(thread), names = names_of(thread), i = std::size_t{0}]() mutable {
    const std::string& name = names[i++ % kKeys];
    connection.lock(name);
    connection.unlock(name);
  };
}

// ---- one thread

// The client's thread and the server on processors of their own.
void pin(pid_t thread, std::size_t processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_setaffinity(thread, sizeof set, &set);
}

void unpin() {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (std::size_t i = 0; i < std::thread::hardware_concurrency(); ++i) CPU_SET(i, &all);
  sched_setaffinity(0, sizeof all, &all);
  sched_setaffinity(server().pid(), sizeof all, &all);
}

void one_thread(benchmark::State& state, const std::function<void()>& cycle) {
  for (int i = 0; i < 20; ++i) cycle();
  pin(0, 0);
  pin(server().pid(), 1);
  for (auto _ : state) cycle();
  unpin();
}

// ---- many threads

constexpr std::size_t kThreads = 64;
constexpr std::chrono::milliseconds kSpan{400};

void crowd(benchmark::State& state, const std::function<std::function<void()>(std::size_t)>& make_cycle) {
  for (auto _ : state) {
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> sum{0};
    std::vector<std::thread> threads;
    const auto begin = Clock::now();
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        const auto cycle = make_cycle(i);
        std::uint64_t count = 0;
        for (; !stop.load(std::memory_order_relaxed); ++count) cycle();
        sum += count;
      });
    }
    std::this_thread::sleep_for(kSpan);
    stop = true;
    for (std::thread& each : threads) each.join();
    const std::chrono::duration<double> took = Clock::now() - begin;
    state.SetIterationTime(took.count());
    state.counters["cycles_per_s"] = static_cast<double>(sum) / took.count();
  }
}

// ---- many keys

void lock_all(benchmark::State& state) {
  const auto keys = keys_of(0, kMany);
  const auto session = locker(true).open_session().value();
  for (auto _ : state) {
    const auto begin = Clock::now();
    auto held = session->lock_all(keys);
    const std::chrono::duration<double> took = Clock::now() - begin;
    if (!held) give_up(held.error().to_string());
    for (auto& each : *held) static_cast<void>(each.release());
    state.SetIterationTime(took.count());
  }
}

void bare_all(benchmark::State& state) {
  const auto names = names_of(0, kMany);
  for (auto _ : state) {
    const auto begin = Clock::now();
    for (const auto& each : names) bare().lock(each);
    const std::chrono::duration<double> took = Clock::now() - begin;
    for (const auto& each : names) bare().unlock(each);
    state.SetIterationTime(took.count());
  }
}

// ---- renewals

// Of all threads of this process.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void renewals(benchmark::State& state) {
  const auto own = open_locker("ttl=10s&prefix=many:");
  const auto session = own->open_session().value();
  std::vector<lockr::Releaser> held;
  for (std::size_t i = 0; i < kLeases; i += 1000) {
    std::vector<Key> keys;
    for (std::size_t k = i; k < i + 1000; ++k) keys.push_back(Key::from_scopes({"l", std::to_string(k)}).value());
    auto some = session->lock_all(keys);
    if (!some) give_up(some.error().to_string());
    for (auto& each : *some) held.push_back(std::move(each));
  }
  lockr::testing::RedisClient control(server().socket());
  for (auto _ : state) {
    control.one({"CONFIG", "SET", "slowlog-log-slower-than", "200", "slowlog-max-len", "1000"});
    control.one({"SLOWLOG", "RESET"});
    const double before = cpu_seconds();
    const auto begin = Clock::now();
    std::this_thread::sleep_for(std::chrono::seconds(10));  // Three rounds.
    const std::chrono::duration<double> took = Clock::now() - begin;
    state.counters["percent_of_a_core"] = 100 * (cpu_seconds() - before) / took.count();
    double longest = 0;
    for (const std::string& entry : control.all({"SLOWLOG", "GET", "1000"})) {
      long long number = 0;
      long long at = 0;
      double microseconds = 0;
      if (std::sscanf(entry.c_str(), "%lld|%lld|%lf", &number, &at, &microseconds) == 3) {
        longest = std::max(longest, microseconds);
      }
    }
    state.counters["longest_script_ms"] = longest / 1000;
    state.SetIterationTime(took.count());
  }
  for (const auto& each : held) {
    if (!each.held()) give_up("a lease was lost");
  }
}

void register_all() {
  const auto one = [](const char* name, auto make) {
    benchmark::RegisterBenchmark(name, [make](benchmark::State& state) { one_thread(state, make()); })->UseRealTime();
  };
  one("release_fencing", [] { return lockr_cycle(0, true, End::release); });
  one("release_plain", [] { return lockr_cycle(0, false, End::release); });
  one("destructor_fencing", [] { return lockr_cycle(0, true, End::destroy); });
  one("destructor_plain", [] { return lockr_cycle(0, false, End::destroy); });
  one("hiredis", [] { return bare_cycle(0); });
  const auto many = [](const char* name, auto make) {
    const auto body = [make](benchmark::State& state) {
      const lockr::Stats before[] = {locker(false).stats(), locker(true).stats()};
      crowd(state, make);
      const lockr::Stats after[] = {locker(false).stats(), locker(true).stats()};
      for (int i = 0; i < 2; ++i) {
        const auto batches = static_cast<double>(after[i].engine_batches - before[i].engine_batches);
        if (batches == 0) continue;
        const auto requests = static_cast<double>(after[i].engine_requests - before[i].engine_requests);
        state.counters["requests_a_batch"] = requests / batches;
      }
    };
    benchmark::RegisterBenchmark(name, body)->Iterations(1)->UseManualTime();
  };
  bare(kThreads);  // All are connected before.
  many("crowd_fencing", [](std::size_t i) { return lockr_cycle(i, true, End::release); });
  many("crowd_plain", [](std::size_t i) { return lockr_cycle(i, false, End::release); });
  many("crowd_hiredis", [](std::size_t i) { return bare_cycle(i); });
  benchmark::RegisterBenchmark("lock_all_64", lock_all)->UseManualTime();
  benchmark::RegisterBenchmark("hiredis_64", bare_all)->UseManualTime();
  benchmark::RegisterBenchmark("renewals", renewals)->Iterations(1)->Repetitions(1)->UseManualTime();
}

}  // namespace

int main(int argc, char** argv) {
  using lockr::bench::Row;
  register_all();
  const auto time = [](const char* question, const char* ours, double goal) {
    return Row{.question = question, .ours = ours, .peer = "hiredis", .goal = goal, .at_most = true};
  };
  const auto cycles = [](const char* question, const char* ours, double goal) {
    return Row{.question = question,
               .ours = ours,
               .peer = "crowd_hiredis",
               .counter = "cycles_per_s",
               .goal = goal,
               .at_most = false};
  };
  return lockr::bench::run(
      argc, argv,
      {
          time("redis: 1 thread, lock + release(), time against hiredis", "release_fencing", 1.05),
          time("redis: the same without tokens", "release_plain", 1.05),
          time("redis: 1 thread, lock + destructor, time against hiredis", "destructor_fencing", 0.6),
          time("redis: the same without tokens", "destructor_plain", 0.6),
          cycles("redis: 64 threads on 2 lanes, different keys, cycles against 64 hiredis", "crowd_fencing", 2),
          cycles("redis: the same without tokens", "crowd_plain", 3),
          {.question = "redis: lock_all of 64 free keys, time against one after the other",
           .ours = "lock_all_64",
           .peer = "hiredis_64",
           .goal = 1.0 / 30,
           .at_most = true},
          {.question = "redis: 10,000 leases renewed, percent of a core of the client",
           .ours = "renewals",
           .counter = "percent_of_a_core",
           .goal = 0.2,
           .at_most = true},
          {.question = "redis: 10,000 leases renewed, longest script, ms",
           .ours = "renewals",
           .counter = "longest_script_ms",
           .goal = 2,
           .at_most = true},
      });
}
