// A connection URL as a config: its scheme, the parameters that are ours, and the rest for the backend.
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"
#include "lockr/result.h"

namespace lockr::core {

struct ConfigUrl {
  std::string scheme;
  Value parameters;  ///< The `lockr.` parameters, percent-decoded, as the fields of a JSON config.
  Value section;     ///< {"url": the URL without them}
};

/// Errors: `invalid_config`; the message repeats no part of the URL but known parameters' names.
Result<ConfigUrl> parse_config_url(std::string_view url);

/// How a URL's parts are called; see PlaceName.
std::string place_in_url(std::string_view pointer);
std::string place_is_url(std::string_view pointer);

}  // namespace lockr::core
