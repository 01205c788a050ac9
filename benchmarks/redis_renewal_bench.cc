// What do 10,000 held leases cost: the client that renews them, and everybody else, for whom the server has no time
// meanwhile? A locker of its own with a ttl of 10 s, and a client that pings.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "redis_peers.h"
#include "report.h"

namespace {

using lockr::Key;
using lockr::bench::BareRedis;
using lockr::bench::give_up;
using lockr::bench::redis_server;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kLeases = 10'000;
constexpr std::size_t kAtOnce = 500;
constexpr std::chrono::milliseconds kRound{3335};  // A third of the ttl.
constexpr std::chrono::microseconds kPause{300};

double cpu_seconds(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Pings until it is told to stop.
class Pinger {
 public:
  Pinger() : thread_([this] { run(); }) {}

  void stop() {
    stop_ = true;
    thread_.join();
    std::sort(times_ms_.begin(), times_ms_.end());
  }
  double longest_ms() const { return times_ms_.back(); }
  double median_ms() const { return times_ms_[times_ms_.size() / 2]; }
  double cpu() const { return cpu_; }

 private:
  void run() {
    BareRedis connection(redis_server().port());
    while (!stop_) {
      const auto begin = Clock::now();
      connection.ping();
      times_ms_.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
      std::this_thread::sleep_for(kPause);
    }
    cpu_ = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
  }

  std::atomic<bool> stop_{false};
  std::vector<double> times_ms_;
  double cpu_ = 0;
  std::thread thread_;
};

std::vector<lockr::Releaser> hold_all(lockr::Session& session) {
  std::vector<lockr::Releaser> all;
  for (std::size_t first = 0; first < kLeases; first += kAtOnce) {
    std::vector<Key> keys;
    for (std::size_t i = first; i < first + kAtOnce; ++i) {
      keys.push_back(Key::from_scopes({"lease", std::to_string(i)}).value());
    }
    auto held = session.lock_all(keys);
    if (!held) give_up(held.error().to_string());
    std::move(held->begin(), held->end(), std::back_inserter(all));
  }
  return all;
}

// The longest script that the server ran, by its own clock, in ms; it keeps those over 100 us.
double longest_script_ms(lockr::testing::RedisClient& client) {
  long long longest = 0;
  for (const std::string& entry : client.all({"SLOWLOG", "GET", "1000"})) {
    // id|time|us|EVALSHA|…
    const std::size_t at = entry.find('|', entry.find('|') + 1) + 1;
    if (entry.compare(entry.find('|', at) + 1, 4, "EVAL") == 0) {
      longest = std::max(longest, std::atoll(entry.c_str() + at));
    }
  }
  return static_cast<double>(longest) / 1e3;
}

void measure(benchmark::State& state, bool holds) {
  const std::chrono::milliseconds span = kRound * (lockr::bench::quick() ? 1 : 4);
  lockr::testing::RedisClient control(redis_server().socket());
  control.all({"CONFIG", "SET", "slowlog-log-slower-than", "100", "slowlog-max-len", "1000"});
  const auto locker = lockr::bench::open_redis(redis_server().port());
  const auto session = locker->open_session().value();
  for (auto _ : state) {
    auto held = holds ? hold_all(*session) : std::vector<lockr::Releaser>();
    control.all({"SLOWLOG", "RESET"});
    const double before = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    Pinger pinger;
    std::this_thread::sleep_for(span);
    pinger.stop();
    const double cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - before - pinger.cpu();
    state.SetIterationTime(std::chrono::duration<double>(span).count());
    state.counters["client_cpu_percent"] = 100 * cpu / std::chrono::duration<double>(span).count();
    state.counters["longest_ping_ms"] = pinger.longest_ms();
    state.counters["median_ping_ms"] = pinger.median_ms();
    state.counters["longest_script_ms"] = longest_script_ms(control);
    for (const lockr::Releaser& each : held) {
      if (!each.held()) give_up("a lease ran out while it was renewed");
    }
  }
  if (auto closed = session->close(); !closed) give_up(closed.error().to_string());
}

void register_all() {
  const int repetitions = lockr::bench::repetitions(3);
  for (const auto& [name, holds] : {std::pair{"lockr_10000_leases", true}, std::pair{"lockr_no_lease", false}}) {
    const auto body = [holds = holds](benchmark::State& state) { measure(state, holds); };
    benchmark::RegisterBenchmark(name, body)->Iterations(1)->Repetitions(repetitions)->UseManualTime();
  }
}

lockr::bench::Row row(const char* question, const char* ours, const char* counter, const char* unit, double goal) {
  return {.question = question,
          .backend = "redis",
          .ours = ours,
          .counter = counter,
          .unit = unit,
          .goal = goal,
          .at_most = true};
}

}  // namespace

int main(int argc, char** argv) {
  const char* const held = "lockr_10000_leases";
  return lockr::bench::run(
      argc, argv,
      {
          row("redis: 10,000 leases of 10 s renewed, % of one core of the client", held, "client_cpu_percent", "%",
              0.2),
          row("redis: 10,000 leases renewed, the server's longest script, ms", held, "longest_script_ms", "ms", 2),
          row("redis: 10,000 leases renewed, longest ping of another client, ms", held, "longest_ping_ms", "ms", 0),
          row("redis: none held, longest ping of another client, ms", "lockr_no_lease", "longest_ping_ms", "ms", 0),
      },
      register_all);
}
