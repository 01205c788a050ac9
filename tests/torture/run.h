// A run: what is tortured, with whom, for how long, and by which faults.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/torture/checker.h"
#include "tests/torture/fault.h"
#include "tests/torture/history.h"

namespace lockr::torture {

/// What can be tortured: an engine and how to reach it. One subclass for each engine that we start ourselves; whoever
/// brings a config alone gets the base.
class Rig {
 public:
  /// `config`: JSON, or a URL.
  explicit Rig(std::string config) : config_(std::move(config)) {}
  virtual ~Rig() = default;

  virtual std::string name() const { return "config"; }
  /// What the worker opens.
  virtual std::string config([[maybe_unused]] int worker) const { return config_; }
  /// Runs in the worker's process between fork and exec, alone in it: may enter a network namespace or set limits. Only
  /// calls that are safe there; false ends the process.
  virtual bool enter([[maybe_unused]] int worker) const { return true; }
  /// All that can be done to it. Those that hit processes, unless a subclass has more or less.
  virtual std::vector<std::unique_ptr<Fault>> faults();
  /// What is left behind of workers that gave everything back, a line each. `workers` tells whether they still live.
  virtual std::vector<std::string> leftovers([[maybe_unused]] bool workers) { return {}; }
  /// Bounds that capabilities do not tell; what is 0 is taken from there, or a default.
  virtual Bounds bounds() const { return {}; }
  /// Whether locks end by themselves: then a stop that is longer than this takes them away.
  virtual std::optional<std::chrono::nanoseconds> lease() const { return std::nullopt; }

 private:
  std::string config_;
};

/// What came of it.
struct Outcome {
  std::string backend;
  Verdict verdict;  ///< Of all stretches together.
  double seconds = 0;
  std::map<std::string, std::uint64_t> tried;       ///< How often each kind of fault had its turn.
  std::map<std::string, std::uint64_t> struck;      ///< How often it found something to strike; and what workers did.
  std::map<std::string, std::string> not_possible;  ///< Faults that could not be had here, with the reason.
  std::map<std::string, std::uint64_t> answers;     ///< Of acquisitions, by code.
  /// Of the first worker at each rest, since the start of the run.
  struct Reading {
    double seconds;
    std::uint64_t resident;  ///< Bytes that it shares with nobody.
    std::uint32_t descriptors;
  };
  std::vector<Reading> readings;
  std::string explanations;  ///< For each violation its schedule: seed, config, the piece of history.
  Nanos stalled = 0;         ///< What was granted to the machine in all, and its longest stall.
  Nanos longest_stall = 0;
  double checker_rate = 0;  ///< Records a second.
  bool passed() const noexcept { return verdict.clean(); }
};

struct Run {
  std::uint64_t seed = 1;
  double seconds = 10;  ///< How long to work.
  /// What a run must have come to, as a slow machine takes longer for it: asked after each stretch from `seconds` on,
  /// until it says so or the run has worked for `at_most_seconds`. Empty: anything is enough.
  std::function<bool(const Outcome&)> enough;
  double at_most_seconds = 0;
  /// The run is cut into stretches at whose ends everybody gives back, leaks are looked for, and the history is judged.
  double stretch_seconds = 2;
  int workers = 4;  ///< Processes; at most 64 sessions in all.
  int threads = 2;  ///< Sessions of each, each on a thread of its own.
  int keys = 4;
  unsigned hot_percent = 50;  ///< Calls that go to the first two keys, beside their share of the others.
  unsigned shared_percent = 20;
  /// How long holders hold, mostly at most; all but one in `hold_one_in` for no time.
  std::chrono::microseconds hold{2000};
  unsigned hold_one_in = 16;
  /// How long each session holds some key every 10 s, if not 0: longer than a loss may go untold, or none is judged.
  std::chrono::microseconds long_hold{0};
  std::chrono::milliseconds timeout{500};  ///< Of ordinary waits, but for one in 16, which has:
  std::chrono::milliseconds long_timeout{4000};
  /// Names of faults, and how many are struck in a second; empty: all that the rig has, each at its own pace.
  std::map<std::string, double> faults;
  bool no_faults = false;
  bool spare_first = false;                  ///< The first worker is not killed.
  bool careless_resource = false;            ///< The guarded resource takes every token. For a negative control.
  std::size_t attempts_per_slot = 1u << 17;  ///< Room for a stretch, which ends early when one is used up.
};

/// Tortures; progress goes to stderr. Throws std::runtime_error when the run can't be had: no engine, no worker starts.
Outcome torture(Rig& rig, const Run& run);

/// To be called first in main(): workers are this program again. Returns the exit status of a worker, nullopt in the
/// program proper.
std::optional<int> worker_main(int argc, char** argv);

}  // namespace lockr::torture
