#include "tests/support/tcp_service.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "backends/self_connect.h"

namespace lockr::testing {
namespace {

sockaddr_in address_of(const std::string& address, std::uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = ::htons(port);
  ::inet_pton(AF_INET, address.c_str(), &out.sin_addr);
  return out;
}

}  // namespace

Descriptor listen_on(const std::string& address, const Port& port) {
  Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in own = address_of(address, port.number());
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own) != 0 ||
      ::listen(listener.get(), 64) != 0) {
    throw std::runtime_error("can't listen on " + address + ": " + std::strerror(errno));
  }
  return listener;
}

TcpService::TcpService(Serve serve, const std::string& address)
    : serve_(std::move(serve)), listener_(listen_on(address, port_)) {
  acceptor_ = std::thread([this] { accept_all(); });
}

TcpService::~TcpService() {
  over_ = true;
  ::shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  {
    std::lock_guard lock(mutex_);
    for (const Descriptor& each : open_) ::shutdown(each.get(), SHUT_RDWR);
  }
  for (std::thread& each : servants_) each.join();
}

void TcpService::accept_all() {
  while (!over_) {
    const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    ++connections_;
    {
      std::lock_guard lock(mutex_);
      open_.emplace_back(fd);
    }
    servants_.emplace_back([this, fd] {
      serve_(fd);
      ::shutdown(fd, SHUT_RDWR);
    });
  }
}

std::string receive_some(int fd) {
  std::array<char, 4096> buffer{};
  ssize_t got = 0;
  do {
    got = ::recv(fd, buffer.data(), buffer.size(), 0);
  } while (got < 0 && errno == EINTR);
  return got > 0 ? std::string(buffer.data(), static_cast<std::size_t>(got)) : std::string();
}

void send_all(int fd, const std::string& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0 && errno != EINTR) return;
    if (n > 0) sent += static_cast<std::size_t>(n);
  }
}

namespace {

void pass_on(int fd, int onward) {
  for (;;) {
    std::array<pollfd, 2> ends{pollfd{fd, POLLIN, 0}, pollfd{onward, POLLIN, 0}};
    if (::poll(ends.data(), ends.size(), -1) < 0 && errno != EINTR) return;
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].revents == 0) continue;
      const std::string bytes = receive_some(ends[i].fd);
      if (bytes.empty()) return;
      send_all(ends[1 - i].fd, bytes);
    }
  }
}

}  // namespace

Descriptor connect_to(std::uint16_t port) {
  Descriptor onward(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in target = address_of("127.0.0.1", port);
  if (::connect(onward.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0) return Descriptor(-1);
  if (spi::is_connected_to_itself(onward.get())) return Descriptor(-1);
  return onward;
}

void forward(int fd, std::uint16_t port) {
  const Descriptor onward = connect_to(port);
  if (onward.get() >= 0) pass_on(fd, onward.get());
}

void forward(int fd, const Descriptor& onward) { pass_on(fd, onward.get()); }

}  // namespace lockr::testing
