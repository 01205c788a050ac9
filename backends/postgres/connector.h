// Connects anew what has gone down, on a thread of its own: name resolution blocks.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "lockr/releaser.h"
#include "lockr/spi/runtime.h"

namespace lockr::postgres {

using spi::Time;

/// Thread-safe.
class Connector {
 public:
  /// Tries to bring a link up; true when it is. `stop_fd` is readable once it has to give up.
  using Attempt = std::function<bool(std::uint16_t link, int stop_fd)>;

  Connector(spi::Runtime& runtime, Attempt attempt);
  ~Connector();

  /// The link shall be brought up, until it is. Does not start the thread: start() does.
  void want(std::uint16_t link);
  /// Starts the thread if there is anything to do for it.
  void start();
  void stop();
  /// In a forked child, where the thread does not run.
  void forked() noexcept;

 private:
  struct Want {
    Time due{0};
    Time pause{0};
  };
  void run();

  spi::Runtime& runtime_;
  const Attempt attempt_;
  Descriptor stop_event_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint16_t, Want> wanted_;  // Guarded by mutex_, as is the next.
  bool stopping_ = false;
  std::unique_ptr<spi::Runtime::Thread> thread_;
};

}  // namespace lockr::postgres
