// Tortures all backends, each with an engine of its own: the stage of CI, and the soak.
#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <thread>

#include "lockr/releaser.h"
#include "lockr/version.h"
#include "tests/torture/floors.h"
#include "tests/torture/postgres_rig.h"
#include "tests/torture/process_faults.h"
#include "tests/torture/redis_rig.h"
#include "tests/torture/report.h"
#include "tests/torture/road_rigs.h"
#include "tests/torture/run.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;

/// Sessions inside one process.
class MemoryRig final : public Rig {
 public:
  MemoryRig() : Rig("memory:") {}
  std::string name() const override { return "memory"; }
  std::vector<std::unique_ptr<Fault>> faults() override { return mood_faults(); }
  // Its threads never sleep, so those that were woken may have to wait for a processor, for up to 80 ms in long runs. A
  // wake-up that is lost is made up for by nothing.
  Bounds bounds() const override { return {.wake = 250 * kMillisecond, .reserve = 5 * kMillisecond}; }
};

/// A directory of our own.
class FileRig final : public Rig {
 public:
  FileRig() : Rig({}) {
    std::string name = "/dev/shm/lockr-torture-XXXXXX";
    if (!::mkdtemp(name.data())) throw std::runtime_error("can't make a directory in /dev/shm");
    directory_ = name;
  }
  ~FileRig() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  std::string name() const override { return "file"; }
  std::string config(int) const override { return "file:" + directory_; }
  /// Locks that the kernel still has.
  std::vector<std::string> leftovers(bool) override {
    std::vector<std::string> left;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      if (!entry.path().filename().string().starts_with("lock-")) continue;
      const Descriptor file(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
      struct flock whole {};
      whole.l_type = F_WRLCK;
      if (::fcntl(file.get(), F_OFD_GETLK, &whole) != 0) throw std::runtime_error("can't ask for the locks of a file");
      if (whole.l_type != F_UNLCK) left.push_back("a byte of " + entry.path().string() + " is locked");
    }
    return left;
  }
  // A ring that was lost is made up for by a look every 25 ms; a free key is kept for a writer for 60 ms.
  Bounds bounds() const override { return {.wake = 50 * kMillisecond, .reserve = 60 * kMillisecond}; }

 private:
  std::string directory_;
};

/// A run of one backend.
struct Stage {
  std::string backend, name;
  std::function<std::unique_ptr<Rig>()> rig;
  Run run;
  Floors floors;
  /// It waits more than it works: CI runs it beside its neighbours that do, too.
  bool beside = false;
  /// Through a bad network, or on a bad host.
  bool bad_road = false;
};

Run ci_run(double seconds, int workers, int threads) {
  Run run;
  run.seconds = seconds;
  run.stretch_seconds = seconds / 3;
  run.workers = workers;
  run.threads = threads;
  run.keys = 6;
  return run;
}

