// The sockets of a backend, for fork(): a child closes them without a word to the server.
#pragma once

#include <array>
#include <atomic>
#include <mutex>

#include "lockr/spi/runtime.h"

namespace lockr::redis {

using spi::Time;

/// Thread-safe.
class Sockets {
 public:
  Sockets() noexcept;

  /// A socket of the family, CLOEXEC and not blocking; -1 with errno.
  int make(int family) noexcept;
  void close(int fd) noexcept;

  void before_fork() noexcept { opening_.lock(); }
  void after_fork() noexcept { opening_.unlock(); }
  /// In the child. Async-signal-safe.
  void forked() noexcept;
  bool in_child() const noexcept { return in_child_.load(std::memory_order_relaxed); }

 private:
  std::mutex opening_;
  std::array<std::atomic<int>, 128> fds_;
  std::atomic<bool> in_child_{false};
};

/// Until when a blocking call may take, and what ends it before.
struct Patience {
  spi::Runtime& runtime;
  Time until;        ///< Steady clock.
  int stop_fd = -1;  ///< Readable: give up.
};

/// Sleeps until one of `events` or until the patience ends; false then.
bool wait_for(int fd, short events, const Patience& patience);

}  // namespace lockr::redis
