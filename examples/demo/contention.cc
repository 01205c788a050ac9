// Eight processes on one file, without locks and with them.
#include <lockr/lockr.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "counters.h"
#include "histogram.h"
#include "process.h"
#include "scenes.h"

namespace demo {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kProcesses = 8;

struct Worker {
  std::atomic<std::uint64_t> increments{0};
  Histogram waits;
};

struct Board {
  std::array<Worker, kProcesses> workers;
  std::atomic<int> ready{0};
  std::atomic<Clock::rep> end{0};  // of the work, on the clock that all processes share; 0 before the start

  // A worker is ready: waits for the common start, and returns when to stop.
  Clock::time_point line_up() {
    ++ready;
    while (end == 0) std::this_thread::sleep_for(1ms);
    return Clock::time_point(Clock::duration(end));
  }

  // Waits until all are ready, and starts them.
  Clock::time_point start(Clock::duration working_time) {
    const auto latest = Clock::now() + 10s;
    while (ready < kProcesses && Clock::now() < latest) std::this_thread::sleep_for(1ms);
    const auto now = Clock::now();
    end = (now + working_time).time_since_epoch().count();
    return now;
  }

  std::uint64_t increments() const {
    std::uint64_t sum = 0;
    for (const auto& worker : workers) sum += worker.increments.load();
    return sum;
  }
};

// What a worker process does until the time is over; its exit status.
using Work = int (*)(Board& board, Worker& worker, const std::string& file);

int increment_unguarded(Board& board, Worker& worker, const std::string& file) {
  Counters counters(file);
  const auto end = board.line_up();
  for (int turn = 0; Clock::now() < end; ++turn) {
    counters.increment(turn % Counters::kCount);
    ++worker.increments;
  }
  return 0;
}

int give_up(const lockr::Error& error) {
  std::fprintf(stderr, "  %s\n", error.to_string().c_str());
  return 1;
}

int increment_under_lockr(Board& board, Worker& worker, const std::string& file) {
  Counters counters(file);
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value());
  if (!locker) return give_up(locker.error());
  auto session = (*locker)->open_session({.label = "demo worker"}).value();
  std::vector<lockr::Key> keys;
  for (const char* name : {"0", "1", "2", "3"}) keys.push_back(lockr::Key::from_scopes({"counter", name}).value());

  const auto end = board.line_up();
  for (std::size_t turn = 0; Clock::now() < end; ++turn) {
    const auto asked = Clock::now();
    auto held = session->lock(keys[turn % keys.size()]);
    if (!held) return give_up(held.error());
    worker.waits.add(Clock::now() - asked);
    counters.increment(static_cast<int>(turn % keys.size()));
    ++worker.increments;
    if (auto released = held->release(); !released) return give_up(released.error());
  }
  return 0;
}

struct Outcome {
  bool finished = true;       // every worker ended well
  std::uint64_t made = 0;     // increments, as the workers counted them
  std::uint64_t in_file = 0;  // as the file has them
  Clock::duration took{};
};

Outcome put_to_work(const Stage& stage, Board& board, Work work) {
  const std::string file = stage.folder / "counters";
  Counters::create(file);
  std::vector<Child> children;
  for (auto& worker : board.workers) children.push_back(Child::fork([&] { return work(board, worker, file); }));
  const auto start = board.start(stage.working_time);
  while (Clock::now() < start + stage.working_time) {
    std::this_thread::sleep_for(50ms);
    stage.screen.progress("  " + with_commas(board.increments()) + " increments …");
  }
  Outcome outcome;
  for (auto& child : children) outcome.finished &= child.wait() == 0;
  outcome.took = Clock::now() - start;
  outcome.made = board.increments();
  outcome.in_file = Counters(file).sum();
  return outcome;
}

std::string per_second(const Outcome& outcome) {
  const double seconds = std::chrono::duration<double>(outcome.took).count();
  return with_commas(static_cast<std::uint64_t>(static_cast<double>(outcome.made) / seconds)) + " a second";
}

}  // namespace

void without_locks(const Stage& stage) {
  Screen& screen = stage.screen;
  screen.title("1. Eight processes increment four counters in a file, without locks");
  Shared<Board> board;
  const Outcome outcome = put_to_work(stage, *board, increment_unguarded);
  const std::uint64_t lost = outcome.made - outcome.in_file;
  screen.line("  increments made    " + with_commas(outcome.made) + ", " + per_second(outcome));
  screen.line("  found in the file  " + with_commas(outcome.in_file));
  const std::uint64_t percent = outcome.made == 0 ? 0 : lost * 100 / outcome.made;
  screen.line("  lost               " + with_commas(lost) + " (" + std::to_string(percent) + " %)");
  screen.expect(outcome.finished && lost > 0, "without locks, updates are lost");
}

void with_locks(const Stage& stage) {
  Screen& screen = stage.screen;
  screen.title("2. The same under lockr's file backend, one key a counter");
  Shared<Board> board;
  const Outcome outcome = put_to_work(stage, *board, increment_under_lockr);
  Shared<Histogram> waits;
  for (const auto& worker : board->workers) waits->add(worker.waits);
  screen.line("  acquisitions       " + with_commas(outcome.made) + ", " + per_second(outcome));
  screen.line("  found in the file  " + with_commas(outcome.in_file));
  screen.line("  lost               " + with_commas(outcome.made - outcome.in_file));
  screen.line("  waits              median " + readable(waits->percentile(0.5)) + ", 99 % within " +
              readable(waits->percentile(0.99)) + ", longest " + readable(waits->longest()));
  screen.expect(outcome.finished, "every process got its locks");
  screen.expect(outcome.made > 0 && outcome.made == outcome.in_file, "no update is lost");
}

}  // namespace demo
