// The backend's section of the config, or the same in a URL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lockr/result.h"
#include "lockr/spi/runtime.h"
#include "lockr/spi/section.h"

namespace lockr::redis {

using spi::Time;

struct Options {
  std::string host = "localhost";
  std::uint16_t port = 6379;
  std::string socket;  ///< Path of a unix socket; empty: host and port.
  std::string user;    ///< Empty: the server's default user.
  std::string password;
  std::uint16_t database = 0;
  bool tls = false;
  std::string tls_ca;           ///< File of certificates to trust; empty: the system's.
  std::string tls_certificate;  ///< Our own, with its key, where the server asks for one.
  std::string tls_key;
  std::string tls_name;  ///< The name in the server's certificate; empty: `host`.
  std::string prefix = "lockr:";
  std::uint16_t lanes = 2;
  Time ttl = std::chrono::seconds(10);
  Time margin{0};      ///< Never 0 in what read_options() returns.
  Time lock_delay{0};  ///< How much longer than ttl the server keeps a lock.
  bool fencing = true;
};

/// JSON Schema of the section.
extern const char kSchema[];

/// Errors: `invalid_config`; the message repeats nothing of user, password or URL.
Result<Options> read_options(const spi::Section& section);

}  // namespace lockr::redis
