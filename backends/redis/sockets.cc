#include "backends/redis/sockets.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace lockr::redis {

Sockets::Sockets() noexcept {
  for (auto& each : fds_) each.store(-1, std::memory_order_relaxed);
}

int Sockets::make(int family) noexcept {
  const std::lock_guard lock(opening_);
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fd;
  for (auto& each : fds_) {
    int none = -1;
    if (each.compare_exchange_strong(none, fd)) return fd;
  }
  ::close(fd);
  errno = EMFILE;
  return -1;
}

void Sockets::close(int fd) noexcept {
  const std::lock_guard lock(opening_);
  for (auto& each : fds_) {
    int mine = fd;
    if (each.compare_exchange_strong(mine, -1)) break;
  }
  ::close(fd);
}

void Sockets::forked() noexcept {
  in_child_.store(true, std::memory_order_relaxed);
  for (auto& each : fds_) {
    if (const int fd = each.exchange(-1); fd >= 0) ::close(fd);
  }
}

bool wait_for(int fd, short events, const Patience& patience) {
  for (;;) {
    const Time left = patience.until - patience.runtime.steady_now();
    if (left <= Time{0}) return false;
    std::array<pollfd, 2> fds{pollfd{fd, events, 0}, pollfd{patience.stop_fd, POLLIN, 0}};
    const timespec timeout{.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(left.count() % 1'000'000'000)};
    const int ready = ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || fds[1].revents != 0) return false;
    return true;
  }
}

}  // namespace lockr::redis
