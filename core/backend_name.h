// The name of a config's backend, for messages.
#pragma once

#include <string>

#include "lockr/config.h"

namespace lockr::core {

/// In quotes; of one that came by reference, which may have brought a secret, only that it is not shown.
std::string shown_backend(const LockerConfig& config);

}  // namespace lockr::core
