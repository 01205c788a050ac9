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
  /// Connects. Errors: `connection_lost`, `access_denied`, `capacity`, `invalid_config`.
  static Result<std::unique_ptr<Stream>> open(const Options& options, Sockets& sockets, const Patience& patience);
  Stream(int fd, Sockets& sockets) : fd_(fd), sockets_(sockets) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  int fd() const noexcept { return fd_; }
  /// Whether what is sent can be read by others: over a network, without TLS.
  bool is_exposed() const noexcept;

  /// How long receive() blocks when it may.
  void set_patience(Time time) noexcept;

  /// Takes the bytes and sends what can be sent without blocking; false when the stream broke.
  bool send(std::string_view bytes);
  bool flush();
  bool has_unsent() const noexcept { return sent_ < outgoing_.size(); }

  enum class Got { bytes, nothing, end };
  /// Appends what arrived. `block`: waits for it, for as long as set_patience() says.
  Got receive(std::string& into, bool block);

  /// Ends it in both directions and wakes who waits for it; the descriptor stays until destruction.
  void shut_down() noexcept;

 private:
  Status agree_on_tls(const Options& options, const Patience& patience);

  const int fd_;
  Sockets& sockets_;
  std::unique_ptr<Tls> tls_;
  std::string outgoing_;
  std::size_t sent_ = 0;
};

}  // namespace lockr::redis
