// Loading a backend from a shared object.
#pragma once

#include <string>

#include "lockr/result.h"

namespace lockr::spi {
struct BackendInfo;
}

namespace lockr::core {

/// Loads the module, for good, and returns its backend; of one that is loaded already, the same. Thread-safe.
/// Errors: `invalid_config` for a path that is not absolute or leads to no regular file; `unsafe_setup` where somebody
/// else could replace what the path leads to; `access_denied`; `incompatible_plugin` for a file that is no module of
/// this version of the plugin interface.
Result<const spi::BackendInfo*> load_module(const std::string& path);

/// `the module "/path"`, for messages.
std::string module_name(const std::string& path);

}  // namespace lockr::core
