#include "report.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

namespace lockr::bench {
namespace {

// Every repetition's value, by benchmark and counter ("" is the real time per iteration, in ns).
class Collector : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(OO_None) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      failed |= run.error_occurred;
      if (run.run_type != Run::RT_Iteration) continue;
      auto& values = results[run.run_name.function_name + (run.run_name.args.empty() ? "" : "/" + run.run_name.args)];
      values[""].push_back(run.GetAdjustedRealTime());
      for (const auto& [name, counter] : run.counters) values[name].push_back(counter.value);
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

bool print_rows(const Collector& collector, const std::vector<Row>& rows) {
  bool all_hold = true;
  std::printf("\n%-72s %9s  %s\n", "question", "ratio", "goal");
  for (const Row& row : rows) {
    const double ours = collector.median(row.ours, row.counter);
    const double peer = row.peer.empty() ? 1 : collector.median(row.peer, row.counter);
    if (ours == 0 || peer == 0) {
      std::printf("%-72s %9s\n", row.question.c_str(), "not run");
      continue;
    }
    const double ratio = ours / peer;
    const bool holds = row.at_most ? ratio <= row.goal : ratio >= row.goal;
    all_hold &= holds;
    std::printf("%-72s %9.2f  %s %.2f  %s\n", row.question.c_str(), ratio, row.at_most ? "<=" : ">=", row.goal,
                holds ? "holds" : "MISSED");
  }
  return all_hold;
}

}  // namespace

int run(int argc, char** argv, const std::vector<Row>& rows) {
  std::vector<char*> arguments(argv, argv + argc);
  const auto check = std::remove_if(arguments.begin() + 1, arguments.end(),
                                    [](const char* each) { return std::strcmp(each, "--check") == 0; });
  const bool checked = check != arguments.end();
  arguments.erase(check, arguments.end());
  // Interleaved, unless the caller says otherwise: the machine's speed drifts.
  std::string interleaved = "--benchmark_enable_random_interleaving=true";
  std::string repetitions = "--benchmark_repetitions=9";
  std::string min_time = "--benchmark_min_time=0.1";
  arguments.insert(arguments.begin() + 1, {interleaved.data(), repetitions.data(), min_time.data()});
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  print_medians(collector);
  const bool all_hold = print_rows(collector, rows);
  return collector.failed || (checked && !all_hold) ? 1 : 0;
}

}  // namespace lockr::bench
