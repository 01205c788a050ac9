// A stream of bytes to the server: TCP or a unix socket, with or without TLS. Raises no SIGPIPE.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "backends/redis/options.h"
#include "backends/redis/sockets.h"
#include "backends/redis/tls.h"
#include "lockr/result.h"

namespace lockr::redis {

/// Sending and receiving do not touch each other, without TLS; shut_down() may come from any thread.
class Stream {
 public:
  virtual ~Stream() = default;

  /// Its socket; -1: it has none.
  virtual int fd() const noexcept = 0;
  /// Whether what is sent can be read by others: over a network, without TLS.
  virtual bool is_exposed() const noexcept = 0;

  /// How long receive() blocks when it may.
  virtual void set_patience(Time time) noexcept = 0;

  /// Takes the bytes and sends what can be sent without blocking; false when the stream broke.
  virtual bool send(std::string_view bytes) = 0;
  virtual bool flush() = 0;
  virtual bool has_unsent() const noexcept = 0;

  enum class Got { bytes, nothing, end };
  /// Appends what arrived. `block`: waits for it, for as long as set_patience() says.
  virtual Got receive(std::string& into, bool block) = 0;
  /// Sleeps until something arrived, or until what is unsent can be sent; false when the patience ends before.
  virtual bool wait(const Patience& patience) = 0;

  /// Ends it in both directions and wakes who waits for it; the descriptor stays until destruction.
  virtual void shut_down() noexcept = 0;
};

class SocketStream final : public Stream {
 public:
  /// Connects. Errors: `connection_lost`, `access_denied`, `capacity`, `invalid_config`.
  static Result<std::unique_ptr<Stream>> open(const Options& options, Sockets& sockets, const Patience& patience);
  SocketStream(int fd, Sockets& sockets) : fd_(fd), sockets_(sockets) {}
  SocketStream(const SocketStream&) = delete;
  SocketStream& operator=(const SocketStream&) = delete;
  ~SocketStream() override;

  int fd() const noexcept override { return fd_; }
  bool is_exposed() const noexcept override;
  void set_patience(Time time) noexcept override;
  bool send(std::string_view bytes) override;
  bool flush() override;
  bool has_unsent() const noexcept override { return sent_ < outgoing_.size(); }
  Got receive(std::string& into, bool block) override;
  bool wait(const Patience& patience) override;
  void shut_down() noexcept override;

 private:
  Status agree_on_tls(const Options& options, const Patience& patience);

  const int fd_;
  Sockets& sockets_;
  std::unique_ptr<Tls> tls_;
  std::string outgoing_;
  std::size_t sent_ = 0;
};

}  // namespace lockr::redis
