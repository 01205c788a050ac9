// The sessions that this process's lockers have at servers, so that one part of a program can tell a lock of another
// part from a stranger's.
#pragma once

#include <cstdint>
#include <vector>

namespace lockr::postgres {

/// What a locker's backend answers. Called with a mutex held that its construction and destruction take.
class ProcessSessions {
 public:
  virtual std::vector<int> server_sessions() = 0;
  virtual bool holds(std::int64_t identity) = 0;

 protected:
  ~ProcessSessions() = default;
};

/// Thread-safe; nothing that was added before a fork() is there in the child.
void add_process_sessions(ProcessSessions& one);
void remove_process_sessions(ProcessSessions& one);

/// Whether one of these server sessions belongs to a locker of this process, which holds the key.
bool held_in_this_process(const std::vector<int>& server_sessions, std::int64_t identity);

}  // namespace lockr::postgres
