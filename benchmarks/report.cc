#include "report.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace lockr::bench {
namespace {

bool quick_run = false;
int asked_repetitions = 0;

struct Figure {
  double median;
  double least;
  double most;
};

// Every repetition's value, by benchmark and counter ("" is the real time per iteration, in ns).
class Collector : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(OO_None) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const std::string name = run.run_name.function_name + (run.run_name.args.empty() ? "" : "/" + run.run_name.args);
      if (run.error_occurred) std::fprintf(stderr, "%s: %s\n", name.c_str(), run.error_message.c_str());
      failed |= run.error_occurred;
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      auto& values = results[name];
      values[""].push_back(run.GetAdjustedRealTime());
      for (const auto& [counter, value] : run.counters) values[counter].push_back(value.value);
    }
  }

  // None: it was not run, or not to any result.
  std::optional<Figure> figure(const std::string& name, const std::string& counter) const {
    const auto found = results.find(name);
    if (found == results.end() || found->second.count(counter) == 0) return std::nullopt;
    std::vector<double> values = found->second.at(counter);
    std::sort(values.begin(), values.end());
    const double median = values[values.size() / 2];
    if (median == 0) return std::nullopt;
    return Figure{median, values.front(), values.back()};
  }

  std::map<std::string, std::map<std::string, std::vector<double>>> results;
  bool failed = false;
};

struct Verdict {
  double ratio;
  bool holds;
};

// None: it was not measured.
std::optional<Verdict> judge(const Collector& collector, const Row& row) {
  const auto ours = collector.figure(row.ours, row.counter);
  const auto peer = row.peer.empty() ? Figure{1, 1, 1} : collector.figure(row.peer, row.counter);
  if (!ours || !peer) return std::nullopt;
  const double ratio = ours->median / peer->median;
  return Verdict{ratio, row.goal == 0 || (row.at_most ? ratio <= row.goal : ratio >= row.goal)};
}

void print_medians(const Collector& collector) {
  std::printf("%-44s %-16s %14s %14s %14s\n", "benchmark", "figure", "median", "least", "most");
  for (const auto& [name, figures] : collector.results) {
    for (const auto& [counter, values] : figures) {
      const auto found = collector.figure(name, counter).value_or(Figure{});
      std::printf("%-44s %-16s %14.2f %14.2f %14.2f\n", name.c_str(), counter.empty() ? "ns" : counter.c_str(),
                  found.median, found.least, found.most);
    }
  }
}

void print_row(const Row& row, const std::optional<Verdict>& verdict) {
  if (!verdict) {
    std::printf("%-84s %9s\n", row.question.c_str(), "not run");
  } else if (row.goal == 0) {
    std::printf("%-84s %9.2f\n", row.question.c_str(), verdict->ratio);
  } else {
    std::printf("%-84s %9.2f  %s %.2f  %s\n", row.question.c_str(), verdict->ratio, row.at_most ? "<=" : ">=", row.goal,
                verdict->holds ? "holds" : "MISSED");
  }
}

// What was not measured is null.
nlohmann::json described(const Row& row, const Collector& collector) {
  nlohmann::json entry{{"question", row.question}, {"backend", row.backend}, {"threads", row.threads},
                       {"unit", row.unit},         {"ratio", nullptr},       {"goal", nullptr},
                       {"at_most", row.at_most},   {"holds", nullptr},       {"peer_name", nullptr}};
  for (const auto& [side, benchmark] : {std::pair{"ours", row.ours}, std::pair{"peer", row.peer}}) {
    const auto found = collector.figure(benchmark, row.counter);
    entry[side] = found ? nlohmann::json(found->median) : nullptr;
    entry[side + std::string("_spread")] = found ? nlohmann::json{found->least, found->most} : nullptr;
  }
  if (!row.peer.empty()) entry["peer_name"] = row.peer_name;
  if (row.goal != 0) entry["goal"] = row.goal;
  if (const auto verdict = judge(collector, row)) {
    entry["ratio"] = verdict->ratio;
    entry["holds"] = verdict->holds;
  }
  return entry;
}

nlohmann::json described(const std::vector<Point>& points, const Collector& collector) {
  nlohmann::json all = nlohmann::json::array();
  for (const Point& point : points) {
    const auto found = collector.figure(point.benchmark, point.counter);
    if (!found) continue;
    all.push_back({{"plot", point.plot},
                   {"backend", point.backend},
                   {"line", point.line},
                   {"x", point.x},
                   {"value", found->median},
                   {"least", found->least},
                   {"most", found->most},
                   {"unit", point.unit}});
  }
  return all;
}

bool write_report(const std::string& path, const nlohmann::json& report) {
  std::ofstream out(path);
  out << report.dump(2) << '\n';
  out.close();
  if (!out) std::fprintf(stderr, "%s can't be written\n", path.c_str());
  return static_cast<bool>(out);
}

// Takes `name` out of the arguments; its value, "" without one, or none when it was not given.
std::optional<std::string> take_option(std::vector<char*>& arguments, std::string_view name) {
  std::optional<std::string> value;
  std::erase_if(arguments, [&](const char* each) {
    const std::string_view text(each);
    if (text != name && !text.starts_with(std::string(name) + "=")) return false;
    value = text.substr(std::min(text.size(), name.size() + 1));
    return true;
  });
  return value;
}

}  // namespace

bool quick() noexcept { return quick_run; }

int repetitions(int as_a_rule) noexcept {
  if (asked_repetitions > 0) return asked_repetitions;
  return quick_run ? 1 : as_a_rule;
}

int run(int argc, char** argv, const std::vector<Row>& rows, const std::function<void()>& prepare,
        const std::vector<Point>& points) {
  std::vector<char*> arguments(argv, argv + argc);
  const bool checked = take_option(arguments, "--check").has_value();
  const std::optional<std::string> report = take_option(arguments, "--report");
  quick_run = take_option(arguments, "--quick").has_value();
  for (const std::string_view each : arguments) {
    constexpr std::string_view option = "--benchmark_repetitions=";
    if (each.starts_with(option)) asked_repetitions = std::atoi(each.data() + option.size());
  }
  // Interleaved, unless the caller says otherwise: the machine's speed drifts.
  std::string interleaved = "--benchmark_enable_random_interleaving=true";
  std::string repetitions = std::string("--benchmark_repetitions=") + (quick_run ? "3" : "9");
  std::string min_time = std::string("--benchmark_min_time=") + (quick_run ? "0.01" : "0.1");
  arguments.insert(arguments.begin() + 1, {interleaved.data(), repetitions.data(), min_time.data()});
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  if (prepare) prepare();
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  print_medians(collector);
  std::printf("\n%-84s %9s  %s\n", "question", "ratio", "goal");
  bool all_hold = true;
  nlohmann::json all_rows = nlohmann::json::array();
  for (const Row& row : rows) {
    const std::optional<Verdict> verdict = judge(collector, row);
    print_row(row, verdict);
    all_rows.push_back(described(row, collector));
    if (verdict) all_hold &= verdict->holds;
  }
  const bool written = !report || write_report(*report, {{"rows", all_rows}, {"points", described(points, collector)}});
  return collector.failed || !written || (checked && !all_hold) ? 1 : 0;
}

}  // namespace lockr::bench
