// Runs the registered benchmarks interleaved and reports what the tables of figures ask for: ratios of medians, taken
// within one run, beside their goals.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace lockr::bench {

/// One row: ours against a peer. Values are medians over the repetitions, of the benchmark's real time or a counter.
struct Row {
  std::string question;
  std::string backend;
  int threads = 1;
  std::string ours;         ///< Benchmark name.
  std::string peer{};       ///< Benchmark name; empty: `ours` is compared with the goal itself.
  std::string peer_name{};  ///< What the peer is, for readers.
  std::string counter{};    ///< Empty: real time per iteration.
  std::string unit = "ns";
  double goal = 0;  ///< 0: none; the ratio is shown for comparison.
  bool at_most;     ///< The ratio is to be at most (else at least) the goal.
};

/// One point of a plot: the median of a benchmark's figure, with its spread. A benchmark that was not run has none.
struct Point {
  std::string plot;
  std::string backend;
  std::string line;  ///< Whose it is, for readers.
  double x;
  std::string benchmark;
  std::string counter{};  ///< Empty: real time per iteration.
  std::string unit = "ns";
};

/// The program was started with --quick: a short look, too short for figures. For benchmarks that choose how long they
/// run; the number and length of the others is seen to.
bool quick() noexcept;

/// How often to repeat what is not to be repeated as often as all else: once when quick, as often as the command line
/// says where it does.
int repetitions(int as_a_rule) noexcept;

/// Parses the options, runs, prints every benchmark's median and spread, then the rows. Options are Google Benchmark's
/// and --quick; --report=FILE, where the rows and points go as JSON; --check. Returns the exit status: 0, or 1 when a
/// benchmark failed or, with --check, a row missed its goal.
/// `prepare` registers what depends on quick().
int run(int argc, char** argv, const std::vector<Row>& rows, const std::function<void()>& prepare = {},
        const std::vector<Point>& points = {});

}  // namespace lockr::bench
