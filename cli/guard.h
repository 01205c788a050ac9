// The guard: a process between lockr and the command that lives longer than both.
//
// It is forked before the engine is opened, while lockr has one thread and no lock. It receives duplicates of the
// descriptors that keep the locks at the engine, runs the command in a process group of its own, adopts and reaps
// everything the command starts, and ends all of it when the command ends, when lockr says so, or when lockr dies. Its
// descriptors are closed by its own end only, so an engine that drops locks with their last descriptor drops them after
// the command's tree is gone, however lockr ended.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockr/releaser.h"
#include "lockr/result.h"

namespace lockr::cli {

/// What the guard runs, once told to.
struct GuardedCommand {
  std::vector<std::string> arguments;
  std::string keys;  ///< LOCKR_KEY.
  std::chrono::nanoseconds grace;
  sigset_t signal_mask;  ///< The command's.
};

/// What the guard tells lockr.
struct Report {
  enum class Kind : int {
    started,      ///< The command runs; `value` is its process id.
    not_started,  ///< It does not, and never will; `value` is the errno, `stage` what failed.
    stopped,      ///< A stop signal, `value`, stopped it. Answer with resumed() once lockr runs on.
    stuck,        ///< Process `value` of its tree survives SIGKILL; the lock is kept until it is gone.
    ended,        ///< It and its tree are gone; `value` is its wait status. Nothing follows.
  };
  enum class Stage : int { none, descriptors, process, execute };

  Kind kind{};
  int value = 0;
  Stage stage = Stage::none;
  bool had_terminal = false;  ///< stopped: it was in the foreground.
};

/// lockr's side. One thread only.
class Guard {
 public:
  /// Forks it. Call while the process has one thread. Errors: `capacity`.
  static Result<Guard> start(const GuardedCommand& command);
  Guard(Guard&& other) noexcept;
  Guard& operator=(Guard&&) = delete;
  /// Lets go of it and waits for its end; a command that still runs is ended.
  ~Guard();

  /// Sends duplicates of descriptors to keep. Errors: `backend_failure` when the guard is gone.
  Status keep(std::span<const Descriptor> descriptors);
  /// Starts the command; `tokens` is its LOCKR_FENCING_TOKEN, nullopt to have none. A report follows.
  Status go(const std::optional<std::string>& tokens);
  /// Sends the command's process group a signal.
  void pass_on(int signal);
  /// After a `stopped` report: lockr runs on, and so may the command.
  void resumed();
  /// Ends the command and its tree; an `ended` report follows.
  void end();

  /// Readable when a report is there or the guard is gone.
  int fd() const { return socket_; }
  /// Waits for the next report; nullopt when the guard is gone.
  std::optional<Report> next();

 private:
  Guard(pid_t pid, int socket) : pid_(pid), socket_(socket) {}

  pid_t pid_;
  int socket_;
};

}  // namespace lockr::cli
