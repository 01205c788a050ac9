#include "cli/process_tree.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <set>
#include <string>

namespace lockr::cli {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Processes adopted while we look become children without a signal to us: look again this often.
constexpr auto kLookAgain = 20ms;

// Without /proc the list is empty; the process group is then all that can be ended, as long as its leader is there, and
// the wait is for the rest.
std::vector<pid_t> children() {
  std::string text;
  const int fd = ::open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char buffer[4096];
  for (ssize_t size; (size = ::read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(size));
  ::close(fd);
  std::vector<pid_t> pids;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end; ++at) {
    pid_t pid = 0;
    at = std::from_chars(at, end, pid).ptr;
    if (pid > 0) pids.push_back(pid);
  }
  return pids;
}

void signal_with_continue(pid_t target, int signal) {
  ::kill(target, signal);
  if (signal != SIGKILL) ::kill(target, SIGCONT);
}

class Ending {
 public:
  Ending(pid_t group, std::chrono::nanoseconds grace, const TreeEvents& events)
      : group_(group), kill_at_(Clock::now() + grace), events_(events) {}

  void run() {
    while (reap()) {
      const auto now = Clock::now();
      if (now < kill_at_) {
        signal_all(SIGTERM);
      } else {
        signal_all(SIGKILL);
        if (now > kill_at_ + 1s) tell_stuck();
      }
      wait_a_moment(now);
    }
  }

 private:
  // False when no child is left.
  bool reap() {
    for (;;) {
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, WNOHANG);
      if (pid < 0) return false;
      if (pid == 0) return true;
      signalled_.erase(pid);
      if (events_.reaped) events_.reaped(pid, status);
    }
  }

  // A process id is only signalled while it is certain whose it is: ours, because a child keeps its id until we reap
  // it, and the group's while one of its members is our child.
  void signal_all(int signal) {
    const auto due = [&](pid_t pid) { return signal == SIGKILL || signalled_.insert(pid).second; };
    const std::vector<pid_t> listed = children();
    if (listed.empty() && leader_is_ours() && due(-group_)) signal_with_continue(-group_, signal);
    for (const pid_t child : listed) {
      if (group_ > 1 && ::getpgid(child) == group_) {
        if (due(-group_)) signal_with_continue(-group_, signal);
      } else if (due(child)) {
        signal_with_continue(child, signal);
      }
    }
  }

  // A child of ours that is not reaped yet, so that the id is still its.
  bool leader_is_ours() const {
    siginfo_t info{};
    return group_ > 1 && ::waitid(P_PID, static_cast<id_t>(group_), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  }

  void tell_stuck() {
    if (told_stuck_ || !events_.stuck) return;
    const auto left = children();
    if (left.empty() && !leader_is_ours()) return;
    events_.stuck(left.empty() ? group_ : left.front());
    told_stuck_ = true;
  }

  void wait_a_moment(Clock::time_point now) const {
    auto pause = std::chrono::nanoseconds(kLookAgain);
    if (now < kill_at_) pause = std::min<std::chrono::nanoseconds>(pause, kill_at_ - now);
    sigset_t child_signal;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    const timespec time{0, static_cast<long>(pause.count())};
    sigtimedwait(&child_signal, nullptr, &time);
  }

  const pid_t group_;
  const Clock::time_point kill_at_;
  const TreeEvents& events_;
  std::set<pid_t> signalled_;  // With SIGTERM; -group_ stands for the group.
  bool told_stuck_ = false;
};

}  // namespace

void adopt_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

void end_tree(pid_t group, std::chrono::nanoseconds grace, const TreeEvents& events) {
  Ending(group, grace, events).run();
}

}  // namespace lockr::cli
