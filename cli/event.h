// A flag that any thread can raise and poll() can wait for.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace lockr::cli {

class Event {
 public:
  Event() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { ::close(fd_); }

  /// Thread-safe.
  void raise() noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof one);
  }
  /// Readable from the first raise() on.
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace lockr::cli
