#include "cli/guard.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "cli/guard_wire.h"

namespace lockr::cli {
namespace {

Status send(int socket, Order& order, std::span<const int> descriptors, int flags) {
  iovec data{&order, offsetof(Order, text) + static_cast<std::size_t>(order.text_size)};
  alignas(cmsghdr) char control[CMSG_SPACE(Order::kMostDescriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | flags);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return {};
  return fail(Error(errc::backend_failure, "the guard process is gone").with_native(strerrorname_np(errno)));
}

Status send(int socket, Order::Kind kind, int value = 0, int flags = 0) {
  Order order;
  order.kind = kind;
  order.value = value;
  return send(socket, order, {}, flags);
}

}  // namespace

Result<Guard> Guard::start(const GuardedCommand& command) {
  const auto failed = [](const char* what) {
    return fail(Error(errc::capacity, std::string("can't start the guard process: ") + what)
                    .with_native(strerrorname_np(errno)));
  };
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return failed("no socket pair");
  const pid_t lockr = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(sockets[0]);
    guard_main(command, lockr, sockets[1]);
  }
  ::close(sockets[1]);
  if (pid > 0) return Guard(pid, sockets[0]);
  ::close(sockets[0]);
  return failed("no process");
}

Guard::Guard(Guard&& other) noexcept : pid_(std::exchange(other.pid_, -1)), socket_(std::exchange(other.socket_, -1)) {}

Guard::~Guard() {
  if (pid_ < 0) return;
  ::close(socket_);
  ::kill(pid_, SIGCONT);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Status Guard::keep(std::span<const Descriptor> descriptors) {
  std::vector<int> numbers;
  for (const Descriptor& descriptor : descriptors) numbers.push_back(descriptor.get());
  for (std::size_t from = 0; from < numbers.size(); from += Order::kMostDescriptors) {
    const std::size_t count = std::min(Order::kMostDescriptors, numbers.size() - from);
    Order order;
    order.kind = Order::Kind::keep;
    if (auto sent = send(socket_, order, std::span(numbers).subspan(from, count), 0); !sent) return sent;
  }
  return {};
}

Status Guard::go(const std::optional<std::string>& tokens) {
  for (std::size_t from = 0; tokens && from < tokens->size(); from += Order::kMostText) {
    Order order;
    order.kind = Order::Kind::token;
    order.text_size = static_cast<int>(tokens->copy(order.text, Order::kMostText, from));
    if (auto sent = send(socket_, order, {}, 0); !sent) return sent;
  }
  return send(socket_, Order::Kind::go);
}

// A guard that does not read, because someone stopped it, must not stop lockr; a signal may get lost then.
void Guard::pass_on(int signal) { (void)send(socket_, Order::Kind::pass_on, signal, MSG_DONTWAIT); }

void Guard::resumed() { (void)send(socket_, Order::Kind::resumed); }

void Guard::end() {
  ::kill(pid_, SIGCONT);
  (void)send(socket_, Order::Kind::end);
}

std::optional<Report> Guard::next() {
  Report report;
  ssize_t size;
  do {
    size = ::recv(socket_, &report, sizeof report, 0);
  } while (size < 0 && errno == EINTR);
  if (size != sizeof report) return std::nullopt;
  return report;
}

}  // namespace lockr::cli
