// Ports of servers in tests.
#pragma once

#include <cstdint>

#include "lockr/releaser.h"

namespace lockr::testing {

/// A port of TCP that is this object's alone while it lives, whether a server listens on it or not: no test program of
/// this host is given it, and no client has it as its own port. Such a client could keep a server from coming back, or
/// TCP could connect the client to itself. Throws std::runtime_error when there is none.
///
/// A server may listen on it that sets SO_REUSEADDR. It lies outside net.ipv4.ip_local_port_range where that leaves
/// any.
class Port {
 public:
  Port();

  std::uint16_t number() const { return number_; }

 private:
  bool claim(unsigned number);

  std::uint16_t number_ = 0;
  Descriptor name_;   // A unix socket whose abstract name stands for the port.
  Descriptor place_;  // Bound to the port; never listens.
};

}  // namespace lockr::testing
