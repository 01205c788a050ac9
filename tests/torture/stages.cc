// Tortures all backends, each with an engine of its own: the stage of CI, and the soak.
#include <CLI/CLI.hpp>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <mutex>
#include <thread>

#include "lockr/version.h"
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
  Bounds bounds() const override { return {.wake = 10 * kMillisecond, .reserve = 5 * kMillisecond}; }
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
  // A ring that was lost is made up for by a look every 25 ms; a free key is kept for a writer for 60 ms.
  Bounds bounds() const override { return {.wake = 50 * kMillisecond, .reserve = 60 * kMillisecond}; }

 private:
  std::string directory_;
};

/// One backend's part: what it runs, and the least that it must have reached to prove anything.
struct Stage {
  std::string name;
  std::function<std::unique_ptr<Rig>()> rig;
  Run run;
  std::uint64_t acquisitions;
  std::map<std::string, std::uint64_t> faults;
  /// It waits more than it works: runs beside its neighbours that do, too.
  bool beside = false;
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
  memory.attempts_per_slot = 1u << 18;
  memory.faults = {{"impatient", 1}, {"fickle", 1}, {"fork", 1}};
  stages.push_back({"memory",
                    [] { return std::make_unique<MemoryRig>(); },
                    memory,
                    100'000,
                    {{"cancels", 200}, {"timeouts of 1 ms", 200}, {"forks", 10}}});

  Run file = ci_run(7, 6, 2);
  file.faults = {{"kill", 12}, {"stop", 5}, {"impatient", 1}, {"fickle", 1}, {"fork", 1}};
  stages.push_back({"file",
                    [] { return std::make_unique<FileRig>(); },
                    file,
                    20'000,
                    {{"kill", 40}, {"stop", 15}, {"forks", 20}, {"cancels", 500}, {"timeouts of 1 ms", 500}}});

  Run postgres = ci_run(16, 5, 2);
  postgres.faults = {{"kill", 4},
                     {"stop", 1},
                     {"stop_long", 0.3},
                     {"impatient", 1},
                     {"fickle", 1},
                     {"fork", 0.5},
                     {"terminate", 3},
                     {"terminate_all", 0.5},
                     {"cancel_backend", 5},
                     {"freeze_backend", 0.5},
                     {"restart_fast", 0.15},
                     {"restart_immediate", 0.15}};
  stages.push_back({"postgres",
                    [] { return std::make_unique<PostgresRig>("2s"); },
                    postgres,
                    5'000,
                    {{"kill", 30},
                     {"terminate", 20},
                     {"stop", 5},
                     {"cancel_backend", 20},
                     {"restart_fast", 1},
                     {"restart_immediate", 1},
                     {"cancels", 200},
                     {"timeouts of 1 ms", 200}}});

  Run redis = ci_run(12, 5, 2);
  redis.keys = 24;
  redis.timeout = 250ms;
  redis.faults = {{"kill", 4},   {"stop", 1},    {"stop_long", 1},      {"impatient", 1},
                  {"fickle", 1}, {"fork", 0.5},  {"client_kill", 3},    {"kill_listeners", 0.5},
                  {"pause", 1},  {"sleep", 0.5}, {"script_flush", 1.5}, {"restart", 0.15}};
  stages.push_back({"redis",
                    [] { return std::make_unique<RedisRig>(); },
                    redis,
                    5'000,
                    {{"kill", 25},
                     {"stop_long", 3},
                     {"client_kill", 15},
                     {"pause", 5},
                     {"sleep", 2},
                     {"script_flush", 8},
                     {"restart", 1},
                     {"cancels", 60},
                     {"timeouts of 1 ms", 60}}});
  return stages;
}

