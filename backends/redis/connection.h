// One connection to the server: commands out, replies in.
#pragma once

#include <hiredis/hiredis.h>
#include <hiredis/read.h>

#include <memory>
#include <string>
#include <string_view>

#include "backends/redis/encoding.h"
#include "backends/redis/stream.h"

namespace lockr::redis {

using Reply = std::unique_ptr<redisReply, void (*)(void*)>;

/// The text of a string, status or error reply.
inline std::string_view text_of(const redisReply& reply) { return {reply.str, reply.str ? reply.len : 0}; }

/// Dead after its first failure: an answer that came too late is never taken for another's. Not thread-safe, but for
/// shut_down() and fd(), and that one thread may receive while another sends.
class Connection {
 public:
  explicit Connection(std::unique_ptr<Stream> stream);

  int fd() const noexcept { return stream_->fd(); }
  bool is_exposed() const noexcept { return stream_->is_exposed(); }
  bool has_unsent() const noexcept { return stream_->has_unsent(); }
  bool send(std::string_view bytes) { return stream_->send(bytes); }
  bool flush() { return stream_->flush(); }
  bool wait(const Patience& patience) { return stream_->wait(patience); }
  void shut_down() noexcept { stream_->shut_down(); }
  const Stream& stream() const noexcept { return *stream_; }

  /// False when the stream ended or what arrived is no reply. `block`: waits, at most for reply_timeout.
  bool receive(bool block);
  /// The next reply that has arrived whole; null when there is none. `broken` is set when what arrived is no reply.
  Reply next(bool& broken);

  /// One command and its reply, an error reply among them. Errors: `connection_lost`.
  Result<Reply> ask(const Arguments& command, const Patience& patience);

 private:
  const std::unique_ptr<Stream> stream_;
  const std::unique_ptr<redisReader, void (*)(redisReader*)> reader_;
  std::string arrived_;
};

}  // namespace lockr::redis
