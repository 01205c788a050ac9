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

  /// Carries out everything, and what follows from it. Returns when all is sent; or at `until` (steady), and after
  /// reply_timeout in any case: what is left then is sent by whoever drives the lane, or by the service thread.
  void run(Effects& effects, Time until = kNever) { carry_out(effects, {.until = until, .pressed = until != kNever}); }
  /// The same for a caller that waits for an answer, without waiting for the sending: a lane may stay linked in the
  /// follower, then follow_up() and unfollow() are due.
  void run(Effects& effects, Follower& follower) {
    carry_out(effects, {.follower = &follower, .until = follower.until});
  }
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
  /// How a thread sends: with a follower, until it has no time any more, or as the service thread, which keeps time and
  /// renews and so waits for no lane and for no answer.
  struct Way {
    Follower* follower = nullptr;
    Time until = kNever;
    bool bounded = false;  // `until` is within reply_timeout.
    bool pressed = false;  // Its time may be over already.
    bool serving = false;
  };

  void before_fork() noexcept override;
  void after_fork() noexcept override;
  void forked() noexcept override;
  void tell(Effects& effects);
  void leave_to_service(std::unique_ptr<Effects> effects);
  void submit_directly(spi::Request* requests, const Way& way, Effects& next);
  void carry_out(Effects& effects, Way way);
  void bound(Way& way);
  void submit_to_lanes(spi::Request* requests, Way& way, Effects& next);
  void await_sent(Lane& lane, std::uint64_t ticket, Time until, Effects& next);
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
  std::vector<std::unique_ptr<Effects>> deferred_;  // From a backend's own threads and from those without time.
  std::unique_ptr<spi::Runtime::Thread> service_;
};

}  // namespace lockr::core
