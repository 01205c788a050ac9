// The conformance suite: the definition of a correct backend.
//
// A backend is correct when a program of this shape passes (link with lockr-conformance):
//
//     class TableHarness final : public lockr::testing::Harness { … open_locker() … };
//
//     std::vector<lockr::testing::HarnessFactory> lockr::testing::harnesses() {
//       return {{"table", [] { return std::make_unique<TableHarness>(); }}};
//     }
//
// Every case speaks to the backend through the public API, of lockers that the harness opens. What the backend's
// capabilities rule out is asserted to answer `unsupported`; nothing is skipped. Names of cases read
// `Conformance/<Topic>.<what_it_does>/<harness>`, so --gtest_filter='*/table' runs those of one harness.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockr/config.h"
#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/registry.h"
#include "lockr/releaser.h"
#include "lockr/result.h"

namespace lockr::testing {

/// What a case asks of a locker beside the backend's own section.
struct Opening {
  std::string fields{};   ///< Top-level members of the config, as JSON: `"namespace": "a"`. Empty for none.
  OpenOptions options{};  ///< Handed to open(); a harness may set the runtime.
};

/// A process other than ours that holds one key. Destroying it ends it.
class OtherProcess {
 public:
  virtual ~OtherProcess();
  /// Ends it as kill -9 does: it has no say in it. Returns when it is gone.
  virtual void kill() = 0;
};

/// A way in which the engine takes away every lock that the lockers of a harness hold. `strike` returns once it is done
/// at the engine; the engine can then be used again, at once or soon.
struct Fault {
  std::string name;
  std::function<void()> strike;
};

/// One engine, and how to get at it. Made anew for each case, on its thread; the calls are not concurrent unless said
/// otherwise. Lockers are closed before their harness is destroyed.
class Harness {
 public:
  virtual ~Harness();

  /// Opens one more locker of the same engine. An error fails the case.
  virtual Result<std::unique_ptr<Locker>> open_locker(const Opening& opening) = 0;

  /// Whether two of these lockers stand for two processes: they exclude each other, and know of each other only through
  /// the engine.
  virtual bool excludes_across_lockers() const = 0;

  /// Whether inspect() of one locker tells what another one holds. The base says that it does where they exclude each
  /// other.
  virtual bool lists_other_lockers() const;

  /// Starts a process that holds the key, and returns when it does. Called where Capabilities::cross_process is true.
  /// hold_in_child() does this for an engine that a config reaches.
  virtual Result<std::unique_ptr<OtherProcess>> hold_elsewhere(const Key& key) = 0;

  /// Ways to lose locks; none where a lock can't be lost while its process lives. The base returns none.
  virtual std::vector<Fault> faults();

  /// What the engine still records though everything was released, a line each: locks, waits, and whatever else went
  /// wrong behind the API. Asked repeatedly until it is empty, or for as long as takeover allows.
  virtual std::vector<std::string> leftovers() = 0;
};

/// A harness to be made, and what to call it: letters, digits and '_'.
struct HarnessFactory {
  std::string name;
  std::function<std::unique_ptr<Harness>()> make;
};

/// Runs the whole suite against each harness and returns the exit status. GoogleTest's options apply. Fails when an
/// engine can't be opened, when nothing ran, and when a case was skipped or took longer than 30 s. `registry` is what
/// the processes of hold_in_child() open their configs with.
int run_conformance(int argc, char** argv, std::vector<HarnessFactory> harnesses,
                    const Registry& registry = Registry::builtin());

/// What the suite's own main() runs: defined by a program that has no main() of its own.
std::vector<HarnessFactory> harnesses();

/// Runs this program once more, as a process that opens the config (JSON) with the registry of run_conformance(), and
/// holds the key. A main() of the program's own must end in run_conformance().
Result<std::unique_ptr<OtherProcess>> hold_in_child(const std::string& config, const Key& key);

}  // namespace lockr::testing
