#include "report.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace lockr::bench {
namespace {

bool quick_run = false;

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

  double median(const std::string& name, const std::string& counter) const {
    const auto found = results.find(name);
    if (found == results.end() || found->second.count(counter) == 0) return 0;
    std::vector<double> values = found->second.at(counter);
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  std::map<std::string, std::map<std::string, std::vector<double>>> results;
  bool failed = false;
};

struct Verdict {
  double ours;
  double peer;
  double ratio;
  bool holds;
};

// None: it was not run.
std::optional<Verdict> judge(const Collector& collector, const Row& row) {
  const double ours = collector.median(row.ours, row.counter);
  const double peer = row.peer.empty() ? 1 : collector.median(row.peer, row.counter);
  if (ours == 0 || peer == 0) return std::nullopt;
  const double ratio = ours / peer;
  return Verdict{ours, peer, ratio, row.goal == 0 || (row.at_most ? ratio <= row.goal : ratio >= row.goal)};
}

void print_medians(const Collector& collector) {
  std::printf("%-44s %-16s %14s %14s %14s\n", "benchmark", "figure", "median", "least", "most");
  for (const auto& [name, figures] : collector.results) {
    for (const auto& [counter, values] : figures) {
      const auto [least, most] = std::minmax_element(values.begin(), values.end());
      std::printf("%-44s %-16s %14.2f %14.2f %14.2f\n", name.c_str(), counter.empty() ? "ns" : counter.c_str(),
                  collector.median(name, counter), *least, *most);
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
nlohmann::json described(const Row& row, const std::optional<Verdict>& verdict, const Collector& collector) {
  const auto measured = [&](const std::string& name) {
    const double median = collector.median(name, row.counter);
    return median == 0 ? nlohmann::json() : nlohmann::json(median);
  };
  nlohmann::json entry{{"question", row.question}, {"backend", row.backend}, {"threads", row.threads},
                       {"unit", row.unit},         {"ratio", nullptr},       {"goal", nullptr},
                       {"at_most", row.at_most},   {"holds", nullptr},       {"peer_name", nullptr}};
  entry["ours"] = measured(row.ours);
  entry["peer"] = measured(row.peer);
  if (!row.peer.empty()) entry["peer_name"] = row.peer_name;
  if (row.goal != 0) entry["goal"] = row.goal;
  if (!verdict) return entry;
  entry["ratio"] = verdict->ratio;
  entry["holds"] = verdict->holds;
  return entry;
}

// Adds to the rows that are in the file already, from other programs. False: it can't be read or written.
bool add_to_report(const std::string& path, const nlohmann::json& rows) {
  nlohmann::json all = nlohmann::json::array();
  if (std::ifstream before(path); before) all = nlohmann::json::parse(before, nullptr, false);
  if (!all.is_array()) {
    std::fprintf(stderr, "%s is not a report\n", path.c_str());
    return false;
  }
  all.insert(all.end(), rows.begin(), rows.end());
  std::ofstream out(path);
  out << all.dump(2) << '\n';
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

int run(int argc, char** argv, const std::vector<Row>& rows, const std::function<void()>& prepare) {
  std::vector<char*> arguments(argv, argv + argc);
  const bool checked = take_option(arguments, "--check").has_value();
  const std::optional<std::string> report = take_option(arguments, "--report");
  quick_run = take_option(arguments, "--quick").has_value();
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
  nlohmann::json described_rows = nlohmann::json::array();
  for (const Row& row : rows) {
    const std::optional<Verdict> verdict = judge(collector, row);
    print_row(row, verdict);
    described_rows.push_back(described(row, verdict, collector));
    if (verdict) all_hold &= verdict->holds;
  }
  const bool written = !report || add_to_report(*report, described_rows);
  return collector.failed || !written || (checked && !all_hold) ? 1 : 0;
}

}  // namespace lockr::bench
