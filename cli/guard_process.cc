// The guard's own side: one thread, all signals blocked, a loop over one socket and one signalfd.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cli/guard_wire.h"
#include "cli/process_tree.h"
#include "cli/terminal.h"

namespace lockr::cli {
namespace {

// A lockr that stopped itself is woken this often once its command runs on or has ended.
constexpr int kNudgeMs = 50;

// SIGTERM is what the kernel sends us when lockr dies; nobody else's SIGTERM ends a guard.
int watch_signals() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGCHLD);
  sigaddset(&watched, SIGTERM);
  return ::signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
}

class GuardProcess {
 public:
  GuardProcess(const GuardedCommand& command, pid_t lockr, int socket)
      : command_(command),
        lockr_(lockr),
        socket_(socket),
        signals_(watch_signals()),
        terminal_(::getpgid(lockr)),
        wants_terminal_(!in_pipeline()) {
    ::prctl(PR_SET_NAME, "lockr-guard", 0, 0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    ::setpgid(0, 0);  // Whoever kills lockr's process group leaves the guard.
    adopt_orphans();
  }

  void run() {
    if (!wait_for_go() || !start()) return;
    supervise();
    finish();
  }

 private:
  bool lockr_lives() const { return ::getppid() == lockr_; }

  // False when lockr is gone.
  bool receive(Order& order) {
    alignas(cmsghdr) char control[CMSG_SPACE(Order::kMostDescriptors * sizeof(int))];
    iovec data{&order, sizeof order};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    // The descriptors are only kept open, never used: their numbers need not be remembered.
    if (::recvmsg(socket_, &message, MSG_CMSG_CLOEXEC) <= 0) return false;
    if ((message.msg_flags & MSG_CTRUNC) != 0) kept_all_ = false;
    return true;
  }

  void report(Report::Kind kind, int value, Report::Stage stage = Report::Stage::none, bool had_terminal = false) {
    const Report report{kind, value, stage, had_terminal};
    const int flags = MSG_NOSIGNAL | (kind == Report::Kind::stopped ? MSG_DONTWAIT : 0);
    (void)::send(socket_, &report, sizeof report, flags);
  }

  // False when there is nothing to start.
  bool wait_for_go() {
    for (Order order; lockr_lives() && receive(order);) {
      if (order.kind == Order::Kind::end) return false;
      if (order.kind == Order::Kind::go) return true;
      if (order.kind == Order::Kind::token) tokens_.append(order.text, static_cast<std::size_t>(order.text_size));
    }
    return false;
  }

  void set_environment() const {
    ::unsetenv("LOCKR_CONFIG");
    ::unsetenv("LOCKR_URL");
    ::setenv("LOCKR_KEY", command_.keys.c_str(), 1);
    if (tokens_.empty()) {
      ::unsetenv("LOCKR_FENCING_TOKEN");
    } else {
      ::setenv("LOCKR_FENCING_TOKEN", tokens_.c_str(), 1);
    }
  }

  bool not_started(Report::Stage stage, int error) {
    report(Report::Kind::not_started, error, stage);
    return false;
  }

  bool start() {
    if (!kept_all_) return not_started(Report::Stage::descriptors, EMFILE);
    set_environment();
    int line[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) != 0) {
      return not_started(Report::Stage::process, errno);
    }
    const pid_t guard = ::getpid();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(line[0]);
      execute(guard, line[1]);
    }
    const int fork_error = errno;
    ::close(line[1]);
    const int error = pid_ < 0 ? fork_error : release_child(line[0]);
    ::close(line[0]);
    if (pid_ < 0) return not_started(Report::Stage::process, error);
    if (error != 0) {
      ::waitpid(pid_, nullptr, 0);
      terminal_.take_back();
      return not_started(Report::Stage::execute, error);
    }
    detach();
    report(Report::Kind::started, pid_);
    return true;
  }

  // In the child. It waits for the guard to have made its process group and lent it the terminal; when exec succeeds
  // the line closes, otherwise it carries the errno.
  [[noreturn]] void execute(pid_t guard, int line) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    char token;
    if (::getppid() != guard || ::read(line, &token, 1) != 1) ::_exit(kSilentExit);
    std::vector<char*> arguments;
    for (const std::string& argument : command_.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    sigprocmask(SIG_SETMASK, &command_.signal_mask, nullptr);
    ::execvp(arguments[0], arguments.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t sent = ::write(line, &error, sizeof error);
    ::_exit(kSilentExit);
  }

  // Returns the errno of a failed exec, or 0.
  int release_child(int line) {
    ::setpgid(pid_, pid_);
    if (wants_terminal_ && terminal_.owner_in_front()) terminal_.lend(pid_);
    [[maybe_unused]] const ssize_t sent = ::write(line, "", 1);
    int error = 0;
    return ::read(line, &error, sizeof error) == sizeof error ? error : 0;
  }

  // Whoever reads the command's output sees its end when the command closes it, not when the guard ends.
  static void detach() {
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      if (null >= 0) {
        ::dup2(null, fd);
      } else {
        ::close(fd);
      }
    }
  }

  // Until the command has ended or has to.
  void supervise() {
    while (running_) {
      const bool nudge = lockr_asleep_ && !stopped_;
      pollfd events[] = {{socket_, POLLIN, 0}, {signals_, POLLIN, 0}};
      ::poll(events, 2, nudge ? kNudgeMs : -1);
      if (events[0].revents != 0 && !obey()) return;
      if (!lockr_lives()) return;
      for (signalfd_siginfo info; ::read(signals_, &info, sizeof info) > 0;) {
      }
      reap();
      if (lockr_asleep_ && !stopped_) ::kill(lockr_, SIGCONT);
    }
  }

  // False when the command has to be ended.
  bool obey() {
    Order order;
    if (!receive(order) || order.kind == Order::Kind::end) return false;
    if (order.kind == Order::Kind::pass_on) ::kill(-pid_, order.value);
    if (order.kind == Order::Kind::resumed) resume();
    return true;
  }

  void resume() {
    lockr_asleep_ = false;
    stopped_ = false;
    if (wants_terminal_ && terminal_.owner_in_front()) terminal_.lend(pid_);
    ::kill(-pid_, SIGCONT);
  }

  void reap() {
    int status = 0;
    for (pid_t pid; running_ && (pid = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0;) {
      if (pid != pid_) continue;
      if (WIFSTOPPED(status)) {
        stop(WSTOPSIG(status));
      } else if (WIFCONTINUED(status)) {
        stopped_ = false;
      } else {
        ended(status);
      }
    }
  }

  void stop(int signal) {
    const bool asks_for_terminal = signal == SIGTTIN || signal == SIGTTOU;
    if (asks_for_terminal && terminal_.owner_in_front() && terminal_.lend(pid_)) {
      wants_terminal_ = true;
      ::kill(-pid_, SIGCONT);
      return;
    }
    stopped_ = true;
    lockr_asleep_ = true;
    const bool had_terminal = terminal_.take_back();
    report(Report::Kind::stopped, signal, Report::Stage::none, had_terminal);
  }

  void ended(int status) {
    running_ = false;
    status_ = status;
  }

  void finish() {
    const bool forced = running_;
    terminal_.take_back();
    end_tree(pid_, command_.grace,
             {.reaped =
                  [this](pid_t pid, int status) {
                    if (pid == pid_ && running_) ended(status);
                  },
              .stuck = [this](pid_t pid) { report(Report::Kind::stuck, pid); }});
    terminal_.take_back();
    if (forced || WIFSIGNALED(status_)) terminal_.restore_modes();
    report(Report::Kind::ended, status_);
    wake_lockr();
  }

  void wake_lockr() {
    while (lockr_asleep_ && lockr_lives()) {
      ::kill(lockr_, SIGCONT);
      pollfd event{socket_, POLLIN, 0};
      Order order;
      if (::poll(&event, 1, kNudgeMs) > 0 && (!receive(order) || order.kind == Order::Kind::resumed)) return;
    }
  }

  static constexpr int kSilentExit = 125;  // Nobody asks for it.

  const GuardedCommand& command_;
  const pid_t lockr_;
  const int socket_;
  const int signals_;
  Terminal terminal_;
  bool wants_terminal_;
  bool kept_all_ = true;
  std::string tokens_;
  pid_t pid_ = 0;
  int status_ = 0;
  bool running_ = true;
  bool stopped_ = false;
  bool lockr_asleep_ = false;  // It was told to stop, and did not say yet that it runs again.
};

}  // namespace

void guard_main(const GuardedCommand& command, pid_t lockr, int socket) {
  GuardProcess(command, lockr, socket).run();
  ::_exit(0);
}

}  // namespace lockr::cli
