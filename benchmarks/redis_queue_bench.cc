// Does everyone get a turn at Redis, how soon, and for how many commands? Real processes over one private server;
// beside them as many of redis-py, whose Lock asks again every 0.1 s, with its default settings.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "redis_peers.h"
#include "report.h"
#include "worker.h"

namespace {

using lockr::Key;
using lockr::bench::give_up;
using lockr::bench::redis_server;
using lockr::bench::Worker;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kProcesses = 8;

struct Party {
  std::size_t threads;
  std::chrono::milliseconds hold;
};
constexpr Party kCrowd{.threads = 8, .hold = std::chrono::milliseconds(0)};
constexpr Party kSingle{.threads = 1, .hold = std::chrono::milliseconds(1)};

// ---- in a worker

std::size_t take_turns(lockr::Locker& locker, Clock::time_point end, std::chrono::milliseconds hold) {
  const auto session = locker.open_session().value();
  const Key key = Key::parse("bench:hot").value();
  std::size_t turns = 0;
  for (; Clock::now() < end; ++turns) {
    const auto held = session->lock(key, {.timeout = lockr::forever});
    if (!held) give_up(held.error().to_string());
    if (hold.count() > 0) std::this_thread::sleep_for(hold);
  }
  return turns;
}

// One line: what each thread got.
int run_worker(std::uint16_t port, const Party& party, std::chrono::milliseconds span) {
  const auto locker = lockr::bench::open_redis(port);
  std::cout << "ready" << std::endl;
  std::string line;
  std::getline(std::cin, line);
  const auto end = Clock::now() + span;
  std::vector<std::size_t> turns(party.threads);
  std::vector<std::thread> threads;
  for (std::size_t& each : turns) threads.emplace_back([&] { each = take_turns(*locker, end, party.hold); });
  for (std::thread& each : threads) each.join();
  for (const std::size_t each : turns) std::cout << each << ' ';
  std::cout << std::endl;
  return 0;
}

// ---- turns

std::chrono::milliseconds span() { return std::chrono::milliseconds(lockr::bench::quick() ? 1000 : 5000); }

enum class Peer { lockr, redis_py };

std::unique_ptr<Worker> start(Peer peer, const Party& party) {
  const std::string port = std::to_string(redis_server().port());
  const std::string threads = std::to_string(party.threads);
  const std::string hold = std::to_string(party.hold.count());
  const std::string length = std::to_string(span().count());
  if (peer == Peer::lockr)
    return std::make_unique<Worker>(std::vector{std::string("--worker"), port, threads, hold, length});
  return std::make_unique<Worker>(std::vector<std::string>{PYTHON_WORKER, "redis-py", "redis://127.0.0.1:" + port,
                                                           "hot", "0", threads, hold, length},
                                  "/usr/bin/python3");
}

// Starts all at once; the turns of each process.
std::vector<double> turns_of(Peer peer, const Party& party) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::size_t i = 0; i < kProcesses; ++i) {
    workers.push_back(start(peer, party));
    workers.back()->await("ready");
  }
  for (const auto& worker : workers) worker->say("go");
  std::vector<double> all;
  for (const auto& worker : workers) {
    double sum = 0;
    std::istringstream words(worker->finish().at(0));
    for (double turns = 0; words >> turns;) sum += turns;
    all.push_back(sum);
  }
  return all;
}

// What clients sent. What scripts call is counted by the server too, each under its own name: lockr sends scripts
// alone, and redis-py a SET a try, which no script of its calls.
long long commands_sent(Peer peer) {
  lockr::testing::RedisClient client(redis_server().socket());
  long long sent =
      client.info("commandstats", "cmdstat_evalsha:calls=") + client.info("commandstats", "cmdstat_eval:calls=");
  if (peer == Peer::redis_py) sent += client.info("commandstats", "cmdstat_set:calls=");
  return sent;
}

void shares(benchmark::State& state, Peer peer, const Party& party) {
  for (auto _ : state) {
    const long long before = commands_sent(peer);
    const auto begin = Clock::now();
    const std::vector<double> turns = turns_of(peer, party);
    double sum = 0;
    for (const double each : turns) sum += each;
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
    state.counters["turns_per_s"] = sum / std::chrono::duration<double>(span()).count();
    const auto [least, most] = std::minmax_element(turns.begin(), turns.end());
    state.counters["least_share"] = *least * kProcesses / sum;
    state.counters["most_share"] = *most * kProcesses / sum;
    state.counters["commands_a_turn"] = static_cast<double>(commands_sent(peer) - before) / sum;
  }
}

void register_all() {
  const int repetitions = lockr::bench::repetitions(3);
  for (const auto& [name, peer] : {std::pair{"lockr", Peer::lockr}, std::pair{"redis_py", Peer::redis_py}}) {
    if (peer == Peer::redis_py && !lockr::bench::python_has({"redis"})) continue;
    for (const auto& [size, party] : {std::pair{"/8x8", kCrowd}, std::pair{"/8x1_hold", kSingle}}) {
      const auto body = [peer = peer, party = party](benchmark::State& state) { shares(state, peer, party); };
      benchmark::RegisterBenchmark((std::string(name) + size).c_str(), body)
          ->Iterations(1)
          ->Repetitions(repetitions)
          ->UseManualTime();
    }
  }
}

using lockr::bench::Row;

Row row(const char* question, int threads, const char* ours, const char* peer, const char* counter, const char* unit,
        double goal, bool at_most) {
  return {.question = question,
          .backend = "redis",
          .threads = threads,
          .ours = ours,
          .peer = peer,
          .peer_name = "redis-py's Lock, default settings",
          .counter = counter,
          .unit = unit,
          .goal = goal,
          .at_most = at_most};
}

std::vector<Row> rows() {
  const char* const crowd = "lockr/8x8";
  const char* const single = "lockr/8x1_hold";
  const char* const turns = "turns_per_s";
  return {
      row("redis: 8 processes x 8 threads on a key, turns against redis-py's", 64, crowd, "redis_py/8x8", turns,
          "turns/s", 3, false),
      row("redis: 8 processes x 8 threads on a key, commands an acquisition", 64, crowd, "", "commands_a_turn",
          "commands", 0.5, true),
      row("redis: 8 processes x 1 thread on a key, hold 1 ms, turns against redis-py's", 8, single, "redis_py/8x1_hold",
          turns, "turns/s", 1, false),
      row("redis: 8 processes x 1 thread on a key, hold 1 ms, least part of a fair share", 8, single, "", "least_share",
          "of a fair share", 0.5, false),
      row("redis: redis-py, 8 processes x 1 thread, hold 1 ms, least part of a fair share", 8, "redis_py/8x1_hold", "",
          "least_share", "of a fair share", 0, false),
      row("redis: redis-py, 8 processes x 1 thread, hold 1 ms, most of a fair share", 8, "redis_py/8x1_hold", "",
          "most_share", "of a fair share", 0, false),
  };
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--worker") {
    const Party party{.threads = static_cast<std::size_t>(std::atol(argv[3])),
                      .hold = std::chrono::milliseconds(std::atol(argv[4]))};
    return run_worker(static_cast<std::uint16_t>(std::atoi(argv[2])), party,
                      std::chrono::milliseconds(std::atol(argv[5])));
  }
  return lockr::bench::run(argc, argv, rows(), register_all);
}
