// The names in a config's accept_risk.
#pragma once

#include <span>
#include <string_view>

#include "lockr/config.h"

namespace lockr::core {

/// Of every config: a file that every user may read, with a password in it.
inline constexpr std::string_view kReadableConfig = "readable_config";

/// `invalid_config`, with the place, where the config accepts a risk that is none of these.
Status check_risks(const LockerConfig& config, std::span<const std::string_view> known);

}  // namespace lockr::core
