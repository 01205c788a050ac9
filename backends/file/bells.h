// Who is told that something was freed: one waiting process at a time, in turn.
#pragma once

#include <cstdint>

#include "backends/file/state_file.h"
#include "lockr/spi/runtime.h"

namespace lockr::file {

/// The masks and bells of the state file. Every call may come from any thread.
///
/// A waiter announces itself and only then tries; who frees unlocks and only then looks for waiters: one of the two
/// sees the other. A ring is a hint, at worst lost with a process that dies between a ring and its try; waiters look
/// by themselves now and then.
class Bells {
 public:
  Bells(StateFile& file, spi::Runtime& runtime) noexcept : file_(file), runtime_(runtime) {}

  /// Whether another process waits for something in the identity's bucket.
  bool wanted(std::uint64_t identity) const noexcept { return others(bucket(identity)) != 0; }

  /// Whether the identity is kept for another process at this moment, so that a newcomer must stand back.
  bool kept_for_other(std::uint64_t identity) noexcept {
    return bucket(identity).reserved.load(std::memory_order_relaxed) != 0 && check_kept(identity);
  }
  /// The identity was taken: it need not be kept for us any more.
  void taken(std::uint64_t identity) noexcept {
    if (bucket(identity).reserved.load(std::memory_order_relaxed) != 0) drop_own(identity);
  }

  enum class Keep { for_aged, for_anyone };
  /// Call after unlocking and one sequentially consistent read-modify-write (Shards::leave): rings the next waiting
  /// process. What is free is kept for it a moment: for one that has waited long, or for any. True when it is kept.
  bool freed(std::uint64_t identity, Keep keep = Keep::for_aged) noexcept {
    return others(bucket(identity)) != 0 && ring(bucket(identity), identity, keep);
  }

  // The waiting side; needs file_.bell() >= 0.

  /// Before the first try of a wait.
  void announce(std::uint64_t identity) noexcept;
  /// The wait is over; `last`: no other wait of ours is in the bucket. A ring that came for it is passed on.
  void leave(std::uint64_t identity, bool last) noexcept;
  /// Newcomers of other processes shall stand back for us from the next freeing on.
  void grow_old(std::uint64_t identity) noexcept;
  /// Keeps the identity for us so long that those who share it now can leave, without others that join them.
  void keep_while_shared(std::uint64_t identity, spi::Time span) noexcept;
  /// Whether somebody rang for the bucket of the identity.
  bool rung(std::uint64_t identity) const noexcept { return (bucket(identity).rung.load() & own()) != 0; }
  /// Takes note of a ring: before trying everything that waits in the bucket. Tells what was freed; 0: perhaps all.
  std::uint64_t answer(std::uint64_t identity) noexcept;
  /// The ring was for an identity of the bucket that we don't wait for: tells everyone else who waits there.
  void pass_on_to_all(std::uint64_t identity) noexcept;
  /// Tells everyone who waits for anything.
  void ring_everyone() noexcept;

  /// Whether a process did not answer a ring in time since the last call; it may be dead.
  bool suspicious() noexcept { return suspicious_.exchange(false, std::memory_order_relaxed); }

 private:
  Bucket& bucket(std::uint64_t identity) const noexcept { return file_.state().buckets[bucket_of(identity)]; }
  std::uint64_t own() const noexcept {
    const int bell = file_.bell();
    return bell < 0 ? 0 : std::uint64_t{1} << bell;
  }
  std::uint64_t others(const Bucket& bucket) const noexcept { return bucket.waiting.load() & ~own(); }
  bool ring(Bucket& bucket, std::uint64_t identity, Keep keep) noexcept;
  bool check_kept(std::uint64_t identity) noexcept;
  void drop_own(std::uint64_t identity) noexcept;
  unsigned next_in_turn(std::uint64_t bells) const noexcept;
  void sound(unsigned bell) noexcept;
  std::uint64_t reservation(std::uint64_t identity, unsigned bell, spi::Time span) const noexcept;

  StateFile& file_;
  spi::Runtime& runtime_;
  std::atomic<bool> suspicious_ = false;
};

/// FUTEX_WAIT and FUTEX_WAKE on a word that processes share; the runtime's own park and wake are private to one
/// process. `until`: steady clock, kNever for no limit.
void futex_sleep(FutexWord& word, std::uint32_t expected, spi::Time until) noexcept;
void futex_wake(FutexWord& word) noexcept;

}  // namespace lockr::file
