#include "contest.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>
#include <utility>

#include "worker.h"

namespace lockr::bench {
namespace {

using Clock = std::chrono::steady_clock;

// What a member tells, in memory that processes share. Of the times it keeps the last.
struct Member {
  std::size_t cycles = 0;
  std::size_t timed = 0;
  double cpu_s = 0;
  std::array<float, 1 << 14> times_ns;
};

struct Board {
  std::atomic<std::size_t> ready{0};
  std::atomic<bool> go{false};
  std::atomic<bool> stop{false};
  std::array<Member, 64> members;
};

class SharedBoard {
 public:
  SharedBoard() {
    void* const memory =
        mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) give_up("mmap failed");
    board_ = new (memory) Board;
  }
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;
  ~SharedBoard() { munmap(board_, sizeof(Board)); }
  Board* operator->() const { return board_; }
  Board& operator*() const { return *board_; }

 private:
  Board* board_;
};

double process_cpu_s() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

void do_one(Client& client, const Task& task, std::size_t n) {
  switch (task.work) {
    case Work::own_keys:
      return client.cycle(1 + n * 7919 % task.keys, false);
    case Work::hot_key:
      return client.cycle(0, false);
    case Work::hot_key_shared:
      return client.cycle(0, n % 10 != 0);
    case Work::batch:
      return client.batch(kBatch);
  }
}

void take_part(Board& board, std::size_t number, const Contender& contender, const Task& task,
               std::size_t timed_every) {
  const std::unique_ptr<Client> client = contender.client(number, task.keys);
  Member& member = board.members[number];
  // What the first ones need more, in caches and connections, is not the question.
  std::size_t n = 0;
  for (const auto end = Clock::now() + std::chrono::milliseconds(10); n == 0 || Clock::now() < end; ++n) {
    do_one(*client, task, n);
  }
  ++board.ready;
  while (!board.go) std::this_thread::sleep_for(std::chrono::microseconds(200));
  const double cpu_before = process_cpu_s();
  const std::size_t first = n;
  for (; !board.stop.load(std::memory_order_relaxed); ++n) {
    if (n % timed_every != 0) {
      do_one(*client, task, n);
      continue;
    }
    const auto begin = Clock::now();
    do_one(*client, task, n);
    const std::chrono::duration<float, std::nano> took = Clock::now() - begin;
    member.times_ns[member.timed++ % member.times_ns.size()] = took.count();
  }
  member.cycles = n - first;
  member.cpu_s = process_cpu_s() - cpu_before;
}

struct Crew {
  std::vector<std::thread> threads{};
  std::vector<pid_t> processes{};

  void start(bool as_process, const std::function<void()>& part) {
    if (!as_process) {
      threads.emplace_back(part);
      return;
    }
    const pid_t child = fork();
    if (child < 0) give_up("fork failed");
    if (child == 0) {
      part();
      std::_Exit(0);
    }
    processes.push_back(child);
  }

  void join() {
    for (std::thread& each : threads) each.join();
    for (const pid_t each : processes) {
      int status = 0;
      waitpid(each, &status, 0);
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) give_up("a process of a contest failed");
    }
  }
};

void await_ready(const Board& board, std::size_t members) {
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  while (board.ready < members) {
    if (Clock::now() > deadline) give_up("members of a contest are not ready after 30 s");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Outcome told(const Board& board, const Task& task, std::chrono::duration<double> took) {
  Outcome outcome;
  for (std::size_t i = 0; i < task.members; ++i) {
    const Member& member = board.members[i];
    outcome.cycles_per_s += static_cast<double>(member.cycles) / took.count();
    const std::size_t kept = std::min(member.timed, member.times_ns.size());
    outcome.times_ns.insert(outcome.times_ns.end(), member.times_ns.begin(), member.times_ns.begin() + kept);
  }
  std::sort(outcome.times_ns.begin(), outcome.times_ns.end());
  return outcome;
}

Outcome compete_here(const Arena& arena, const Contender& contender, const Task& task) {
  const SharedBoard board;
  if (task.members > board->members.size()) give_up("so many members can't take part");
  const double connections_before = arena.server ? arena.server->connections() : 0;
  Crew crew;
  for (std::size_t i = 0; i < task.members; ++i) {
    crew.start(arena.processes, [&, i] { take_part(*board, i, contender, task, arena.timed_every); });
  }
  await_ready(*board, task.members);
  const double connections = arena.server ? arena.server->connections() - connections_before : 0;
  const double server_before = arena.server ? arena.server->cpu_seconds() : 0;
  const double cpu_before = process_cpu_s();
  const auto begin = Clock::now();
  board->go = true;
  std::this_thread::sleep_for(task.span);
  board->stop = true;
  const auto took = Clock::now() - begin;
  double client_cpu = process_cpu_s() - cpu_before;
  const double server_cpu = arena.server ? arena.server->cpu_seconds() - server_before : 0;
  crew.join();
  if (arena.processes) client_cpu = 0;
  for (std::size_t i = 0; arena.processes && i < task.members; ++i) client_cpu += board->members[i].cpu_s;
  Outcome outcome = told(*board, task, took);
  outcome.client_cpu_s = client_cpu;
  outcome.server_cpu_s = server_cpu;
  outcome.connections = connections;
  return outcome;
}

const char* word_of(Work work) {
  switch (work) {
    case Work::own_keys:
      return "own";
    case Work::batch:
      return "batch";
    default:
      return "hot";  // No library of Python here has a shared mode that holds between processes.
  }
}

void add_numbers(const std::string& line, std::vector<double>& to) {
  const char* at = line.c_str();
  for (char* end = nullptr;; at = end) {
    const double value = std::strtod(at, &end);
    if (end == at) return;
    to.push_back(value);
  }
}

Outcome run_python(const std::string& library, const std::string& address, const Task& task) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::size_t i = 0; i < task.members; ++i) {
    workers.push_back(std::make_unique<Worker>(
        std::vector<std::string>{PYTHON_WORKER, library, address, word_of(task.work), std::to_string(i), "1", "0",
                                 std::to_string(task.span.count())},
        "/usr/bin/python3"));
  }
  for (const auto& worker : workers) worker->await("ready");
  for (const auto& worker : workers) worker->say("go");
  Outcome outcome;
  for (const auto& worker : workers) {
    const std::vector<std::string> lines = worker->finish();
    if (lines.size() != 2) give_up("a worker of Python said what nobody asked for");
    outcome.cycles_per_s += std::atof(lines[0].c_str()) / std::chrono::duration<double>(task.span).count();
    add_numbers(lines[1], outcome.times_ns);
  }
  std::sort(outcome.times_ns.begin(), outcome.times_ns.end());
  return outcome;
}

}  // namespace

Outcome compete(const Arena& arena, const Contender& contender, const Task& task, Placement where) {
  std::vector<int> server;
  if (arena.server) server.push_back(arena.server->pid);
  place(where, server);
  Outcome outcome = contender.client ? compete_here(arena, contender, task) : contender.run(task);
  place(Placement::anywhere, server);
  return outcome;
}

Contender python_contender(const std::string& id, const std::string& name, const std::string& library,
                           const std::string& address) {
  return {.id = id,
          .name = name,
          .run = [=](const Task& task) { return run_python(library, address, task); },
          .most_members = kCrowd,
          .slow_to_start = true};
}

}  // namespace lockr::bench
