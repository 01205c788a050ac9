#include "tests/torture/crew.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "tests/torture/worker.h"

namespace lockr::torture {
namespace {

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "was ended by " + std::string(::strsignal(WTERMSIG(status)));
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

Crew::Crew(Arena& arena, const Rig& rig)
    : arena_(arena), rig_(rig), members_(static_cast<std::size_t>(arena.settings().workers)) {
  for (int worker = 0; worker < size(); ++worker) arena_.worker(worker).config.set(rig_.config(worker));
}

Crew::~Crew() {
  for (Member& member : members_) {
    if (member.pid == 0) continue;
    ::kill(member.pid, SIGKILL);
    ::waitpid(member.pid, nullptr, 0);
  }
}

pid_t Crew::pid(int worker) const {
  const std::lock_guard lock(mutex_);
  return members_[static_cast<std::size_t>(worker)].pid;
}

std::uint16_t Crew::incarnation(int worker) const {
  const std::lock_guard lock(mutex_);
  return members_[static_cast<std::size_t>(worker)].incarnation;
}

bool Crew::claim(int worker) {
  const std::lock_guard lock(mutex_);
  Member& member = members_[static_cast<std::size_t>(worker)];
  if (member.claimed || member.pid == 0) return false;
  return member.claimed = true;
}

void Crew::give_back(int worker) {
  const std::lock_guard lock(mutex_);
  members_[static_cast<std::size_t>(worker)].claimed = false;
}

void Crew::start() {
  for (int worker = 0; worker < size(); ++worker) start(worker);
}

void Crew::start(int worker) {
  const std::lock_guard lock(mutex_);
  Member& member = members_[static_cast<std::size_t>(worker)];
  const auto incarnation = static_cast<std::uint16_t>(member.incarnation + 1);
  WorkerArea& area = arena_.worker(worker);
  area.done = 0;
  area.liveness.incarnation = incarnation;
  const std::vector<std::string> words = worker_command(arena_.fd(), worker, incarnation);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error(std::string("can't fork: ") + std::strerror(errno));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::fcntl(arena_.fd(), F_SETFD, 0);
    if (rig_.enter(worker)) ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  member.pid = pid;
  member.incarnation = incarnation;
}

void Crew::kill(int worker) {
  const pid_t pid = this->pid(worker);
  arena_.worker(worker).liveness.dying = incarnation(worker);
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  wipe(worker);
  const std::lock_guard lock(mutex_);
  members_[static_cast<std::size_t>(worker)].pid = 0;
}

// Only what the dead left: the next holder may be there already.
void Crew::wipe(int worker) {
  arena_.worker(worker).complaining = 0;
  const int threads = arena_.settings().threads;
  for (int key = 0; key < arena_.settings().keys; ++key) {
    Witness& witness = arena_.witness(key);
    for (int i = 0; i < threads; ++i) {
      const int slot = worker * threads + i;
      witness.readers.fetch_and(~(std::uint64_t{1} << slot));
      std::uint32_t mark = owner_word(slot, arena_.worker(worker).liveness.dying);
      witness.owner.compare_exchange_strong(mark, 0);
    }
  }
}

std::string Crew::trouble() {
  const std::lock_guard lock(mutex_);
  for (int worker = 0; worker < size(); ++worker) {
    Member& member = members_[static_cast<std::size_t>(worker)];
    if (arena_.worker(worker).failed) {
      return "worker " + std::to_string(worker) + " can't open its engine: " + arena_.worker(worker).reason.get();
    }
    int status = 0;
    if (member.pid == 0 || member.claimed || ::waitpid(member.pid, &status, WNOHANG) != member.pid) continue;
    member.pid = 0;
    return "worker " + std::to_string(worker) + " " + how_it_ended(status);
  }
  return {};
}

void Crew::command(Order::Kind kind, Nanos patience) {
  const std::uint32_t before = arena_.order();
  const std::uint32_t stretch = Order::stretch(before) + (kind == Order::Kind::work ? 1 : 0);
  const std::uint32_t order = Order::word(kind, stretch);
  arena_.order() = order;
  if (kind == Order::Kind::work) return;  // Done when the next order comes.
  const Nanos deadline = now() + patience;
  for (int worker = 0; worker < size(); ++worker) {
    while (arena_.worker(worker).done != order) {
      const std::string wrong = kind == Order::Kind::leave ? std::string() : trouble();
      if (!wrong.empty()) throw std::runtime_error(wrong);
      if (now() > deadline) {
        throw std::runtime_error("worker " + std::to_string(worker) + " does not come to rest");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

void Crew::join() {
  const std::lock_guard lock(mutex_);
  for (Member& member : members_) {
    int status = 0;
    if (member.pid == 0) continue;
    while (::waitpid(member.pid, &status, 0) < 0 && errno == EINTR) {
    }
    member.pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw std::runtime_error("a worker " + how_it_ended(status));
  }
}

}  // namespace lockr::torture
