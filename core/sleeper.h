// How a caller sleeps until what it waits for is decided, and how whoever decides it wakes it.
//
// Callers that wait for answers of one batch sleep at a bell that they share, as far as it is likely that they are
// woken together: one system call then wakes all of them. Others sleep on words of their own.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "lockr/spi/runtime.h"

namespace lockr::core {

/// A place to sleep for many, each known by a bit; more than 32 share bits, and may wake for nothing. Thread-safe.
class Bell {
 public:
  /// For the next to sleep here.
  std::uint32_t bit() noexcept { return 1u << (bits_given_.fetch_add(1, std::memory_order_relaxed) % 32); }
  std::uint32_t rings() const noexcept { return rings_.load(std::memory_order_acquire); }
  /// Sleeps until rung for one of these bits, unless it has rung since `rings`.
  void park(spi::Runtime& runtime, std::uint32_t rings, std::uint32_t bits, spi::Time until) noexcept {
    runtime.park_among(rings_, rings, bits, until);
  }
  void ring(spi::Runtime& runtime, std::uint32_t bits) noexcept {
    rings_.fetch_add(1, std::memory_order_acq_rel);
    runtime.wake_among(&rings_, bits);
  }

 private:
  std::atomic<std::uint32_t> rings_{0};
  std::atomic<std::uint32_t> bits_given_{0};
};

/// Whom to wake, best when no mutex is held: who sleeps at the bell with these bits; without a bell, who is parked on
/// the word, of which only the address is used: it may be gone; without either, nobody.
struct [[nodiscard]] Wake {
  const void* word;
  Bell* bell;
  std::uint32_t bits;

  void carry_out(spi::Runtime& runtime) const noexcept {
    if (bell) {
      bell->ring(runtime, bits);
    } else if (word) {
      runtime.wake(word);
    }
  }
};

/// What is to be woken together. Each bell is rung once.
class Wakes {
 public:
  Wakes() noexcept {}  // Leaves the array as it is: most are never used.
  bool empty() const noexcept { return count_ == 0; }
  void add(const Wake& wake, spi::Runtime& runtime) noexcept;
  void carry_out(spi::Runtime& runtime) noexcept {
    for (std::uint32_t i = 0; i < count_; ++i) all_[i].carry_out(runtime);
    count_ = 0;
  }

 private:
  std::uint32_t count_ = 0;
  std::array<Wake, 64> all_;
};

/// One sleep; lives in the sleeping caller's frame.
class Sleeper {
 public:
  enum State : std::uint32_t { kQueued, kAtBell, kNudged, kGranted, kFailed };

  State state() const noexcept { return static_cast<State>(word_.load(std::memory_order_acquire)); }
  bool decided() const noexcept { return state() >= kGranted; }

  // For the sleeper.
  /// From now on park_together() is at this bell.
  void join(Bell& bell) noexcept {
    bell_ = &bell;
    bits_ = bell.bit();
  }
  /// Sleeps until woken, or until `until` (steady) at the latest; may return early.
  void park(spi::Runtime& runtime, spi::Time until) noexcept { runtime.park(word_, kQueued, until); }
  /// The same at the bell, if it joined one.
  void park_together(spi::Runtime& runtime, spi::Time until) noexcept;
  /// It has looked at what it was nudged for. Without effect on one that is decided.
  void heed() noexcept { change(kNudged, kQueued); }

  // For others. The sleeper may be gone as soon as it is decided.
  /// Not for one that is decided.
  Wake set(State state) noexcept;
  /// Without effect on one that is nudged or decided, which wakes anyway.
  Wake nudge() noexcept;

 private:
  Wake whom(std::uint32_t was) const noexcept {
    return was == kAtBell ? Wake{nullptr, bell_, bits_} : Wake{&word_, nullptr, 0};
  }
  bool change(std::uint32_t from, std::uint32_t to) noexcept {
    return word_.compare_exchange_strong(from, to, std::memory_order_acq_rel, std::memory_order_acquire);
  }

  std::atomic<std::uint32_t> word_{kQueued};
  std::uint32_t bits_ = 0;
  Bell* bell_ = nullptr;  // With bits_: read by others while the word says kAtBell alone.
};

}  // namespace lockr::core
