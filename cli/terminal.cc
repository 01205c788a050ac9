#include "cli/terminal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

namespace lockr::cli {

Terminal::Terminal(pid_t owner) : fd_(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)), owner_(owner) {}

Terminal::~Terminal() {
  if (fd_ >= 0) ::close(fd_);
}

bool Terminal::owner_in_front() const { return fd_ >= 0 && owner_ > 0 && ::tcgetpgrp(fd_) == owner_; }

bool Terminal::lend(pid_t group) {
  termios modes{};
  const bool known = fd_ >= 0 && ::tcgetattr(fd_, &modes) == 0;
  if (fd_ < 0 || ::tcsetpgrp(fd_, group) != 0) return false;
  if (known) modes_ = modes;
  borrower_ = group;
  return true;
}

bool Terminal::take_back() {
  if (borrower_ == 0) return false;
  const pid_t front = ::tcgetpgrp(fd_);
  // The shell above us took it, or a job of an inner shell has it until it is ended.
  if (front > 0 && front != borrower_ && ::kill(-front, 0) == 0) return false;
  borrower_ = 0;
  return ::tcsetpgrp(fd_, owner_) == 0;
}

void Terminal::restore_modes() {
  if (modes_ && owner_in_front()) ::tcsetattr(fd_, TCSADRAIN, &*modes_);
}

bool in_pipeline() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    struct stat status {};
    if (::fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode))) return true;
  }
  return false;
}

}  // namespace lockr::cli
