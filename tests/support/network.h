// Three hosts of our own, in network namespaces: packets between them can be lost as on a real network, which no proxy
// shows, because its kernel goes on to acknowledge.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

#include "lockr/releaser.h"

namespace lockr::testing {

/// A server's and a client's host, and a router between them. The calling thread stays where it is.
///
/// As root, or as a user who may make user namespaces. Needs `ip` (Debian: iproute2); loss() needs `nft` (nftables).
class Network {
 public:
  /// The system does not give such a network; what() tells why.
  class Refused : public std::runtime_error {
    using std::runtime_error::runtime_error;
  };

  static constexpr const char* kServer = "10.77.1.1";
  static constexpr const char* kClient = "10.77.2.1";

  /// Makes the process one that may make networks, and small disks: it enters a user namespace if it is not root's.
  /// Before it has a second thread. Where that is refused the constructor says so.
  static void prepare() noexcept;

  /// Throws Refused.
  Network();

  /// Moves the calling thread, and what it starts, to a host. False: it can't be. Async-signal-safe.
  bool enter_client() const noexcept;
  bool enter_server() const noexcept;
  /// For a Daemon that is to run on the server's host.
  int server() const noexcept { return server_.get(); }

  /// The router passes nothing on, in silence: nobody is told that the other is gone.
  void blackhole(bool on) const;
  /// The router loses so many of a hundred packets, each by chance.
  void loss(int percent) const;
  /// The client's cable is pulled out: the client's host knows it at once, the server's does not.
  void unplug(bool on) const;

 private:
  Descriptor client_;
  Descriptor router_;
  Descriptor server_;
};

/// Moves the calling thread, after Network::prepare(), to a host of its own that has nothing but its loopback, where
/// clients are given these ports as their own. Throws Network::Refused.
void enter_lone_host(unsigned first_client_port, unsigned last_client_port);
/// The same for the host that the thread is on.
void set_client_ports(unsigned first, unsigned last);

}  // namespace lockr::testing
