// lockr-torture: tortures the engine that a config names.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <iterator>

#include "lockr/config.h"
#include "lockr/version.h"
#include "tests/torture/process_faults.h"
#include "tests/torture/report.h"
#include "tests/torture/run.h"

namespace lockr::torture {
namespace {

constexpr int kViolations = 1, kUsage = 64, kNoRun = 125;

constexpr const char* kDescription =
    R"(lockr-torture tries to break the engine that a config names, and tells what broke.

Worker processes fight for a few keys of the engine while faults hit them: kill -9 of holders and waiters, SIGSTOP,
storms of 1 ms timeouts and of cancels, forks inside of a lock. What everybody did is judged: exclusion, fencing tokens,
lost wake-ups, takeover within the backend's bound, losses told in time, nothing left behind, no call late.
)";

constexpr const char* kFooter =
    R"(Exit status: 0 nothing was found; 1 violations, each printed with the piece of history that shows it, the seed and the
config; 64 wrong usage; 125 the run can't be had: config, engine, access.

The faults: kill, stop, stop_long (longer than --lease), impatient (1 ms timeouts), fickle (cancels), fork. A config can
name a module under "plugin". An engine whose locks hold inside one process only needs --workers 1.

Examples:
  lockr-torture --backend file:/tmp/torture --seconds 10
  lockr-torture --config mine.json --minutes 20 --workers 8 --keys 16 --faults kill,stop
  lockr-torture --backend 'redis://localhost?ttl=1s' --lease 1s
)";

struct Arguments {
  Run run;
  std::string config, backend, lease;
  std::vector<std::string> faults;
  double minutes = 0;
  std::uint64_t hold_us = 2000, timeout_ms = 500;
};

void declare(CLI::App& app, Arguments& arguments) {
  app.footer(kFooter);
  app.set_version_flag("-V,--version", std::string("lockr-torture ") + version());
  auto* const config = app.add_option("--config", arguments.config, "a config file: docs/configuration.md");
  app.add_option("--backend", arguments.backend, "a connection URL, instead of a config")->excludes(config);
  app.add_option("--seed", arguments.run.seed, "of everything that is random; printed with a failure")
      ->capture_default_str();
  app.add_option("--seconds", arguments.run.seconds, "how long to work; rests come on top")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--minutes", arguments.minutes, "the same in minutes")
      ->check(CLI::PositiveNumber)
      ->excludes("--seconds");
  app.add_option("--workers", arguments.run.workers, "processes")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--threads", arguments.run.threads, "sessions of each, on threads of their own")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--keys", arguments.run.keys, "keys to fight for")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--shared", arguments.run.shared_percent, "percentage of shared locks")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--hold", arguments.hold_us, "microseconds that a holder holds at most; most leave at once")
      ->capture_default_str();
  app.add_option("--timeout", arguments.timeout_ms, "milliseconds of ordinary waits; one in 16 has 4 s at least")
      ->capture_default_str();
  app.add_option("--stretch", arguments.run.stretch_seconds, "seconds between rests, at which everybody gives back")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--faults", arguments.faults, "only these, with commas; name=N: N in a second; none: no faults")
      ->delimiter(',');
  app.add_option("--lease", arguments.lease, "how long locks last that are not renewed, if the engine drops them: 10s");
}

void choose_faults(Arguments& arguments) {
  for (const std::string& word : arguments.faults) {
    const std::size_t equals = word.find('=');
    if (word == "none") arguments.run.no_faults = true;
    if (word != "none")
      arguments.run.faults[word.substr(0, equals)] = equals == word.npos ? 0 : std::stod(word.substr(equals + 1));
  }
}

std::string config_text(const Arguments& arguments) {
  if (arguments.config.empty()) return arguments.backend;
  std::ifstream file(arguments.config);
  if (!file) throw std::runtime_error("can't read " + arguments.config);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Whatever a config leads to.
class ConfigRig final : public Rig {
 public:
  ConfigRig(std::string config, std::optional<std::chrono::nanoseconds> lease)
      : Rig(std::move(config)), lease_(lease) {}
  std::optional<std::chrono::nanoseconds> lease() const override { return lease_; }

 private:
  const std::optional<std::chrono::nanoseconds> lease_;
};

int run(Arguments& arguments) {
  choose_faults(arguments);
  if (arguments.minutes > 0) arguments.run.seconds = arguments.minutes * 60;
  arguments.run.hold = std::chrono::microseconds(arguments.hold_us);
  arguments.run.timeout = std::chrono::milliseconds(arguments.timeout_ms);
  std::optional<std::chrono::nanoseconds> lease;
  if (!arguments.lease.empty()) {
    const auto parsed = parse_duration(arguments.lease);
    if (!parsed) throw std::runtime_error("--lease: " + parsed.error().message());
    lease = *parsed;
  }
  ConfigRig rig(config_text(arguments), lease);
  const Outcome outcome = torture(rig, arguments.run);
  std::cout << table_of({{outcome.backend, outcome}}) << failure_of(outcome.backend, rig, arguments.run, outcome);
  return outcome.passed() ? 0 : kViolations;
}

}  // namespace
}  // namespace lockr::torture

int main(int argc, char** argv) {
  using namespace lockr::torture;
  if (const auto status = worker_main(argc, argv)) return *status;
  CLI::App app(kDescription, "lockr-torture");
  Arguments arguments;
  declare(app, arguments);
  try {
    app.parse(argc, argv);
    if (arguments.config.empty() && arguments.backend.empty()) {
      throw CLI::RequiredError("--config FILE or --backend URL");
    }
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : kUsage;
  }
  try {
    return lockr::torture::run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "lockr-torture: " << error.what() << '\n';
    return kNoRun;
  }
}
