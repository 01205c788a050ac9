// The engine beneath the table: the backend, its lanes, and the service thread that waits, renews and keeps time.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/fork.h"
#include "core/lanes.h"
#include "core/notifier.h"
#include "core/table.h"

namespace lockr::core {

/// Where what a backend tells is gathered while this thread is inside it. A backend's own threads have none.
struct Inbox {
  const void* engine = nullptr;
  Effects* effects = nullptr;
};
/// The one thing that the core keeps by thread. A Runtime that runs several of the program's threads on one of the
/// system's exchanges it when it goes from one to another.
extern constinit thread_local Inbox inbox;

/// Carries out what the table asks for. Thread-safe. Works without a backend too: then it only wakes and tells.
class Engine final : public spi::Sink, private ForkAware {
 public:
  Engine(spi::Runtime& runtime, std::unique_ptr<spi::Backend> backend, Time reply_timeout, LogHook log);
  ~Engine() override;

  /// Opens the backend; nothing else works before. The table and the notifier follow, as they depend on its traits.
  Status open(Time until);
  /// Errors: `capacity` when no thread can be started; the backend is closed then.
  Status attach(Table& table, Notifier& notifier, Time until);

  /// Carries out everything, and what follows from it. `follower`: for a caller that waits for an answer; a lane may
  /// stay linked in it, then follow_up() and unfollow() are due. Without one this returns when all is sent.
  void run(Effects& effects, Follower* follower = nullptr) { carry_out(effects, follower, false); }
  void follow_up(Follower& follower);
  void unfollow(Follower& follower) {
    if (Lane* const lane = follower.lane.load(std::memory_order_acquire)) lane->unfollow(follower);
  }

  /// Table::lapse(). Does not wait: what follows from it is told at once, and sent by the service thread.
  void lapse(const TableGrant& grant) noexcept;

  /// Waits until the engine owes no answer, then ends service thread and backend. False: `until` (steady) passed first.
  bool close(Time until);

  /// For a lane's driver: sends the batch, and receives answers until `until` (steady). Wakes whom they concern; the
  /// requests that they entail are left in `next`. collect() true: no answer is outstanding.
  void submit(std::uint16_t link, std::span<spi::Request* const> batch, Effects& next);
  bool collect(std::uint16_t link, Time until, Effects& next);
  Time reply_timeout() const noexcept { return reply_timeout_; }

  spi::Backend* backend() const noexcept { return backend_.get(); }
  bool in_child() const noexcept { return ForkAware::in_child(); }
  std::uint64_t batches() const noexcept;
  void log(LogLevel level, std::string_view line) const {
    if (log_) log_(level, line);
  }

  // Sink
  void done(spi::Request& request) noexcept override;
  void hint(std::uint64_t identity) noexcept override;
  void alive(spi::Seat seat, Time valid_until) noexcept override;
  void lost(spi::Seat seat, const Key* key, const Error& error) noexcept override;
  void reconnected() noexcept override;
  std::vector<Holder> describe() noexcept override;

 private:
  void before_fork() noexcept override;
  void after_fork() noexcept override;
  void forked() noexcept override;
  void tell(Effects& effects);
  void submit_directly(spi::Request* requests, Effects& next);
  void carry_out(Effects& effects, Follower* follower, bool serving);
  void submit_to_lanes(spi::Request* requests, Follower* follower, bool serving, Effects& next);
  Lane& lane_for(const spi::Request& group);
  void start_waits(spi::Request* requests, Effects& next);
  template <class Body>
  void within(Effects& next, Body body);
  template <class Event>
  void on_event(Event event);
  void serve();

  spi::Runtime& runtime_;
  const std::unique_ptr<spi::Backend> backend_;
  const Time reply_timeout_;
  const LogHook log_;
  Table* table_ = nullptr;
  Notifier* notifier_ = nullptr;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> closing_{false};
  std::atomic<std::uint32_t> answers_{0};  // Counts answers while closing.
  std::mutex deferred_mutex_;
  std::vector<std::unique_ptr<Effects>> deferred_;  // From a backend's own threads, for the service thread.
  std::unique_ptr<spi::Runtime::Thread> service_;
};

}  // namespace lockr::core
