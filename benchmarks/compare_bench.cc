// The same work for everybody: lockr, its backend's bare client, the usual habits and other libraries lock and unlock
// keys of their own, one hot key, one that is mostly shared, and 64 at once. What it costs, how long single cycles
// take, how many connections are open and whose CPU is busy.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "contest.h"
#include "percentile.h"
#include "report.h"

namespace {

using lockr::bench::Arena;
using lockr::bench::arena;
using lockr::bench::Contender;
using lockr::bench::kCrowd;
using lockr::bench::Outcome;
using lockr::bench::percentile;
using lockr::bench::Placement;
using lockr::bench::Point;
using lockr::bench::Row;
using lockr::bench::Task;
using lockr::bench::Work;

struct Round {
  Work work;
  std::size_t members;
  Placement where;
};

std::size_t most_members() { return arena().processes ? 16 : 64; }

std::string word_of(Work work) {
  switch (work) {
    case Work::own_keys:
      return "own_keys";
    case Work::hot_key:
      return "hot_key";
    case Work::hot_key_shared:
      return "hot_key_shared";
    case Work::batch:
      return "batch";
  }
  return {};
}

std::string name_of(const Round& round, const Contender& contender) {
  const std::string where = round.where == Placement::apart      ? "_apart"
                            : round.where == Placement::together ? "_together"
                                                                 : "";
  return word_of(round.work) + "/" + std::to_string(round.members) + where + "/" + contender.id;
}

// One member beside a server is placed both ways.
std::vector<Round> placed(Work work) {
  if (!arena().server) return {{work, 1, Placement::anywhere}};
  return {{work, 1, Placement::apart}, {work, 1, Placement::together}};
}

std::vector<Round> rounds() {
  std::vector<Round> all = placed(Work::own_keys);
  for (std::size_t members = 2; members <= most_members(); members *= 2) {
    all.push_back({Work::own_keys, members, Placement::anywhere});
  }
  all.push_back({Work::hot_key, kCrowd, Placement::anywhere});
  all.push_back({Work::hot_key_shared, kCrowd, Placement::anywhere});
  for (const Round& round : placed(Work::batch)) {
    if (round.where != Placement::together) all.push_back(round);
  }
  return all;
}

bool takes_part(const Contender& contender, const Round& round) {
  if (contender.is_floor && round.work != Work::own_keys) return false;
  if (contender.slow_to_start && round.members != 1 && round.members != kCrowd) return false;
  return round.members <= contender.most_members;
}

void tell(benchmark::State& state, const Outcome& outcome, const Task& task) {
  state.SetIterationTime(1 / outcome.cycles_per_s);
  state.counters["cycles_per_s"] = outcome.cycles_per_s;
  for (const auto& [name, permille] : {std::pair{"p50_ns", 500}, {"p99_ns", 990}, {"p99.9_ns", 999}}) {
    if (const auto time = percentile(outcome.times_ns, permille)) state.counters[name] = *time;
  }
  const double cycles = outcome.cycles_per_s * std::chrono::duration<double>(task.span).count();
  if (outcome.client_cpu_s > 0) state.counters["client_cpu_us"] = outcome.client_cpu_s / cycles * 1e6;
  if (outcome.server_cpu_s > 0) state.counters["server_cpu_us"] = outcome.server_cpu_s / cycles * 1e6;
  if (outcome.connections > 0) state.counters["connections"] = outcome.connections;
}

Task task_of(const Round& round) {
  const std::size_t keys = std::max(arena().keys / round.members, lockr::bench::kBatch);
  return {round.work, round.members, std::chrono::milliseconds(lockr::bench::quick() ? 25 : 200), keys};
}

void compete(benchmark::State& state, const Contender& contender, const Round& round) {
  const Task task = task_of(round);
  for (auto _ : state) tell(state, lockr::bench::compete(arena(), contender, task, round.where), task);
}

// A quick run goes without the sizes between.
bool is_left_out(const Round& round) {
  return lockr::bench::quick() && round.members != 1 && round.members != kCrowd && round.members != most_members();
}

void register_all() {
  for (const Contender& contender : arena().contenders) {
    for (const Round& round : rounds()) {
      if (contender.missing || !takes_part(contender, round) || is_left_out(round)) continue;
      const auto body = [&contender, round](benchmark::State& state) { compete(state, contender, round); };
      benchmark::RegisterBenchmark(name_of(round, contender).c_str(), body)
          ->Iterations(1)
          ->Repetitions(lockr::bench::repetitions(contender.slow_to_start ? 2 : 3))
          ->UseManualTime();
    }
  }
}

// ---- the rows: what people would look up

std::string question_of(const Round& round) {
  const std::string members = std::to_string(round.members) + (arena().processes ? " process" : " thread") +
                              (round.members == 1  ? ""
                               : arena().processes ? "es"
                                                   : "s");
  std::string what;
  switch (round.work) {
    case Work::own_keys:
      what = "distinct keys, " + members;
      break;
    case Work::hot_key:
      what = "one hot key, " + members;
      break;
    case Work::hot_key_shared:
      what = "one hot key, 90 % shared, " + members;
      break;
    case Work::batch:
      what = "64 keys and back, " + members;
      break;
  }
  const std::string where = round.where == Placement::apart      ? ", different CPUs"
                            : round.where == Placement::together ? ", one CPU"
                                                                 : "";
  return arena().backend + ": " + what + where;
}

bool has_a_row(const Round& round) {
  return round.work != Work::own_keys || round.members == 1 || round.members == 4 || round.members == most_members();
}

std::vector<Row> rows() {
  std::vector<Row> all;
  const Contender& ours = arena().contenders.front();
  for (const Round& round : rounds()) {
    if (!has_a_row(round)) continue;
    for (const Contender& peer : arena().contenders) {
      if (&peer == &ours || !takes_part(peer, round)) continue;
      all.push_back({.question = question_of(round),
                     .backend = arena().backend,
                     .threads = static_cast<int>(round.members),
                     .ours = name_of(round, ours),
                     .peer = name_of(round, peer),
                     .peer_name = peer.name,
                     .counter = "cycles_per_s",
                     .unit = "cycles/s",
                     .at_most = false});
    }
  }
  return all;
}

std::vector<Point> points() {
  std::vector<Point> all;
  for (const Contender& contender : arena().contenders) {
    const auto add = [&](const char* plot, double x, const Round& round, const char* counter, const char* unit) {
      all.push_back({plot, arena().backend, contender.name, x, name_of(round, contender), counter, unit});
    };
    for (const Round& round : rounds()) {
      const auto x = static_cast<double>(round.members);
      const bool alone = round.members == 1 && round.where != Placement::together;
      if (round.work == Work::own_keys && round.where != Placement::together) {
        add("throughput", x, round, "cycles_per_s", "cycles/s");
        add("connections", x, round, "connections", "connections");
      }
      if (round.work == Work::own_keys && (round.members == 4 || alone)) {
        add("cpu_client", x, round, "client_cpu_us", "us");
        add("cpu_server", x, round, "server_cpu_us", "us");
      }
      const bool hot = round.work == Work::hot_key;
      if (!hot && !(round.work == Work::own_keys && alone)) continue;
      for (const auto& [part, counter] : {std::pair{50.0, "p50_ns"}, {99.0, "p99_ns"}, {99.9, "p99.9_ns"}}) {
        add(hot ? "latency_hot" : "latency", part, round, counter, "ns");
      }
    }
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) { return lockr::bench::run(argc, argv, rows(), register_all, points()); }
