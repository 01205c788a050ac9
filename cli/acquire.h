// Taking the keys of `lockr run`: a wait that signals end, and that says on a terminal whom it waits for.
#pragma once

#include <variant>
#include <vector>

#include "cli/command_line.h"
#include "cli/signals.h"
#include "lockr/locker.h"

namespace lockr::cli {

/// All keys of the options, or the status to exit with; then the message is printed. A signal of `signals` ends the
/// wait; it wins over a grant that comes at the same time.
std::variant<std::vector<Releaser>, int> acquire(Locker& locker, Session& session, const RunOptions& options,
                                                 SignalWatch& signals);

}  // namespace lockr::cli
