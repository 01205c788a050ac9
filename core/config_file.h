// What a config's file has to be like, by what stands in it.
#pragma once

#include <string>

#include "core/value.h"
#include "lockr/result.h"

namespace lockr::core {

/// Errors: `unsafe_setup` when every user may read a password that stands in it, which `"accept_risk":
/// ["readable_config"]` lifts, and when somebody else could make it name a module, which nothing lifts.
Status check_config_file(const SmallFile& file, const Value& root, const std::string& path);

}  // namespace lockr::core
