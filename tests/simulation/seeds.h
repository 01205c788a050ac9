// The seeds of a test whose schedules are chosen at random.
#pragma once

#include <cstdint>
#include <functional>

namespace lockr::testing {

/// Runs the body with each seed until the test has failed: with LOCKR_SEED alone if that is set, else with those of
/// LOCKR_SEEDS ("2000": 1 to that; "2001-4000"), else with 1 to `count`, under a sanitizer a tenth of those. A failure
/// tells its seed, also when the program dies of it.
void for_each_seed(std::uint64_t count, const std::function<void(std::uint64_t)>& body);

}  // namespace lockr::testing
