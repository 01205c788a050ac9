// A lock that is lost while it is held: an engine was restarted, a lease ran out, somebody cleared a table. The worker
// hears it through a stop token, whoever watches through the observer, and release() says it once more.
//
// The engine is one that can be told to forget: a table of leases, here in this process, behind the plugin interface.
#include <lockr/lockr.h>
#include <lockr/spi/polling.h>

#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>

using namespace std::chrono_literals;

namespace {

// The engine: whoever asks first for a name has it, until it is given back or all is forgotten.
class LeaseTable {
 public:
  bool insert(std::string_view name) {
    std::lock_guard lock(mutex_);
    return leases_.emplace(name).second;
  }
  bool erase(std::string_view name) {
    std::lock_guard lock(mutex_);
    return leases_.erase(std::string(name)) == 1;
  }
  bool contains(std::string_view name) {
    std::lock_guard lock(mutex_);
    return leases_.contains(std::string(name));
  }
  void forget_everything() {
    std::lock_guard lock(mutex_);
    leases_.clear();
  }

 private:
  std::mutex mutex_;
  std::set<std::string> leases_;
};

LeaseTable engine;

// [backend]
// The backend: three calls, each on a batch. Waiting, queues, renewal and the announcement of losses are lockr's.
class LeaseBackend final : public lockr::spi::PollingBackend {
 public:
  explicit LeaseBackend(const lockr::spi::OpenContext& context)
      : PollingBackend(context.runtime, {.capabilities = {.backend = "lease"}},
                       {.validity = 60s, .renew_every = 50ms}) {}

 private:
  void take(std::span<lockr::spi::Request* const> batch) noexcept override {
    using lockr::spi::Answer;
    for (auto* request : batch)
      request->answer = engine.insert(request->key->string()) ? Answer::granted : Answer::refused;
  }
  void give_back(std::span<lockr::spi::Request* const> batch) noexcept override {
    using lockr::spi::Answer;
    for (auto* request : batch)
      request->answer = engine.erase(request->key->string()) ? Answer::released : Answer::not_held;
  }
  lockr::Status renew(std::span<Held> batch) noexcept override {
    for (auto& held : batch) held.lost = !engine.contains(held.key.string());
    return {};
  }
};

constexpr lockr::spi::BackendInfo kLeaseBackend{
    .name = "lease",
    .schemes = "lease",
    .summary = "Leases in a table of this process, for the example.",
    .schema = "{}",
    .create = [](const lockr::spi::OpenContext& context) -> lockr::Result<std::unique_ptr<lockr::spi::Backend>> {
      return std::make_unique<LeaseBackend>(context);
    },
};
// [backend]

// [observer]
// Hears of every lost lock of the program: for logs, metrics, an alarm.
class Watcher final : public lockr::Observer {
 public:
  void on_event(const lockr::Event& event) noexcept override {
    if (event.kind != lockr::Event::Kind::lost) return;
    std::cout << "observer: " << event.key << " of " << event.label << " is lost: " << event.error->message() << '\n';
    losses_.fetch_add(1);
    losses_.notify_all();
  }
  void wait_for_loss() const { losses_.wait(0); }

 private:
  std::atomic<int> losses_{0};
};
// [observer]

// [worker]
// Works until the lock is lost, and not a step longer.
int work(const lockr::Releaser& held, std::atomic<bool>& started) {
  const std::stop_token lost = held.lost_token();
  int steps = 0;
  while (!lost.stop_requested()) {
    ++steps;  // one short step of the work
    started = true;
    std::this_thread::sleep_for(1ms);
  }
  return steps;
}
// [worker]

int run(lockr::Locker& locker, const Watcher& watcher) {
  auto session = locker.open_session({.label = "worker"}).value();
  auto held = session->lock({"tenant", "42", "invoice"}).value();

  std::atomic<bool> started{false};
  int steps = 0;
  {
    std::jthread worker([&] { steps = work(held, started); });
    while (!started) std::this_thread::yield();
    engine.forget_everything();
    watcher.wait_for_loss();
  }
  std::cout << "worker: stopped after " << steps << " steps\n";
  if (held.held() || !held.lost()) return 1;

  const lockr::Status released = held.release();
  if (released || released.error().code() != lockr::errc::lock_lost) return 1;
  std::cout << "release: " << released.error().message() << '\n';

  // A loss ends one acquisition, not the session: the key can be taken anew.
  return session->lock({"tenant", "42", "invoice"}) ? 0 : 1;
}

}  // namespace

int main() {
  lockr::Registry registry;
  if (!registry.add(kLeaseBackend)) return 1;
  auto watcher = std::make_shared<Watcher>();
  auto locker = registry.open(lockr::LockerConfig::from_url("lease:").value(), {.observer = watcher}).value();
  return run(*locker, *watcher);
}
