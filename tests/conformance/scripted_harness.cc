// The scripted engine, in each shape a backend can have: answering inside the call or on lanes, waiting at the server
// or polling, for ever or for as long as it is renewed, locking keys or hashes.
#include <atomic>
#include <mutex>

#include "lockr/testing/conformance.h"
#include "tests/support/scripted_engine.h"

namespace {

using namespace std::chrono_literals;
using lockr::testing::HarnessFactory;
using lockr::testing::ScriptedOptions;
using lockr::testing::ScriptedServer;

// Long enough for a loaded machine to renew in time.
constexpr auto kValidity = 1500ms;

/// A simulated process: killing it cuts its connection and lets it do nothing more.
class ScriptedProcess final : public lockr::testing::OtherProcess {
 public:
  ScriptedProcess(std::shared_ptr<ScriptedServer> server, int number, lockr::Releaser held,
                  std::unique_ptr<lockr::Locker> locker)
      : server_(std::move(server)), number_(number), locker_(std::move(locker)), held_(std::move(held)) {}
  void kill() override { server_->cut(number_); }

 private:
  const std::shared_ptr<ScriptedServer> server_;
  const int number_;
  const std::unique_ptr<lockr::Locker> locker_;
  const lockr::Releaser held_;
};

class ScriptedHarness final : public lockr::testing::Harness {
 public:
  explicit ScriptedHarness(const ScriptedOptions& options)
      : server_(std::make_shared<ScriptedServer>(options, lockr::spi::system_runtime())) {}

  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    return lockr::testing::open_scripted(server_, opening.fields, opening.options);
  }
  bool excludes_across_lockers() const override { return true; }
  lockr::Result<std::unique_ptr<lockr::testing::OtherProcess>> hold_elsewhere(const lockr::Key& key) override {
    const int number = server_->processes();
    auto locker = open_locker({});
    if (!locker) return lockr::fail(locker.error());
    auto held = (*locker)->lock(key, {.timeout = 10s});
    if (!held) return lockr::fail(held.error());
    return std::make_unique<ScriptedProcess>(server_, number, *std::move(held), *std::move(locker));
  }
  std::vector<lockr::testing::Fault> faults() override {
    return {{"every link is cut",
             [this] {
               for (int process = 0; process < server_->processes(); ++process) server_->cut(process);
             }},
            {"the server restarts", [this] { server_->restart(); }}};
  }
  std::vector<std::string> leftovers() override {
    std::vector<std::string> left = server_->violations();
    for (const auto& record : server_->records()) {
      left.push_back((record.waiting ? "waits: " : "held: ") + record.key + " by " + std::to_string(record.process));
    }
    return left;
  }

 private:
  const std::shared_ptr<ScriptedServer> server_;
};

HarnessFactory shape(std::string name, const ScriptedOptions& options) {
  return {std::move(name), [options] { return std::make_unique<ScriptedHarness>(options); }};
}

}  // namespace

int main(int argc, char** argv) {
  return lockr::testing::run_conformance(
      argc, argv,
      {
          shape("direct", {.lanes = 0, .waiters = 2}),
          shape("direct_polled", {.lanes = 0, .hints = false, .poll = 1ms}),
          shape("lanes", {.lanes = 2, .waiters = 2, .latency = 50us}),
          shape("lanes_polled", {.lanes = 2, .identity_is_hash = true, .fencing = false}),
          shape("leases", {.lanes = 2, .waiters = 1, .validity = kValidity}),
          shape("leases_polled", {.lanes = 1, .shared = false, .validity = kValidity, .poll = 2ms}),
      });
}
