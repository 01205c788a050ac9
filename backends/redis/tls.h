// TLS over memory: what to send and what arrived, without a socket.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "backends/redis/options.h"
#include "lockr/result.h"

namespace lockr::redis {

/// One connection's TLS. Verifies the server's certificate and name, always. Not thread-safe.
class Tls {
 public:
  /// Errors: `invalid_config` for files that can't be used.
  static Result<std::unique_ptr<Tls>> make(const Options& options);
  ~Tls();

  /// Goes on with the handshake: true when it is over. Errors: `access_denied` when the certificate is not accepted.
  Result<bool> handshake();
  /// Ciphertext that arrived.
  void arrived(std::string_view bytes);
  /// Appends what has been deciphered; false when the stream is broken or ended.
  bool read(std::string& plain);
  /// False when the stream is broken.
  bool write(std::string_view plain);
  /// Appends the ciphertext that is to be sent.
  void take_outgoing(std::string& bytes);

 private:
  struct Parts;
  explicit Tls(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace lockr::redis
