// Network: how a backend reaches its server, and how its service thread sleeps until it hears of it. A simulator can
// take its place.
#pragma once

#include <poll.h>

#include <memory>
#include <span>
#include <vector>

#include "backends/redis/sockets.h"
#include "backends/redis/stream.h"
#include "lockr/releaser.h"

namespace lockr::redis {

class Network {
 public:
  virtual ~Network() = default;

  /// A stream to the server. Errors: `connection_lost`, `access_denied`, `capacity`, `invalid_config`.
  virtual Result<std::unique_ptr<Stream>> connect(const Options& options, const Patience& patience) = 0;

  /// A stream to look after: for which events of poll(2), and which of them there were.
  struct Watch {
    const Stream* stream;  ///< Null: none.
    short events;
    short happened = 0;
  };
  /// Sleeps until one of the events, until then (steady), or until wake(). One thread at a time.
  virtual void sleep(std::span<Watch> watches, Time until) = 0;
  /// Ends the current sleep or the next one. Any thread.
  virtual void wake() noexcept = 0;

  virtual void before_fork() noexcept {}
  virtual void after_fork() noexcept {}
  /// In the child. Async-signal-safe.
  virtual void forked() noexcept {}
  virtual bool in_child() const noexcept { return false; }
};

/// The system's.
class SocketNetwork final : public Network {
 public:
  explicit SocketNetwork(spi::Runtime& runtime);

  Result<std::unique_ptr<Stream>> connect(const Options& options, const Patience& patience) override;
  void sleep(std::span<Watch> watches, Time until) override;
  void wake() noexcept override;
  void before_fork() noexcept override { sockets_.before_fork(); }
  void after_fork() noexcept override { sockets_.after_fork(); }
  void forked() noexcept override { sockets_.forked(); }
  bool in_child() const noexcept override { return sockets_.in_child(); }

 private:
  spi::Runtime& runtime_;
  Sockets sockets_;
  Descriptor wake_event_;
  std::vector<pollfd> polls_;  // The sleeping thread's.
};

}  // namespace lockr::redis
