// lockr as one who takes part in a contest.
#pragma once

#include <functional>
#include <memory>

#include "contest.h"
#include "lockr/lockr.h"

namespace lockr::bench {

/// How a cycle ends: by release(), which waits for the engine's answer, or by the destructor.
enum class Ending { release, destructor };

/// Clients that are alive together have one locker, opened for the first of them.
MakeClient lockr_clients(std::function<std::unique_ptr<Locker>()> open, Ending ending = Ending::destructor);

/// Opens what the JSON says, with room for as many held keys as a contest asks for; what can't be had ends the program.
std::unique_ptr<Locker> open_roomy(const std::string& json);

}  // namespace lockr::bench
