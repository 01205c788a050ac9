// The backend's section of the config, or the same in a URL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lockr/result.h"
#include "lockr/spi/runtime.h"
#include "lockr/spi/section.h"

namespace lockr::postgres {

using spi::Time;

struct Options {
  std::string dsn;  ///< As libpq reads it; empty: all from libpq's environment.
  std::uint16_t lanes = 2;
  std::uint16_t waiters = 4;
  bool fencing = false;
  std::optional<Time> session_ttl;
  bool alone = false;  ///< For one dedicated session; not in the config.
};

/// JSON Schema of the section.
extern const char kSchema[];

/// Errors: `invalid_config`; the message repeats nothing of the dsn.
Result<Options> read_options(const spi::Section& section);

}  // namespace lockr::postgres
