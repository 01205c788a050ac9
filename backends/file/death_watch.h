// Hears at once that a process died which was recorded as a holder.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "lockr/spi/runtime.h"

namespace lockr::file {

/// A thread that polls pidfds, started at the first watch(): a futex and descriptors can't be waited for together, and
/// the futex is what makes a release cheap. A death it misses (no descriptor left, a recorded pid of another pid
/// namespace, more than kMost) is found by the waiter's timed look.
class DeathWatch {
 public:
  static constexpr unsigned kMost = 64;

  /// `died` is called on the watching thread.
  DeathWatch(spi::Runtime& runtime, std::function<void()> died) : runtime_(runtime), died_(std::move(died)) {}
  DeathWatch(const DeathWatch&) = delete;
  DeathWatch& operator=(const DeathWatch&) = delete;
  ~DeathWatch() { close(); }

  /// Watches a process as well; room for it is made in turn. One thread at a time.
  void watch(int pid) noexcept;
  /// Ends the thread.
  void close() noexcept;
  /// In a forked child: closes the descriptors. Async-signal-safe; close() then does not wait for the thread.
  void forked() noexcept;

 private:
  struct Watched {
    std::atomic<int> pid = kFree;
    std::atomic<int> fd = -1;  // Closed by the watching thread alone, which may be polling it.
  };
  static constexpr int kFree = 0;
  static constexpr int kUnwanted = -1;

  bool start() noexcept;
  void run() noexcept;
  void ring() noexcept;

  spi::Runtime& runtime_;
  const std::function<void()> died_;
  std::array<Watched, kMost> watched_;
  unsigned hand_ = 0;
  std::atomic<int> event_ = -1;
  std::atomic<bool> stop_ = false;
  std::unique_ptr<spi::Runtime::Thread> thread_;
  bool forked_ = false;
};

}  // namespace lockr::file
