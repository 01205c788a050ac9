// The processes below this one: finding them, ending them.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>

namespace lockr::cli {

/// Makes orphaned descendants children of this process, so that it can end and reap every one of them.
void adopt_orphans();

/// What end_tree() tells.
struct TreeEvents {
  /// A child was reaped, with its wait status.
  std::function<void(pid_t, int)> reaped;
  /// A process is still there a second after SIGKILL: the kernel, or another user's rights, keep it. Told once.
  std::function<void(pid_t)> stuck;
};

/// Ends the process group `group` (0: none) and every child and adopted descendant: SIGTERM to each (with SIGCONT for
/// the stopped ones), after `grace` (hours at most) SIGKILL until none is left. Returns when all are reaped, which the
/// kernel may delay without limit. SIGCHLD must be blocked and not ignored.
void end_tree(pid_t group, std::chrono::nanoseconds grace, const TreeEvents& events);

}  // namespace lockr::cli
