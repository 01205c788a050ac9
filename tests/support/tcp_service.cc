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

TcpService::TcpService(Serve serve, const std::string& address)
    : serve_(std::move(serve)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in own = address_of(address, 0);
  socklen_t size = sizeof own;
  auto* const generic = reinterpret_cast<sockaddr*>(&own);
  if (::bind(listener_.get(), generic, size) != 0 || ::listen(listener_.get(), 16) != 0 ||
      ::getsockname(listener_.get(), generic, &size) != 0) {
    throw std::runtime_error("can't listen on " + address + ": " + std::strerror(errno));
  }
  port_ = ::ntohs(own.sin_port);
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

using Mood = Proxy::Mood;

void pass_on(int fd, int onward, const std::atomic<Mood>& mood) {
  constexpr int kLook = 5;  // Milliseconds until the mood is looked at.
  while (mood != Mood::harsh) {
    const short events = mood == Mood::honest ? POLLIN : 0;
    std::array<pollfd, 2> ends{pollfd{fd, events, 0}, pollfd{onward, events, 0}};
    if (::poll(ends.data(), ends.size(), kLook) < 0 && errno != EINTR) return;
    if (mood != Mood::honest) {
      if ((ends[0].revents & (POLLHUP | POLLERR)) != 0) return;
      continue;
    }
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].revents == 0) continue;
      const std::string bytes = receive_some(ends[i].fd);
      if (bytes.empty()) return;
      send_all(ends[1 - i].fd, bytes);
    }
  }
}

const std::atomic<Mood> always_honest{Mood::honest};

}  // namespace

Descriptor connect_to(std::uint16_t port) {
  Descriptor onward(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in target = address_of("127.0.0.1", port);
  if (::connect(onward.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0) return Descriptor(-1);
  return onward;
}

void forward(int fd, std::uint16_t port) {
  const Descriptor onward = connect_to(port);
  if (onward.get() >= 0) pass_on(fd, onward.get(), always_honest);
}

void forward(int fd, const Descriptor& onward) { pass_on(fd, onward.get(), always_honest); }

Proxy::Proxy(std::uint16_t port)
    : service_([this, port](int fd) {
        if (mood_ == Mood::harsh) return;
        const Descriptor onward = connect_to(port);
        if (onward.get() >= 0) pass_on(fd, onward.get(), mood_);
      }) {}

}  // namespace lockr::testing
