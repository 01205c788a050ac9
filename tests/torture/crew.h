// The crew: the workers' processes.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/torture/arena.h"
#include "tests/torture/run.h"

namespace lockr::torture {

/// Starts, kills and ends workers. Each worker is one caller's at a time: who claims it.
class Crew {
 public:
  Crew(Arena& arena, const Rig& rig);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  /// Kills whoever is left.
  ~Crew();

  int size() const noexcept { return static_cast<int>(members_.size()); }
  pid_t pid(int worker) const;
  std::uint16_t incarnation(int worker) const;

  /// Nobody else can claim it until it is given back.
  bool claim(int worker);
  void give_back(int worker);

  /// Starts all. Throws when a process can't be made.
  void start();
  /// Of a claimed worker: kills it, waits for its end, wipes its marks off the witnesses. start(worker) is next.
  void kill(int worker);
  void start(int worker);

  /// What makes it pointless to go on: a worker that could not open its engine, or that ended by itself. Empty:
  /// nothing.
  std::string trouble();
  /// Everybody carries the order out; throws when somebody does not within the time.
  void command(Order::Kind kind, Nanos patience);
  /// After Order::Kind::leave: waits for their ends.
  void join();

 private:
  struct Member {
    pid_t pid = 0;
    std::uint16_t incarnation = 0;
    bool claimed = false;
  };

  void wipe(int worker);

  Arena& arena_;
  const Rig& rig_;
  mutable std::mutex mutex_;
  std::vector<Member> members_;  // Guarded by mutex_.
};

}  // namespace lockr::torture
