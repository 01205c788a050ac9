// A TCP service that a test scripts: each connection is served on a thread of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "lockr/releaser.h"
#include "tests/support/port.h"

namespace lockr::testing {

/// Throws std::runtime_error when the address can't be listened on.
class TcpService {
 public:
  /// Serves one connection; it is shut down when this returns, and when the service ends.
  using Serve = std::function<void(int fd)>;

  explicit TcpService(Serve serve, const std::string& address = "127.0.0.1");
  TcpService(const TcpService&) = delete;
  TcpService& operator=(const TcpService&) = delete;
  ~TcpService();

  std::uint16_t port() const { return port_.number(); }
  int connections() const { return connections_; }

 private:
  void accept_all();

  const Serve serve_;
  const Port port_;
  Descriptor listener_;
  std::atomic<int> connections_{0};
  std::atomic<bool> over_{false};
  std::mutex mutex_;
  std::list<Descriptor> open_;       // Guarded by mutex_.
  std::list<std::thread> servants_;  // The acceptor's.
  std::thread acceptor_;
};

/// Reads what comes first, at least one byte; empty at the end.
std::string receive_some(int fd);
void send_all(int fd, const std::string& bytes);
/// Passes bytes both ways between a connection and a port of 127.0.0.1, as a plain proxy does.
void forward(int fd, std::uint16_t port);
/// The same, to where `onward` is connected.
void forward(int fd, const Descriptor& onward);
/// Throws std::runtime_error when that fails.
Descriptor listen_on(const std::string& address, const Port& port);
/// Connects to a port of 127.0.0.1; -1 when that fails, or when TCP connected it to itself.
Descriptor connect_to(std::uint16_t port);

}  // namespace lockr::testing
