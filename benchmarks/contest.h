// The same work for everybody who locks. An arena says who takes part and by what calls; how the work goes and how it
// is measured stands here, once.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "placement.h"

namespace lockr::bench {

enum class Work { own_keys, hot_key, hot_key_shared, batch };

/// Keys in a batch, and members on the hot key.
constexpr std::size_t kBatch = 64;
constexpr std::size_t kCrowd = 8;

/// What one thread or process locks with. Its keys are numbered: 0 is the one that everybody wants, 1 and up are its
/// own. They are made before the clock runs. What fails ends the program.
class Client {
 public:
  Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  virtual ~Client() = default;
  /// Locks a key, waiting for it if need be, and unlocks it. Who has no shared mode locks exclusively.
  virtual void cycle(std::size_t key, bool shared) = 0;
  /// Locks its own keys 1 to `count`, and unlocks them.
  virtual void batch(std::size_t count) = 0;
  /// Locks key 0 and count - 1 others that nobody else wants, and keeps them while it lives.
  virtual void hold(std::size_t count) = 0;
};

/// Makes the client of a member that has so many keys of its own.
using MakeClient = std::function<std::unique_ptr<Client>(std::size_t member, std::size_t keys)>;

struct Task {
  Work work;
  std::size_t members;
  std::chrono::milliseconds span;
  std::size_t keys;  ///< Of each member.
};

struct Outcome {
  double cycles_per_s = 0;
  std::vector<double> times_ns{};  ///< Of single cycles, not of all, sorted. Empty: not known.
  double client_cpu_s = 0;         ///< Of all cycles; 0: not known.
  double server_cpu_s = 0;
  double connections = 0;
};

struct Contender {
  std::string id;    ///< In names of benchmarks.
  std::string name;  ///< For readers.
  /// One that is called in this program; or else `run`, one that does the work in programs of its own.
  MakeClient client{};
  std::function<Outcome(const Task&)> run{};
  std::size_t most_members = 64;
  bool slow_to_start = false;    ///< It takes part alone and as kCrowd, not in sizes between.
  std::size_t most_held = 1000;  ///< Keys that it holds, and…
  std::size_t most_waiters = 0;  ///< …waiters that it has, where the cost of those is asked for.
  bool is_floor = false;         ///< It locks nothing, and shows what one cycle can cost at the least.
  bool missing = false;          ///< It is not installed.
};

struct Server {
  pid_t pid;  ///< Processes that it starts run on the same CPUs.
  std::function<double()> cpu_seconds;
  std::function<double()> connections;
  std::function<double()> memory_bytes{};  ///< Where it can be told.
};

struct Arena {
  std::string backend;
  std::vector<Contender> contenders;  ///< lockr is the first.
  bool processes = false;             ///< The members are processes, not threads.
  std::size_t keys;                   ///< Of all members.
  std::size_t timed_every = 1;        ///< One cycle in so many is timed on its own, where the clock would count.
  std::optional<Server> server{};
};

/// The one of this program: each *_arena.cc has its own.
Arena& arena();

/// Everybody at once, for the span. `where` is for one member beside a server.
Outcome compete(const Arena& arena, const Contender& contender, const Task& task, Placement where);

/// Members that are workers of Python: `library` is one that python_worker.py knows.
Contender python_contender(const std::string& id, const std::string& name, const std::string& library,
                           const std::string& address);

/// Two echoes a cycle from a process that does nothing else, over a unix socket or TCP on loopback.
Contender echo_floor(bool tcp, std::function<pid_t()> beside);

}  // namespace lockr::bench
