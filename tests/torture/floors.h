// Floors: the least that a run must have come to, to prove anything. They are shares of what the run itself came to, so
// that they hold on any machine. Pure: no clock, no I/O.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/torture/run.h"

namespace lockr::torture {

struct Floors {
  /// How often a run wants to see something: a fault by its name, "cancels", "timeouts of 1 ms", "forks", "takeovers",
  /// "losses". It goes on for it, within its time; what it has not seen once is too little, whatever the machine.
  std::map<std::string, std::uint64_t> wanted{};

  /// What is too little, a line each: hardly a call was granted, fewer than faults struck, a fault was never struck or
  /// hardly ever found somebody to strike, something that is wanted was never seen.
  std::string missed(const Outcome& outcome) const;
  /// What was seen, but less often than wanted, a line each.
  std::string fewer(const Outcome& outcome) const;
  bool reached(const Outcome& outcome) const { return missed(outcome).empty() && fewer(outcome).empty(); }
};

}  // namespace lockr::torture