std::vector<Stage> ci_stages() {
  std::vector<Stage> stages;
  Run memory = ci_run(3, 1, 8);
  memory.stretch_seconds = 0.5;
  memory.hold = 100us;
  memory.hold_one_in = 512;
  memory.attempts_per_slot = 1u << 18;
  memory.faults = {{"impatient", 1}, {"fickle", 1}, {"fork", 1}};
  stages.push_back({"memory",
                    "memory",
                    [] { return std::make_unique<MemoryRig>(); },
                    memory,
                    {{{"cancels", 1'000}, {"timeouts of 1 ms", 100}, {"forks", 10}}}});

  Run file = ci_run(7, 6, 2);
  file.hold_one_in = 32;
  file.faults = {{"kill", 12}, {"stop", 5}, {"impatient", 1}, {"fickle", 1}, {"fork", 1}};
  stages.push_back({"file",
                    "file",
                    [] { return std::make_unique<FileRig>(); },
                    file,
                    {{{"kill", 40},
                      {"stop", 15},
                      {"takeovers", 10},
                      {"forks", 20},
                      {"cancels", 1'000},
                      {"timeouts of 1 ms", 1'000}}}});

  Run postgres = ci_run(16, 5, 2);
  postgres.keys = 48;
  postgres.hot_percent = 20;
  postgres.hold_one_in = 32;
  postgres.long_hold = 2s;
  postgres.faults = {{"kill", 4},
                     {"stop", 1},
                     {"stop_long", 0.3},
                     {"impatient", 1},
                     {"fickle", 1},
                     {"fork", 0.5},
                     {"terminate", 4},
                     {"terminate_all", 0.5},
                     {"cancel_backend", 5},
                     {"freeze_backend", 0.5},
                     {"restart_fast", 0.15},
                     {"restart_immediate", 0.15}};
  stages.push_back({"postgres",
                    "postgres",
                    [] { return std::make_unique<PostgresRig>("2s"); },
                    postgres,
                    {{{"kill", 30},
                      {"takeovers", 10},
                      {"terminate", 30},
                      {"stop", 8},
                      {"cancel_backend", 40},
                      {"losses", 5},
                      {"cancels", 500},
                      {"timeouts of 1 ms", 500}}}});

  Run redis = ci_run(12, 5, 2);
  redis.keys = 64;
  redis.hot_percent = 20;
  redis.hold_one_in = 32;
  redis.long_hold = 3s;
  redis.timeout = 60ms;  // What the dead held stays for a second.
  redis.faults = {{"kill", 4},   {"stop", 1},    {"stop_long", 1},      {"impatient", 1},
                  {"fickle", 1}, {"fork", 0.5},  {"client_kill", 3},    {"kill_listeners", 0.5},
                  {"pause", 1},  {"sleep", 0.5}, {"script_flush", 1.5}, {"restart", 0.15}};
  stages.push_back({"redis",
                    "redis",
                    [] { return std::make_unique<RedisRig>(); },
                    redis,
                    {{{"kill", 25},
                      {"takeovers", 2},
                      {"stop_long", 4},
                      {"client_kill", 15},
                      {"losses", 3},
                      {"pause", 6},
                      {"sleep", 3},
                      {"script_flush", 8},
                      {"cancels", 200},
                      {"timeouts of 1 ms", 100}}},
                    true});
  return stages;
}

// On a machine that is slow, or busy with something else, it takes longer until there is enough to judge.
void go_on_until_enough(Stage& stage) {
  stage.run.enough = [floors = stage.floors](const Outcome& outcome) {
    return !outcome.passed() || floors.reached(outcome);
  };
  stage.run.at_most_seconds = 3 * stage.run.seconds;
}

// What lies between workers and engine, and what their hosts run out of.
std::vector<Stage> road_stages() {
  const auto stage = [](std::string backend, std::string name, std::function<std::unique_ptr<Rig>()> rig,
                        std::map<std::string, double> faults, std::map<std::string, std::uint64_t> wanted) {
    Run run = ci_run(10, 3, 2);
    run.stretch_seconds = 5;
    run.hold = 50ms;  // Or nobody would be there to be told of a loss.
    run.faults = std::move(faults);
    return Stage{std::move(backend), std::move(name), std::move(rig), std::move(run), {std::move(wanted)}, true, true};
  };
  // Each strikes once at the start. What lasts for longer than the loss bound must leave time for work.
  const std::map<std::string, double> proxy{{"kill", 0.5},  {"slow", 0.4},     {"split", 0.4},  {"silent", 0.3},
                                            {"dead", 0.02}, {"half_close", 2}, {"truncate", 2}, {"reset", 2}};
  const std::map<std::string, std::uint64_t> proxy_wanted{{"half_close", 4}, {"truncate", 4}, {"reset", 4}};
  const std::map<std::string, double> network{
      {"kill", 0.5}, {"packet_loss", 0.4}, {"blackhole", 0.02}, {"unplug", 0.02}};
  return {stage("file", "file_disk", [] { return std::make_unique<FileDiskRig>(); },
                {{"kill", 2}, {"full_disk", 1}, {"no_descriptors", 3}}, {{"full_disk", 3}, {"no_descriptors", 8}}),
          stage(
              "postgres", "postgres_proxy", [] { return std::make_unique<PostgresProxyRig>(); }, proxy, proxy_wanted),
          stage("postgres", "postgres_network", &PostgresNetworkRig::make, network, {}),
          stage(
              "redis", "redis_proxy", [] { return std::make_unique<RedisProxyRig>(); }, proxy, proxy_wanted),
          stage("redis", "redis_network", &RedisNetworkRig::make, network, {}),
          stage("redis", "redis_host", &RedisHostRig::make,
                {{"kill", 0.5}, {"clock_forward", 0.5}, {"clock_back", 0.5}, {"full_disk", 0.3}, {"no_descriptors", 2}},
                {{"clock_forward", 2}, {"clock_back", 2}, {"no_descriptors", 5}})};
}

std::vector<Stage> all_stages() {
  std::vector<Stage> stages = ci_stages();
  for (Stage& stage : road_stages()) stages.push_back(std::move(stage));
  for (Stage& stage : stages) go_on_until_enough(stage);
  return stages;
}

// For long, with fewer processes, since all backends run at once; the first process is not killed.
void make_soak(Stage& stage, double minutes) {
  stage.run.seconds = minutes * 60;
  stage.run.stretch_seconds = std::min(10.0, stage.run.seconds / 3);
  stage.run.enough = nullptr;
  stage.run.workers = stage.name == "memory" ? 1 : stage.bad_road ? 2 : 3;
  stage.run.threads = stage.name == "memory" ? 4 : 2;
  stage.run.spare_first = true;
  if (stage.bad_road) stage.run.hold = 400ms;  // Some for longer than a silent network may stay unnoticed.
  for (auto& [fault, pace] : stage.run.faults) pace /= 3;
  stage.floors.wanted.clear();
}

/// Runs of which each waits for the one before it; several of these go on at once.
using Line = std::vector<Stage>;

// Each backend's runs in turn: half of the time is that of the first, which comes to most.
std::vector<Line> soak_lines(const std::vector<Stage>& stages, double minutes) {
  std::vector<Line> lines;
  for (const Stage& stage : stages) {
    if (lines.empty() || lines.back().front().backend != stage.backend) lines.emplace_back();
    lines.back().push_back(stage);
  }
  for (Line& line : lines) {
    const auto others = static_cast<double>(line.size() - 1);
    for (Stage& stage : line) {
      const bool first = &stage == &line.front();
      make_soak(stage, others == 0 ? minutes : first ? minutes / 2 : minutes / 2 / others);
    }
  }
  return lines;
}

struct StageResult {
  std::string name{};
  std::optional<Outcome> outcome{};
  std::string failure{};  // Empty: none.
  std::string refused{};  // Why it can't be had on this machine.
  std::string fewer{};    // Of what it saw less than wanted.
};

StageResult run_stage(const Stage& stage) {
  StageResult result{.name = stage.name};
  try {
    const auto rig = stage.rig();
    result.outcome = torture(*rig, stage.run);
    result.failure = failure_of(stage.name, *rig, stage.run, *result.outcome);
    const std::string missed = stage.floors.missed(*result.outcome);
    if (!missed.empty()) result.failure += stage.name + " came to too little:\n" + missed;
    result.fewer = stage.floors.fewer(*result.outcome);
  } catch (const testing::Network::Refused& reason) {
    result.refused = reason.what();
  } catch (const testing::SmallDisk::Refused& reason) {
    result.refused = reason.what();
  } catch (const std::exception& error) {
    result.failure = stage.name + ": " + error.what() + ", seed " + std::to_string(stage.run.seed) + "\n";
  }
  return result;
}

std::string first_line_of(const std::string& command) {
  std::array<char, 200> line{};
  FILE* const pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return "?";
  if (!std::fgets(line.data(), line.size(), pipe)) line[0] = '\0';
  ::pclose(pipe);
  std::string text(line.data());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Least squares over what was read after the first tenth, in bytes an hour.
double slope_of(const std::vector<Outcome::Reading>& readings) {
  double n = 0, t = 0, m = 0, tt = 0, tm = 0;
  for (std::size_t i = readings.size() / 10; i < readings.size(); ++i) {
    const double x = readings[i].seconds / 3600, y = static_cast<double>(readings[i].resident);
    n += 1, t += x, m += y, tt += x * x, tm += x * y;
  }
  const double below = n * tt - t * t;
  return below > 0 ? (n * tm - t * m) / below : 0;
}

std::string soak_text(const std::vector<StageResult>& results, std::uint64_t seed) {
  std::string text = "\n" + first_line_of("date -u +'%Y-%m-%d %H:%M UTC'") + "; lockr " + version() + "; seed " +
                     std::to_string(seed) + "; " + first_line_of(testing::postgres_program("postgres") + " --version") +
                     "; " + first_line_of("redis-server --version") + "; Linux " + first_line_of("uname -r") + "; " +
                     std::to_string(std::thread::hardware_concurrency()) +
                     " processors\n\n| run | memory of its own | descriptors |\n|---|---|---|\n";
  for (const StageResult& result : results) {
    if (!result.outcome || result.outcome->readings.empty()) continue;
    const auto& readings = result.outcome->readings;
    char line[300];
    std::snprintf(line, sizeof line, "| %s | %.1f MiB, %+.2f MiB/h | %u, at the end %u |\n", result.name.c_str(),
                  static_cast<double>(readings.back().resident) / 1048576, slope_of(readings) / 1048576,
                  readings[readings.size() / 10].descriptors, readings.back().descriptors);
    text += line;
  }
  return text;
}

int report(const std::vector<StageResult>& results, const std::string& more, const std::string& path) {
  std::vector<std::pair<std::string, Outcome>> outcomes;
  std::string failures, notes;
  for (const StageResult& result : results) {
    if (result.outcome) outcomes.emplace_back(result.name, *result.outcome);
    failures += result.failure;
    if (!result.refused.empty()) notes += "\nNOT TESTED HERE: " + result.name + ": " + result.refused + "\n";
    if (!result.fewer.empty()) notes += "\nFEWER THAN WANTED in the time of " + result.name + ":\n" + result.fewer;
  }
  const std::string text = table_of(outcomes) + more + notes + (failures.empty() ? "" : "\n" + failures);
  std::cout << text << std::flush;
  if (!path.empty()) {
    std::filesystem::create_directories(std::filesystem::absolute(path).parent_path());
    std::ofstream(path) << text;
  }
  return failures.empty() ? 0 : 1;
}

struct Arguments {
  std::vector<std::string> backends;
  double minutes = 0;
  std::uint64_t seed = 1;
  std::string report;
};

std::vector<StageResult> run_line(const Line& line) {
  std::vector<StageResult> results;
  for (const Stage& stage : line) results.push_back(run_stage(stage));
  return results;
}

// All lines at once; results in the order of the stages.
std::vector<StageResult> run_beside(const std::vector<Line>& lines) {
  std::vector<std::vector<StageResult>> results(lines.size());
  {
    std::vector<std::jthread> running;
    for (std::size_t i = 0; i < lines.size(); ++i) running.emplace_back([&, i] { results[i] = run_line(lines[i]); });
  }
  std::vector<StageResult> all;
  for (auto& some : results) std::move(some.begin(), some.end(), std::back_inserter(all));
  return all;
}

// One after the other, then at once those that mostly wait.
std::vector<StageResult> run_ci(const std::vector<Stage>& stages) {
  Line alone;
  std::vector<Line> beside;
  for (const Stage& stage : stages) {
    if (stage.beside) {
      beside.push_back({stage});
    } else {
      alone.push_back(stage);
    }
  }
  std::vector<StageResult> results = run_line(alone);
  std::ranges::move(run_beside(beside), std::back_inserter(results));
  return results;
}

int run_all(const Arguments& arguments) {
  const bool soak = arguments.minutes > 0;
  std::vector<Stage> stages = all_stages();
  std::erase_if(stages, [&](const Stage& stage) {
    const auto named = [&](const std::string& name) { return std::ranges::count(arguments.backends, name) != 0; };
    return !arguments.backends.empty() && !named(stage.name) && !(soak && named(stage.backend));
  });
  for (Stage& stage : stages) stage.run.seed = arguments.seed;
  if (!soak) return report(run_ci(stages), "", arguments.report);
  // Those of a backend beside each other.
  std::ranges::stable_sort(stages, {}, &Stage::backend);
  const std::vector<StageResult> results = run_beside(soak_lines(stages, arguments.minutes));
  return report(results, soak_text(results, arguments.seed), arguments.report);
}

}  // namespace
}  // namespace lockr::torture

int main(int argc, char** argv) {
  using namespace lockr::torture;
  if (const auto status = worker_main(argc, argv)) return *status;
  CLI::App app("Tortures all backends: one after the other as CI does, or with --minutes all at once.",
               "torture_stages");
  Arguments arguments;
  app.add_option("--backend", arguments.backends, "only this run; with --minutes, of a backend all; may be repeated")
      ->check(CLI::IsMember({"memory", "file", "file_disk", "postgres", "postgres_proxy", "postgres_network", "redis",
                             "redis_proxy", "redis_network", "redis_host"}));
  app.add_option("--minutes", arguments.minutes, "a soak of so long; the runs of a backend share it")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", arguments.seed, "of everything that is random")->capture_default_str();
  app.add_option("--report", arguments.report, "where to write what is printed");
  CLI11_PARSE(app, argc, argv);
  lockr::testing::Network::prepare();
  return run_all(arguments);
}
