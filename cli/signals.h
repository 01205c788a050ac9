// Signals as readable events instead of interruptions.
#pragma once

#include <csignal>
#include <initializer_list>
#include <optional>

namespace lockr::cli {

/// Blocks signals in the calling thread, and those it starts afterwards, and reads them from a descriptor.
///
/// What was ignored or blocked when the watch was made (nohup, a shell's background job) stays as it was and is not
/// watched. Blocking is not undone; a child gets its signals back from original().
class SignalWatch {
 public:
  SignalWatch(std::initializer_list<int> signals);
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  ~SignalWatch();

  /// Blocks and watches these too.
  void add(std::initializer_list<int> signals);

  /// Readable when a signal arrived.
  int fd() const { return fd_; }
  /// The next signal that arrived; nullopt when there is none. Never waits.
  std::optional<int> next();
  /// The signal mask from before.
  const sigset_t& original() const { return original_; }

 private:
  sigset_t original_;
  sigset_t watched_;
  int fd_ = -1;
};

/// Blocks one signal in the calling thread.
void block(int signal);

/// Lets the default action of a stop signal that is blocked and pending stop this process, all its threads. Returns
/// after SIGCONT: true, also when that came before the call and took the stop signal away; or at once when the kernel
/// does not stop us, because our process group is orphaned or ignores the signal: false. SIGCONT must be blocked, and
/// is no longer pending afterwards.
bool stop_for_pending(int signal);
/// Takes a SIGCONT that is pending: whether there was one.
bool take_continuation();

}  // namespace lockr::cli
