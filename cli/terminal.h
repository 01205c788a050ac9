// The controlling terminal, as the guard lends it to the command.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <optional>

namespace lockr::cli {

/// Moves the foreground between lockr's process group and the command's. SIGTTOU must be blocked.
class Terminal {
 public:
  /// `owner`: the process group of lockr.
  explicit Terminal(pid_t owner);
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  /// Whether there is a terminal and lockr's process group has its foreground.
  bool owner_in_front() const;
  /// Makes `group` the foreground group; false when it can't be.
  bool lend(pid_t group);
  /// Gives the foreground back to lockr's group if it was lent and nobody else has it by now; true if so.
  bool take_back();
  /// Undoes what the last borrower did to echo and line mode.
  void restore_modes();

 private:
  int fd_;
  pid_t owner_;
  pid_t borrower_ = 0;
  std::optional<termios> modes_;  // From when it was lent.
};

/// Whether standard input, output or error is a pipe or socket: another program of the same pipeline, a pager say, may
/// then need the terminal's foreground for lockr's own process group.
bool in_pipeline();

}  // namespace lockr::cli