// What lies between workers and engine, and what their hosts run out of.
std::vector<Stage> road_stages() {
  const auto stage = [](std::string name, std::function<std::unique_ptr<Rig>()> rig,
                        std::map<std::string, double> faults, std::map<std::string, std::uint64_t> floors) {
    Run run = ci_run(10, 3, 2);
    run.stretch_seconds = 5;
    run.hold = 50ms;  // Or nobody would be there to be told of a loss.
    run.faults = std::move(faults);
    // A network that is dead for most of the time leaves room for little: on a busy machine seven were seen.
    return Stage{std::move(name), std::move(rig), std::move(run), 5, std::move(floors), true};
  };
  // Each strikes once at the start. What lasts for longer than the loss bound must leave time for work.
  const std::map<std::string, double> proxy{{"kill", 0.5},  {"slow", 0.4},     {"split", 0.4},  {"silent", 0.3},
                                            {"dead", 0.02}, {"half_close", 2}, {"truncate", 2}, {"reset", 2}};
  const std::map<std::string, std::uint64_t> proxy_floors{
      {"slow", 1}, {"split", 1}, {"silent", 1}, {"dead", 1}, {"half_close", 4}, {"truncate", 4}, {"reset", 4}};
  const std::map<std::string, double> network{
      {"kill", 0.5}, {"packet_loss", 0.4}, {"blackhole", 0.02}, {"unplug", 0.02}};
  const std::map<std::string, std::uint64_t> network_floors{{"packet_loss", 1}, {"blackhole", 1}, {"unplug", 1}};
  return {stage("file_disk", [] { return std::make_unique<FileDiskRig>(); },
                {{"kill", 2}, {"full_disk", 1}, {"no_descriptors", 3}}, {{"full_disk", 3}, {"no_descriptors", 8}}),
          stage(
              "postgres_proxy", [] { return std::make_unique<PostgresProxyRig>(); }, proxy, proxy_floors),
          stage("postgres_network", &PostgresNetworkRig::make, network, network_floors),
          stage(
              "redis_proxy", [] { return std::make_unique<RedisProxyRig>(); }, proxy, proxy_floors),
          stage("redis_network", &RedisNetworkRig::make, network, network_floors),
          stage("redis_host", &RedisHostRig::make,
                {{"kill", 0.5}, {"clock_forward", 0.5}, {"clock_back", 0.5}, {"full_disk", 0.3}, {"no_descriptors", 2}},
                {{"clock_forward", 2}, {"clock_back", 2}, {"full_disk", 1}, {"no_descriptors", 5}})};
}

std::vector<Stage> all_stages() {
  std::vector<Stage> stages = ci_stages();
  for (Stage& stage : road_stages()) stages.push_back(std::move(stage));
  return stages;
}

// The same for long, with fewer processes each, since all run at once; the first of them is not killed.
std::vector<Stage> soak_stages(double minutes) {
  std::vector<Stage> stages = all_stages();
  for (Stage& stage : stages) {
    stage.run.seconds = minutes * 60;
    stage.run.stretch_seconds = std::min(10.0, stage.run.seconds / 3);
    stage.run.workers = stage.name == "memory" ? 1 : stage.beside ? 2 : 3;
    stage.run.threads = stage.name == "memory" ? 4 : 2;
    stage.run.spare_first = true;
    if (stage.beside) stage.run.hold = 400ms;  // Some for longer than a silent network may stay unnoticed.
    for (auto& [fault, pace] : stage.run.faults) pace /= 3;
    stage.acquisitions = 0;
    stage.faults.clear();
  }
  return stages;
}

struct StageResult {
  std::string name;
  std::optional<Outcome> outcome;
  std::string failure;  // Empty: none.
  std::string refused;  // Why it can't be had on this machine.
};

std::string missed_floors(const Stage& stage, const Outcome& outcome) {
  std::string missed;
  const auto expect = [&](const std::string& what, std::uint64_t least, std::uint64_t is) {
    if (is < least)
      missed += stage.name + ": " + std::to_string(is) + " " + what + ", fewer than " + std::to_string(least) + "\n";
  };
  expect("acquisitions", stage.acquisitions, outcome.verdict.grants);
  for (const auto& [fault, least] : stage.faults) {
    const auto struck = outcome.struck.find(fault);
    expect(fault, least, struck == outcome.struck.end() ? 0 : struck->second);
  }
  return missed;
}

