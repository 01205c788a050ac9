// A lock outlives nobody: the kernel frees it when its holder dies, however it dies.
#include <lockr/lockr.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>

#include "process.h"
#include "scenes.h"

namespace demo {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto kPatience = 10s;

struct Board {
  std::atomic<bool> held{false};
  std::atomic<Clock::rep> taken_over{0};  // on the clock that all processes share
};

lockr::Key guarded() { return lockr::Key::from_scopes({"ledger"}).value(); }

std::unique_ptr<lockr::Locker> open_file_backend() {
  return lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
}

// Asks until it is so, for kPatience at most.
template <class Condition>
bool comes_true(const Condition& condition) {
  const auto end = Clock::now() + kPatience;
  while (!condition() && Clock::now() < end) std::this_thread::sleep_for(10ms);
  return condition();
}

int hold_for_ever(Board& board) {
  auto locker = open_file_backend();
  auto session = locker->open_session({.label = "holder"}).value();
  auto held = session->lock(guarded());
  if (!held) return 1;
  board.held = true;
  for (;;) ::pause();
}

int wait_for_it(Board& board) {
  auto locker = open_file_backend();
  auto session = locker->open_session({.label = "next one"}).value();
  if (session->try_lock(guarded())) return 1;  // it must be held
  auto held = session->lock(guarded(), {.timeout = kPatience});
  board.taken_over = Clock::now().time_since_epoch().count();
  if (!held) std::fprintf(stderr, "  %s\n", held.error().to_string().c_str());
  return held ? 0 : 1;
}

}  // namespace

void killed_holder(const Stage& stage) {
  Screen& screen = stage.screen;
  screen.title("3. A process is killed with -9 while it holds a lock that another one waits for");
  Shared<Board> board;
  Child holder = Child::fork([&] { return hold_for_ever(*board); });
  const bool held = comes_true([&] { return board->held.load(); });
  Child waiter = Child::fork([&] { return wait_for_it(*board); });
  Finished who;
  const bool waiting = comes_true([&] {
    who = run({stage.lockr, "who"});
    return who.output.find("waiting") != std::string::npos;
  });
  screen.line("  $ lockr who");
  screen.line(indented(who.output));

  const auto killed = Clock::now();
  holder.kill(SIGKILL);
  screen.expect(held && waiting && holder.wait() == 128 + SIGKILL, "the holder is killed while another one waits");
  const bool granted = waiter.wait() == 0;
  const Clock::duration took = Clock::duration(board->taken_over) - killed.time_since_epoch();
  screen.expect(granted && took.count() > 0,
                "the next one has the lock" + (granted ? " " + readable(took) + " after the kill" : ""));
}

}  // namespace demo
