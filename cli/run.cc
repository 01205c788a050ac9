// lockr run: take the keys, have the guard run the command, give the keys back.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <functional>
#include <stop_token>

#include "cli/acquire.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/event.h"
#include "cli/guard.h"
#include "cli/process_tree.h"
#include "cli/settings.h"
#include "cli/signals.h"
#include "cli/text.h"
#include "lockr/registry.h"

namespace lockr::cli {
namespace {

int status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? kSignalled + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

std::string joined(const std::vector<Key>& keys) {
  std::string text;
  for (const Key& key : keys) text.append(text.empty() ? "" : "\n").append(key.string());
  return text;
}

// One token a line; nullopt when the engine has none.
std::optional<std::string> joined_tokens(const std::vector<Releaser>& held) {
  std::string text;
  for (const Releaser& releaser : held) {
    const auto token = releaser.fencing_token();
    if (!token) return std::nullopt;
    text.append(text.empty() ? "" : "\n").append(std::to_string(*token));
  }
  return text;
}

// The command while it runs under locks that are held.
class Supervision {
 public:
  Supervision(const RunOptions& options, SignalWatch& signals, Guard& guard, std::vector<Releaser> held)
      : options_(options), signals_(signals), guard_(guard), held_(std::move(held)), most_(from_now(options.at_most)) {
    for (const Releaser& releaser : held_) on_lost_.emplace_back(releaser.lost_token(), [this] { lost_.raise(); });
  }
  Supervision(const Supervision&) = delete;
  Supervision& operator=(const Supervision&) = delete;

  /// Runs the command to its end, gives the locks back, returns the status to exit with.
  int run() {
    signals_.add({SIGWINCH, SIGTSTP, SIGCONT});
    block(SIGTTOU);  // Our messages reach a terminal that the command has the foreground of.
    if (auto started = start(); !started) return failed(describe(started.error()));
    while (!status_) wait();
    return give_back(*status_);
  }

 private:
  static BootClock::time_point from_now(std::chrono::nanoseconds span) {
    const auto now = BootClock::now();
    return span < BootClock::time_point::max() - now ? now + span : BootClock::time_point::max();
  }

  Status start() {
    for (const Releaser& releaser : held_) {
      const auto descriptors = releaser.descriptors();
      if (!descriptors) return fail(descriptors.error());
      if (auto kept = guard_.keep(*descriptors); !kept) return kept;
    }
    return guard_.go(joined_tokens(held_));
  }

  void wait() {
    pollfd events[] = {{signals_.fd(), POLLIN, 0}, {guard_.fd(), POLLIN, 0}, {ending_ ? -1 : lost_.fd(), POLLIN, 0}};
    ::poll(events, 3, patience());
    if (events[2].revents != 0) end_for_loss();
    if (!ending_ && !overdue_ && BootClock::now() >= most_) end_for_time();
    while (const auto signal = signals_.next()) {
      if (*signal == SIGCONT) {
        guard_.resumed();
      } else {
        guard_.pass_on(*signal);
      }
    }
    if (events[1].revents != 0) listen();
  }

  // How long to wait for events, in milliseconds; -1: for ever.
  int patience() const {
    if (ending_ || overdue_ || most_ == BootClock::time_point::max()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(most_ - BootClock::now());
    return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
  }

  void end_for_time() {
    overdue_ = true;
    complain("--at-most is over; ending the command");
    guard_.end();
  }

  void end_for_loss() {
    ending_ = true;
    for (const Releaser& releaser : held_) {
      if (!releaser.lost()) continue;
      complain("the lock on " + printable(releaser.key().string()) + " is lost; ending the command");
    }
    guard_.end();
  }

  void listen() {
    const auto report = guard_.next();
    if (!report) return guard_died();
    switch (report->kind) {
      case Report::Kind::started:
        return started(report->value);
      case Report::Kind::not_started:
        status_ = not_started(*report);
        return;
      case Report::Kind::stopped:
        return stop_too(*report);
      case Report::Kind::stuck:
        complain("process " + std::to_string(report->value) + " can't be ended; the lock stays held until it is gone");
        return;
      case Report::Kind::ended:
        status_ = status_of(report->value);
        return;
    }
  }

  void started(pid_t pid) {
    command_ = pid;
    if (options_.verbose) complain("the command is process " + std::to_string(pid));
    // Whoever reads the command's output sees its end when the command closes it.
    if (const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC); null >= 0) {
      ::dup2(null, STDOUT_FILENO);
      ::close(null);
    }
  }