StageResult run_stage(const Stage& stage) {
  StageResult result{stage.name, std::nullopt, {}, {}};
  try {
    const auto rig = stage.rig();
    result.outcome = torture(*rig, stage.run);
    result.failure = failure_of(stage.name, *rig, stage.run, *result.outcome) + missed_floors(stage, *result.outcome);
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
  std::string text =
      "\n" + first_line_of("date -u +'%Y-%m-%d %H:%M UTC'") + "; lockr " + version() + "; seed " +
      std::to_string(seed) + "; " + first_line_of(testing::postgres_program("postgres") + " --version") + "; " +
      first_line_of("redis-server --version") + "; Linux " + first_line_of("uname -r") + "; " +
      std::to_string(std::thread::hardware_concurrency()) +
      " processors\n\n"
      "| run | violations in acquisitions | 95 % bound | resident memory | descriptors |\n|---|---|---|---|---|\n";
  for (const StageResult& result : results) {
    if (!result.outcome || result.outcome->readings.empty()) continue;
    const auto& readings = result.outcome->readings;
    std::uint64_t violations = 0;
    for (const auto& [oracle, count] : result.outcome->verdict.counts) violations += count;
    char bound[40] = "-", line[300];
    const auto grants = static_cast<double>(result.outcome->verdict.grants);
    if (violations == 0) std::snprintf(bound, sizeof bound, "%.1e", 3 / grants);
    std::snprintf(line, sizeof line, "| %s | %llu in %.0f | %s | %.1f MiB, %+.2f MiB/h | %u, at the end %u |\n",
                  result.name.c_str(), static_cast<unsigned long long>(violations), grants, bound,
                  static_cast<double>(readings.back().resident) / 1048576, slope_of(readings) / 1048576,
                  readings[readings.size() / 10].descriptors, readings.back().descriptors);
    text += line;
  }
  return text;
}

int report(const std::vector<StageResult>& results, const std::string& more, const std::string& path) {
  std::vector<std::pair<std::string, Outcome>> outcomes;
  std::string failures, refused;
  for (const StageResult& result : results) {
    if (result.outcome) outcomes.emplace_back(result.name, *result.outcome);
    failures += result.failure;
    if (!result.refused.empty()) refused += "\nNOT TESTED HERE: " + result.name + ": " + result.refused + "\n";
  }
  const std::string text = table_of(outcomes) + more + refused + (failures.empty() ? "" : "\n" + failures);
  std::cout << text << std::flush;
  if (!path.empty()) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
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

int run_all(const Arguments& arguments) {
  const bool soak = arguments.minutes > 0;
  std::vector<Stage> stages = soak ? soak_stages(arguments.minutes) : all_stages();
  std::erase_if(stages, [&](const Stage& stage) {
    if (arguments.backends.empty()) return soak && stage.beside;
    return std::find(arguments.backends.begin(), arguments.backends.end(), stage.name) == arguments.backends.end();
  });
  for (Stage& stage : stages) stage.run.seed = arguments.seed;
  std::vector<StageResult> results(stages.size());
  std::vector<std::jthread> running;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const bool beside = soak || (i > 0 && stages[i].beside && stages[i - 1].beside);
    if (!beside) running.clear();
    running.emplace_back([&, i] { results[i] = run_stage(stages[i]); });
  }
  running.clear();
  return report(results, soak ? soak_text(results, arguments.seed) : "", arguments.report);
}

}  // namespace
}  // namespace lockr::torture

int main(int argc, char** argv) {
  using namespace lockr::torture;
  if (const auto status = worker_main(argc, argv)) return *status;
  CLI::App app("Tortures all backends, one after the other as CI does, or with --minutes all at once.",
               "torture_stages");
  Arguments arguments;
  app.add_option("--backend", arguments.backends, "only this run; may be repeated")
      ->check(CLI::IsMember({"memory", "file", "file_disk", "postgres", "postgres_proxy", "postgres_network", "redis",
                             "redis_proxy", "redis_network", "redis_host"}));
  app.add_option("--minutes", arguments.minutes, "a soak of so long")->check(CLI::PositiveNumber);
  app.add_option("--seed", arguments.seed, "of everything that is random")->capture_default_str();
  app.add_option("--report", arguments.report, "where to write what is printed");
  CLI11_PARSE(app, argc, argv);
  lockr::testing::Network::prepare();
  return run_all(arguments);
}
