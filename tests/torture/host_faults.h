// Faults of the hosts: a wall clock that is set, a disk that is full, a process without descriptors.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "tests/support/small_disk.h"
#include "tests/torture/fault.h"

namespace lockr::torture {

/// The clock of a server whose leases run on it is set forward, beyond every lease, or a little back.
/// `move` sets it by so much.
std::unique_ptr<Fault> clock_forward(std::function<void(std::chrono::nanoseconds)> move, std::chrono::nanoseconds ttl);
std::unique_ptr<Fault> clock_back(std::function<void(std::chrono::nanoseconds)> move, std::chrono::nanoseconds ttl);

/// A worker may not open any descriptor more for a while.
std::unique_ptr<Fault> no_descriptors();

/// A disk is full for a while. `effects`: what the engine that stores there may do then. `turned`: is told, right after
/// it was filled up and after there is room again; it may make a server look, and wait for what it does.
std::unique_ptr<Fault> full_disk(const testing::SmallDisk& disk, int effects, std::chrono::nanoseconds settles,
                                 std::function<void(bool full)> turned = {});

}  // namespace lockr::torture
