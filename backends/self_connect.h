// TCP may connect a client to itself: where nobody listens at a port of this host that is also the client's own port.
#pragma once

#include <sys/socket.h>

#include <cstring>

namespace lockr::spi {

/// Whether a TCP socket is connected to itself. It would read its own bytes as the server's: nothing may be sent, and
/// the connection counts as refused.
inline bool is_connected_to_itself(int fd) noexcept {
  sockaddr_storage own{};
  sockaddr_storage peer{};
  socklen_t own_size = sizeof own;
  socklen_t peer_size = sizeof peer;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0) return false;
  if (own.ss_family != AF_INET && own.ss_family != AF_INET6) return false;  // Two unix sockets may both have no name.
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) return false;
  return own_size == peer_size && std::memcmp(&own, &peer, own_size) == 0;
}

}  // namespace lockr::spi
