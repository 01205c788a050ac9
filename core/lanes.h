// Lanes: gather what many threads ask at once into one batch, which is one round trip.
//
// The calling thread does the work. The first to find its lane idle drives it: sends what has queued up, receives the
// answers, and passes the lane on to a thread whose request came meanwhile; it serves the batch that its own request is
// in and those before. One thread pays no thread switch, many share round trips. A driver whose time is over receives
// no more: it sends what it has to and passes the lane on; the service thread sees to the answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/table.h"

namespace lockr::core {

class Engine;
class Lane;

/// A caller whose request is queued in a lane that another thread drives. Lives in the caller's frame.
struct Follower {
  Sleeper* sleeper = nullptr;  // Nudged when the lane is passed on or, if `until_sent`, when it is sent.
  const void* self = nullptr;  // As in Effects.
  bool until_sent = false;
  Time until = spi::kNever;  // Steady; it has no time for others then.
  // Where it is linked; null: nowhere. Set by the caller. Cleared, under the lane's mutex, by the caller, or by the
  // driver when it needs no following any more: the last that a driver does with it.
  std::atomic<Lane*> lane{nullptr};
  std::uint64_t ticket = 0;
  Follower* prev = nullptr;
  Follower* next = nullptr;
};

/// One link of the backend and the queue before it. Thread-safe.
class Lane {
 public:
  Lane(Engine& engine, std::uint16_t link, spi::Runtime& runtime) : engine_(engine), link_(link), runtime_(runtime) {}

  /// Queues a chain of requests, which stay together if they are a group; returns the ticket after them.
  std::uint64_t add(spi::Request& first, spi::Request& last);

  /// Sees to it that everything up to the ticket is sent: drives the lane, or follows who does. True: sent, or as good
  /// as that for who waits for the answer. False: the follower is linked, its sleeper will be nudged. `next`: what
  /// answers entail; to be run when this has returned.
  bool advance(std::uint64_t ticket, Follower& follower, Effects& next);
  /// The follower woke: drives if the lane was passed on to it. Unlinks it when its request is sent.
  void follow_up(Follower& follower, Effects& next);
  /// The follower goes away.
  void unfollow(Follower& follower);

  /// Service thread: sends what nobody drives, and receives answers that nobody waits for. Waits for neither: for what
  /// is left, the backend's pump returns.
  void serve(Effects& next);

  std::uint64_t batches() const noexcept { return batches_.load(std::memory_order_relaxed); }

 private:
  using Lock = std::unique_lock<std::mutex>;

  void drive(Lock& lock, std::uint64_t ticket, Time until, Effects& next);
  Time round(Lock& lock, Time until, Effects& next);
  bool take_batch();
  void let_go(Lock& lock);
  void pass_on(Lock& lock);
  void unlink(Follower& follower) noexcept;

  Engine& engine_;
  const std::uint16_t link_;
  spi::Runtime& runtime_;
  std::atomic<std::uint64_t> batches_{0};
  Bell sent_bell_;  // For those that wait for no more than the sending.
  Bell answer_bell_;

  std::mutex mutex_;  // Guards the rest.
  spi::Request* head_ = nullptr;
  spi::Request** tail_ = &head_;
  std::uint64_t added_ = 0;
  std::uint64_t taken_ = 0;  // Into a batch.
  std::uint64_t sent_ = 0;
  bool driven_ = false;
  bool deferred_ = false;  // Answers are outstanding that no driver waits for.
  bool summoned_ = false;  // The service thread came for answers while the lane was driven, or is left some.
  Follower* followers_ = nullptr;
  std::vector<spi::Request*> batch_;  // The driver's, as is the next.
  Wakes wakes_;
};

}  // namespace lockr::core
