// Faults that hit processes, or that workers do to themselves: whatever the engine is.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "tests/torture/fault.h"

namespace lockr::torture {

/// kill, stop, stop_long, impatient, fickle, fork. `lease`: how long locks last that are not renewed.
std::vector<std::unique_ptr<Fault>> process_faults(std::optional<std::chrono::nanoseconds> lease);

/// The same without those that end or stop processes: for an engine that lives inside of one.
std::vector<std::unique_ptr<Fault>> mood_faults();

}  // namespace lockr::torture
