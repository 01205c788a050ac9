// What a person reads of outcomes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/torture/run.h"

namespace lockr::torture {

/// Outcomes by the name of their run, in Markdown: a row each, one for those of a backend together, and below what the
/// table has no room for.
std::string table_of(const std::vector<std::pair<std::string, Outcome>>& outcomes);

/// How to do it again, and each violation with the piece of history that shows it; empty when there are none.
std::string failure_of(const std::string& name, const Rig& rig, const Run& run, const Outcome& outcome);

/// "0.123 ms", "4.5 s".
std::string duration_text(Nanos time);

}  // namespace lockr::torture