  int not_started(const Report& report) const {
    const std::string reason = std::strerror(report.value);
    if (report.stage == Report::Stage::descriptors) {
      complain("the guard process can't keep the locks: " + reason + "; raise `ulimit -n`");
      return kFailed;
    }
    if (report.stage == Report::Stage::process) {
      return failed("can't start a process for the command: " + reason);
    }
    complain("can't run " + printable(options_.command.front()) + ": " + reason);
    return report.value == ENOENT ? kNotFound : kNotExecutable;
  }

  // The command was stopped: so are we, for the shell that waits for us. The SIGCONT that ends it is used up here: the
  // guard is told once, because a second time could continue a command that was stopped again in between.
  void stop_too(const Report& report) {
    const int signal = report.value;
    if (signal == SIGSTOP) {
      ::raise(SIGSTOP);
      take_continuation();
    } else {
      block(signal);
      // Ctrl-Z reached the command's process group alone; ours has the shell's other processes of the job. The signal
      // is sent once, to them and us: the shell may continue the job as soon as one of them stops, and that SIGCONT
      // takes a signal of ours away that is still pending. Raised again after it, the signal would stop us for good.
      ::kill(report.had_terminal ? 0 : ::getpid(), signal);
      const bool stopped = stop_for_pending(signal);
      if (!stopped && signal != SIGTSTP) {
        complain("the command needs the terminal, and there is no shell left to give it; ending the command");
        guard_.end();
      }
    }
    guard_.resumed();
  }

  void guard_died() {
    complain("the guard process died; ending the command");
    end_tree(command_, std::chrono::nanoseconds(0), {});
    status_ = kFailed;
  }

  int give_back(int status) {
    bool lost = ending_;
    for (Releaser& releaser : held_) {
      const auto released = releaser.release();
      if (released) continue;
      const errc code = released.error().code();
      lost = lost || code == errc::lock_lost || code == errc::not_released;
      if (!ending_) complain("releasing " + printable(releaser.key().string()) + ": " + describe(released.error()));
    }
    if (options_.verbose) complain("the command ended with status " + std::to_string(status));
    return lost || overdue_ ? kLockLost : status;
  }

  const RunOptions& options_;
  SignalWatch& signals_;
  Guard& guard_;
  Event lost_;
  std::vector<Releaser> held_;
  const BootClock::time_point most_;  // When --at-most is over.
  std::deque<std::stop_callback<std::function<void()>>> on_lost_;
  pid_t command_ = 0;
  bool ending_ = false;   // A lock is lost and the guard was told to end the command.
  bool overdue_ = false;  // The same because --at-most is over.
  std::optional<int> status_;
};

int run_locked(const RunOptions& options, const Settings& settings, SignalWatch& signals, Guard& guard) {
  auto locker = lockr::open(settings.config);
  if (!locker) return failed(settings.origin + ": " + describe(locker.error()));
  const Capabilities& engine = (*locker)->capabilities();
  if (!engine.cross_process) {
    return failed(settings.origin + ": the " + engine.backend +
                  " backend holds nothing against other processes, so a "
                  "command under it would be guarded against nobody; choose another backend");
  }
  auto session = (*locker)->open_session({.label = options.label});
  if (!session) return failed(describe(session.error()));
  if (options.verbose) complain("using the " + engine.backend + " backend (" + settings.origin + ")");
  const auto start = std::chrono::steady_clock::now();
  auto held = acquire(**locker, **session, options, signals);
  if (const int* status = std::get_if<int>(&held)) return *status;
  if (options.verbose) complain("acquired after " + for_people(std::chrono::steady_clock::now() - start));
  return Supervision(options, signals, guard, std::get<0>(std::move(held))).run();
}

}  // namespace

int run(const Arguments& arguments) {
  const auto parsed = parse_run(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const RunOptions& options = std::get<RunOptions>(parsed);

  std::signal(SIGCHLD, SIG_DFL);  // Ignored, it would take our children's statuses away.
  SignalWatch signals({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2});
  block(SIGCHLD);
  const auto settings = load_settings(options.engine);
  if (!settings) return failed(describe(settings.error()));
  adopt_orphans();  // The guard's, should it die.
  auto guard = Guard::start({.arguments = options.command,
                             .keys = joined(options.keys),
                             .grace = options.grace,
                             .signal_mask = signals.original()});
  if (!guard) return failed(describe(guard.error()));
  std::signal(SIGPIPE, SIG_IGN);
  return run_locked(options, *settings, signals, *guard);
}

}  // namespace lockr::cli
