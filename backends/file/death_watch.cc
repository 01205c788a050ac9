#include "backends/file/death_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace lockr::file {

void DeathWatch::watch(int pid) noexcept {
  Watched* free = nullptr;
  for (Watched& watched : watched_) {
    const int there = watched.pid.load(std::memory_order_acquire);
    if (there == pid) return;
    if (there == kFree) free = &watched;
  }
  if (!start()) return;
  if (!free) {
    watched_[hand_++ % kMost].pid.store(kUnwanted, std::memory_order_release);
  } else {
    const auto fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (fd < 0) return;
    free->fd.store(fd, std::memory_order_relaxed);
    free->pid.store(pid, std::memory_order_release);
  }
  ring();
}

bool DeathWatch::start() noexcept {
  if (thread_) return true;
  if (event_ < 0) event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_ >= 0) thread_ = runtime_.start("lockr-watch", [this] { run(); });
  return thread_ != nullptr;
}

void DeathWatch::ring() noexcept {
  // Fails only when the counter is full, and then the thread wakes anyway.
  if (eventfd_write(event_, 1) != 0) return;
}

void DeathWatch::run() noexcept {
  std::array<pollfd, kMost + 1> polled;
  std::array<Watched*, kMost + 1> behind{};
  while (!stop_.load(std::memory_order_acquire)) {
    nfds_t count = 0;
    polled[count++] = {.fd = event_, .events = POLLIN, .revents = 0};
    for (Watched& watched : watched_) {
      const int pid = watched.pid.load(std::memory_order_acquire);
      if (pid == kUnwanted) {
        ::close(watched.fd.exchange(-1));
        watched.pid.store(kFree, std::memory_order_release);
      } else if (pid != kFree) {
        behind[count] = &watched;
        polled[count++] = {.fd = watched.fd, .events = POLLIN, .revents = 0};
      }
    }
    if (poll(polled.data(), count, -1) < 0) continue;
    eventfd_t rings = 0;
    if (polled[0].revents != 0) eventfd_read(event_, &rings);
    bool died = false;
    for (nfds_t at = 1; at < count; ++at) {
      if (polled[at].revents == 0) continue;
      died = true;
      ::close(behind[at]->fd.exchange(-1));
      behind[at]->pid.store(kFree, std::memory_order_release);
    }
    if (died) died_();
  }
}

void DeathWatch::close() noexcept {
  if (thread_ && forked_) thread_->abandon();
  stop_.store(true, std::memory_order_release);
  if (thread_ && !forked_) ring();
  thread_.reset();
  for (Watched& watched : watched_) {
    watched.pid.store(kFree);
    if (const int fd = watched.fd.exchange(-1); fd >= 0) ::close(fd);
  }
  if (const int fd = event_.exchange(-1); fd >= 0) ::close(fd);
}

void DeathWatch::forked() noexcept {
  forked_ = true;
  for (Watched& watched : watched_) {
    if (const int fd = watched.fd.exchange(-1); fd >= 0) ::close(fd);
  }
  if (const int fd = event_.exchange(-1); fd >= 0) ::close(fd);
}

}  // namespace lockr::file
