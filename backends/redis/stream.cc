#include "backends/redis/stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "backends/redis/errors.h"
#include "backends/self_connect.h"

namespace lockr::redis {
namespace {

constexpr std::string_view kWhat = "can't connect to Redis";

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

Error gave_up() { return Error(errc::connection_lost, std::string(kWhat) + ": no answer within connect_timeout"); }

Address unix_address(const std::string& path) {
  Address address;
  auto& place = reinterpret_cast<sockaddr_un&>(address.storage);
  place.sun_family = AF_UNIX;
  std::memcpy(place.sun_path, path.c_str(), std::min(path.size() + 1, sizeof place.sun_path));
  address.size = sizeof place;
  return address;
}

Result<std::vector<Address>> addresses_of(const Options& options) {
  if (!options.socket.empty()) return std::vector{unix_address(options.socket)};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &list);
  if (error != 0) {
    return fail(errc::connection_lost,
                std::string(kWhat) + ": the host's name can't be resolved: " + gai_strerror(error));
  }
  std::vector<Address> addresses;
  for (const addrinfo* each = list; each; each = each->ai_next) {
    Address& address = addresses.emplace_back();
    address.size = each->ai_addrlen;
    std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
  }
  ::freeaddrinfo(list);
  return addresses;
}

void set_option(int fd, int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); }

// A server that has gone without a word is noticed while nothing is sent, too.
void set_tcp_options(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 9000);
}

Error refused(const Options& options, int number) {
  const Error error = from_errno(kWhat, number);
  const std::string where = options.socket.empty() ? options.host + ":" + std::to_string(options.port) : options.socket;
  const errc code = number == EACCES ? errc::access_denied : error.code();
  return Error(code, error.message() + " (" + one_line(where) + ")");
}

Status connect_to(int fd, const Address& address, const Options& options, const Patience& patience) {
  int error = 0;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0) error = errno;
  if (error == EINPROGRESS) {
    if (!wait_for(fd, POLLOUT, patience)) return fail(gave_up());
    socklen_t size = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error == 0 && spi::is_connected_to_itself(fd)) error = ECONNREFUSED;
  return error == 0 ? Status() : fail(refused(options, error));
}

bool is_loopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_UNIX) return true;
  if (address.ss_family == AF_INET) {
    return ::ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace

SocketStream::~SocketStream() {
  if (!sockets_.in_child()) sockets_.close(fd_);
}

Result<std::unique_ptr<Stream>> SocketStream::open(const Options& options, Sockets& sockets, const Patience& patience) {
  if (options.tls) {  // Wrong files are told also while the server is down.
    if (auto usable = Tls::make(options); !usable) return fail(usable.error());
  }
  auto addresses = addresses_of(options);
  if (!addresses) return fail(addresses.error());
  Status status = fail(gave_up());
  for (const Address& address : *addresses) {
    const int fd = sockets.make(address.storage.ss_family);
    if (fd < 0) return fail(from_errno(kWhat, errno));
    auto stream = std::make_unique<SocketStream>(fd, sockets);
    status = connect_to(fd, address, options, patience);
    if (!status) continue;
    if (address.storage.ss_family != AF_UNIX) set_tcp_options(fd);
    if (options.tls) status = stream->agree_on_tls(options, patience);
    if (!status) return fail(status.error());
    // From here on each call says whether it blocks.
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return stream;
  }
  return fail(status.error());
}

Status SocketStream::agree_on_tls(const Options& options, const Patience& patience) {
  auto tls = Tls::make(options);
  if (!tls) return fail(tls.error());
  std::string arrived;
  for (;;) {
    auto over = (*tls)->handshake();
    (*tls)->take_outgoing(outgoing_);
    const bool sent = flush();
    if (!over) return fail(over.error());
    if (!sent) return fail(connection_ended("it broke while TLS was agreed on"));
    if (*over) break;
    if (!wait(patience)) return fail(gave_up());
    arrived.clear();
    if (receive(arrived, false) == Got::end) return fail(connection_ended("it broke while TLS was agreed on"));
    (*tls)->arrived(arrived);
  }
  tls_ = *std::move(tls);
  return {};
}

bool SocketStream::is_exposed() const noexcept {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (tls_ || ::getpeername(fd_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;
  return !is_loopback(peer);
}

void SocketStream::set_patience(Time time) noexcept {
  const timeval value{.tv_sec = static_cast<time_t>(time.count() / 1'000'000'000),
                      .tv_usec = static_cast<suseconds_t>(time.count() % 1'000'000'000 / 1000)};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
}

bool SocketStream::send(std::string_view bytes) {
  if (!tls_) {
    outgoing_.append(bytes);
  } else if (tls_->write(bytes)) {
    tls_->take_outgoing(outgoing_);
  } else {
    return false;
  }
  return flush();
}

bool SocketStream::flush() {
  while (has_unsent()) {
    const ssize_t count = ::send(fd_, outgoing_.data() + sent_, outgoing_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count < 0) return false;
    sent_ += static_cast<std::size_t>(count);
  }
  outgoing_.clear();
  sent_ = 0;
  return true;
}

Stream::Got SocketStream::receive(std::string& into, bool block) {
  std::array<char, 16384> part;
  const ssize_t count = ::recv(fd_, part.data(), part.size(), block ? 0 : MSG_DONTWAIT);
  if (count == 0) return Got::end;
  if (count < 0) return errno == EAGAIN || errno == EINTR ? Got::nothing : Got::end;
  const std::string_view bytes(part.data(), static_cast<std::size_t>(count));
  if (!tls_) {
    into.append(bytes);
    return Got::bytes;
  }
  tls_->arrived(bytes);
  return tls_->read(into) ? Got::bytes : Got::end;
}

bool SocketStream::wait(const Patience& patience) {
  return wait_for(fd_, static_cast<short>(POLLIN | (has_unsent() ? POLLOUT : 0)), patience);
}

void SocketStream::shut_down() noexcept {
  if (!sockets_.in_child()) ::shutdown(fd_, SHUT_RDWR);
}

}  // namespace lockr::redis
