// Both sides of hold_in_child().
#pragma once

#include "lockr/registry.h"

namespace lockr::testing {

/// The argument that makes run_conformance() the child.
inline constexpr const char* kHoldArgument = "--lockr-conformance-hold";

/// The child: reads config, key and nothing else from stdin, takes the key, says so on stdout, and holds it until stdin
/// ends or it is killed.
int hold_for_parent(const Registry& registry);

}  // namespace lockr::testing
