// The backend's section of the config: `directory`, `group`, or both in a URL.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "lockr/result.h"
#include "lockr/spi/section.h"

namespace lockr::file {

struct Options {
  std::string directory;       ///< Absolute; empty for the default.
  std::optional<gid_t> group;  ///< Whose members share the directory.
};

/// JSON Schema of the section.
extern const char kSchema[];

/// Errors: `invalid_config`.
Result<Options> read_options(const spi::Section& section);

}  // namespace lockr::file
