// What the demo needs of processes: forked workers that never outlive it, programs run as a shell would, and memory
// that they share.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <cstdlib>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace demo {

// A T in memory that forked children share; for atomics and arrays of them.
template <class T>
class Shared {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  Shared() {
    void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    value_ = new (memory) T();
  }
  ~Shared() { ::munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  T* value_;
};

// A child process. Killed and reaped when this object goes; it dies with its parent too.
class Child {
 public:
  // Forks; the child's exit status is what `body` returns.
  static Child fork(const std::function<int()>& body);
  // Starts a program, its output going where ours goes.
  static Child start(const std::vector<std::string>& command);

  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  ~Child();

  pid_t pid() const { return pid_; }
  void kill(int signal) const;
  // Waits for its end: the exit status, or 128 + N after signal N.
  int wait();
  // The same, or nullopt while it runs.
  std::optional<int> poll();

 private:
  explicit Child(pid_t pid) : pid_(pid) {}
  std::optional<int> reap(int flags);

  pid_t pid_;
};

struct Finished {
  int status = 0;      // as Child::wait
  std::string output;  // stdout and stderr
};

// Runs a program to its end.
Finished run(const std::vector<std::string>& command);

}  // namespace demo
