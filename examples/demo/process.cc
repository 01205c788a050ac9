#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace demo {

namespace {

[[noreturn]] void execute(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  std::perror(arguments[0]);
  ::_exit(127);
}

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t size = ::read(fd, buffer, sizeof buffer);
    if (size > 0) text.append(buffer, static_cast<std::size_t>(size));
    if (size == 0 || (size < 0 && errno != EINTR)) return text;
  }
}

}  // namespace

Child Child::fork(const std::function<int()>& body) {
  std::fflush(nullptr);  // or the child would print our buffers again
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    std::perror("fork");
    std::exit(1);
  }
  if (pid > 0) return Child(pid);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  const int status = body();
  std::fflush(nullptr);
  ::_exit(status);
}

Child Child::start(const std::vector<std::string>& command) {
  return fork([&]() -> int { execute(command); });
}

Child::~Child() {
  if (pid_ == 0) return;
  kill(SIGKILL);
  wait();
}

void Child::kill(int signal) const {
  if (pid_ != 0) ::kill(pid_, signal);
}

std::optional<int> Child::reap(int flags) {
  int status = 0;
  pid_t ended = -1;
  do ended = ::waitpid(pid_, &status, flags);
  while (ended < 0 && errno == EINTR);
  if (ended == 0) return std::nullopt;
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int Child::wait() { return reap(0).value(); }

std::optional<int> Child::poll() { return reap(WNOHANG); }

Finished run(const std::vector<std::string>& command) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {127, "no pipe"};
  Child child = Child::fork([&]() -> int {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    execute(command);
  });
  ::close(ends[1]);
  std::string output = read_all(ends[0]);
  ::close(ends[0]);
  return {child.wait(), std::move(output)};
}

}  // namespace demo
