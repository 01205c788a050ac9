// A TCP proxy that plays a bad network.
#pragma once

#include <poll.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "lockr/releaser.h"
#include "tests/support/port.h"

namespace lockr::testing {

/// A proxy to a port of 127.0.0.1: plain, until it is told otherwise. Its threads are one, however many connections it
/// has. Thread-safe. Throws std::runtime_error when no address can be listened on.
class Proxy {
 public:
  /// What becomes of the bytes of every connection, those to come included, until another mood is set.
  enum class Mood : std::uint8_t {
    honest,
    slow,     ///< Passes on what it was sent `delay` later.
    split,    ///< Passes on what it was sent in up to eight parts, cut anywhere, at least 1 ms apart.
    silent,   ///< Keeps connections open and passes nothing on, as a dead network does; later it passes on what came.
    harsh,    ///< Ends every connection, as what kills idle ones does.
    garbled,  ///< Of what the server says, the client hears nothing but rubbish.
  };
  /// What happens to one connection, once.
  enum class Cut : std::uint8_t {
    reset,       ///< Both sides get an RST.
    half_close,  ///< The client is told that the server has ended; what it sends goes on to the server.
    truncate,    ///< Of what the server says next, half arrives, then the end.
  };

  explicit Proxy(std::uint16_t port);
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  ~Proxy();

  std::uint16_t port() const { return port_.number(); }
  void set(Mood mood, std::chrono::milliseconds delay = std::chrono::milliseconds(0));
  /// Cuts one of the connections; `which` chooses, whatever its size. False when there is none.
  bool cut(Cut how, std::uint64_t which);
  /// Connections that are open now.
  std::size_t connections() const;

 private:
  using Clock = std::chrono::steady_clock;

  /// One direction of a connection.
  struct Flow {
    struct Piece {
      std::string bytes;
      Clock::time_point due;
      int parts = 0;  // Passed on.
    };
    std::deque<Piece> pieces{};
    std::size_t waiting = 0;  // Bytes in pieces.
    bool ended = false;       // Nothing comes any more.
    bool closed = false;      // And the other side was told.
  };
  struct Connection {
    Descriptor client;
    Descriptor server;
    Flow up{};    // To the server.
    Flow down{};  // To the client.
    bool truncated = false;
    bool over = false;
  };

  void run();
  pollfd wish(int fd, const Flow& in, const Flow& out) const;
  void accept_one();
  void serve(Connection& connection, short client_events, short server_events);
  bool receive(Connection& connection, Flow& flow, int from);
  std::size_t next_part(Flow::Piece& piece);
  bool pass_on(Flow& flow, int to);
  std::optional<Clock::time_point> next_due() const;
  void interrupt();
  void close_cut(std::unique_lock<std::mutex>& lock);

  const std::uint16_t target_;
  const Port port_;
  Descriptor listener_;
  Descriptor bell_;
  mutable std::mutex mutex_;
  std::condition_variable closed_;  // What was cut.
  // Guarded by mutex_.
  Mood mood_ = Mood::honest;
  std::chrono::milliseconds delay_{0};
  std::list<Connection> connections_;
  std::list<Connection> cut_;  // The thread closes them: it may be polling them.
  std::minstd_rand random_;
  bool over_ = false;
  bool interrupted_ = false;
  std::thread thread_;
};

}  // namespace lockr::testing
