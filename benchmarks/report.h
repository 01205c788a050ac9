// Runs the registered benchmarks interleaved and reports what the tables of figures ask for: ratios of medians, taken
// within one run, beside their goals.
#pragma once

#include <string>
#include <vector>

namespace lockr::bench {

/// One row: ours against a peer. Values are medians over the repetitions, of the benchmark's real time or a counter.
struct Row {
  std::string question;
  std::string ours;     ///< Benchmark name.
  std::string peer;     ///< Benchmark name; empty: `ours` is compared with the goal itself.
  std::string counter;  ///< Empty: real time per iteration.
  double goal;
  bool at_most;  ///< The ratio is to be at most (else at least) the goal.
};

/// Parses Google Benchmark's flags, runs, prints every benchmark's median and spread, then the rows. Returns the exit
/// status: 0, or 1 when `--check` was given and a row misses its goal, or a benchmark failed.
int run(int argc, char** argv, const std::vector<Row>& rows);

}  // namespace lockr::bench
