#include "cli/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <ctime>

namespace lockr::cli {

SignalWatch::SignalWatch(std::initializer_list<int> signals) {
  sigemptyset(&watched_);
  pthread_sigmask(SIG_BLOCK, nullptr, &original_);
  add(signals);
}

SignalWatch::~SignalWatch() { ::close(fd_); }

void SignalWatch::add(std::initializer_list<int> signals) {
  for (const int signal : signals) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    // Blocking an ignored signal would bring it back: the kernel queues what is blocked.
    if (action.sa_handler != SIG_IGN && sigismember(&original_, signal) == 0) sigaddset(&watched_, signal);
  }
  pthread_sigmask(SIG_BLOCK, &watched_, nullptr);
  fd_ = signalfd(fd_, &watched_, SFD_CLOEXEC | SFD_NONBLOCK);
}

std::optional<int> SignalWatch::next() {
  signalfd_siginfo info{};
  if (::read(fd_, &info, sizeof info) != sizeof info) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

void block(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

bool stop_for_pending(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);  // We sleep in here.
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return take_continuation();
}

bool take_continuation() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCONT);
  const timespec at_once{};
  return sigtimedwait(&set, nullptr, &at_once) == SIGCONT;
}

}  // namespace lockr::cli
