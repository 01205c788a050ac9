// Connects anew what has gone down, on a thread of its own: name resolution blocks.
#pragma once

#include <atomic>
#include <bitset>
#include <functional>
#include <memory>
#include <mutex>

#include "lockr/releaser.h"
#include "lockr/spi/runtime.h"

namespace lockr::redis {

using spi::Time;

/// Thread-safe.
class Connector {
 public:
  static constexpr std::size_t kMost = 128;
  using Places = std::bitset<kMost>;
  /// Tries to bring one connection up; true when it is. `stop_fd` is readable once it has to give up.
  using Attempt = std::function<bool(std::size_t place, int stop_fd)>;

  Connector(spi::Runtime& runtime, Attempt attempt);
  ~Connector();

  /// The connection shall be brought up, until it is. Does not start the thread: start() does.
  void want(std::size_t place);
  /// Starts the thread if there is anything to do for it.
  void start();
  void stop();
  /// In a forked child, where the thread does not run.
  void forked() noexcept;

 private:
  void tell();
  void run();
  void sleep(std::unique_lock<std::mutex>& lock, Time until);
  Places attempt_all(const Places& wanted);

  spi::Runtime& runtime_;
  const Attempt attempt_;
  Descriptor stop_event_;
  std::mutex mutex_;
  std::atomic<std::uint32_t> changes_{0};  // Parked on.
  Places wanted_;                          // Guarded by mutex_, as is the next.
  bool stopping_ = false;
  std::unique_ptr<spi::Runtime::Thread> thread_;
};

}  // namespace lockr::redis
