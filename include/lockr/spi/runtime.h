// What the library needs of the world around it: time, park/wake, randomness, threads. Injected, so that a simulator
// can drive the real library under a virtual clock on one thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lockr/export.h"

namespace lockr::spi {

/// A moment or a span on one of the clocks below; which one is said where it is used.
using Time = std::chrono::nanoseconds;

/// Never.
inline constexpr Time kNever = Time::max();

/// Thread-safe, and outlives everything that was opened with it.
class LOCKR_API Runtime {
 public:
  virtual ~Runtime();

  /// CLOCK_MONOTONIC: for timeouts, which stand still while the machine is suspended.
  virtual Time steady_now() noexcept = 0;
  /// CLOCK_BOOTTIME: for validity, which runs on in suspend.
  virtual Time boot_now() noexcept = 0;
  /// CLOCK_REALTIME: for people and fencing tokens only.
  virtual Time wall_now() noexcept = 0;

  /// Sleeps until woken, until the steady clock shows `until`, or until `word` no longer holds `expected`; may return
  /// early. kNever sleeps without limit.
  virtual void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time until) noexcept = 0;
  /// Wakes who is parked on the word at this address. Uses the address only: the word itself may be gone.
  virtual void wake(const void* word) noexcept = 0;

  /// Both again for a word on which many sleep, each with some of 32 bits: sleeps until woken for one of `bits`, which
  /// are not 0; wakes all that are parked on the word with one of `bits`.
  virtual void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                          Time until) noexcept = 0;
  virtual void wake_among(const void* word, std::uint32_t bits) noexcept = 0;

  /// 64 random bits, for jitter; not for secrets.
  virtual std::uint64_t random() noexcept = 0;

  /// The number of the processor that the calling thread runs on: a hint, for locality. The base class says 0.
  virtual std::uint32_t processor() noexcept;

  /// A thread of ours. Destroying it joins it; destroyed on the thread itself, it lets the thread go.
  class LOCKR_API Thread {
   public:
    virtual ~Thread();
    /// Gives the thread up without joining it: for a forked child, where it does not run.
    virtual void abandon() noexcept = 0;
  };
  /// Starts a thread that blocks all signals; `name` has at most 15 bytes and starts with "lockr-".
  /// Null when the system has no thread left to give.
  virtual std::unique_ptr<Thread> start(const char* name, std::function<void()> body) = 0;
};

/// The machine's own clocks, futexes and threads.
LOCKR_API Runtime& system_runtime() noexcept;

/// This host's name, as holders are listed with it; empty where the system tells none. Thread-safe.
LOCKR_API std::string host_name();

/// Tells the processor that this thread spins.
inline void pause_briefly() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

}  // namespace lockr::spi
