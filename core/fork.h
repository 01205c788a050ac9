// What happens to lockers in a forked child: they hold nothing there, and every call on them says forked_process.
#pragma once

#include <atomic>
#include <cstdint>

namespace lockr::core {

/// Grows in each forked child. An object made under another number belongs to a former process.
extern std::atomic<std::uint32_t> fork_generation;

/// Something to be told of fork(), on whichever thread forks: from watch_forks(), once it is whole, to
/// ignore_forks(), the first thing its destructor does.
class ForkAware {
 public:
  ForkAware();
  virtual ~ForkAware() = default;
  ForkAware(const ForkAware&) = delete;
  ForkAware& operator=(const ForkAware&) = delete;

  /// Runs before a fork(): waits until every descriptor that is being opened is where forked() finds it, and keeps it
  /// so until one of the next two.
  virtual void before_fork() noexcept = 0;
  virtual void after_fork() noexcept = 0;
  /// Runs in the child of a fork(), instead of after_fork(); async-signal-safe calls only.
  virtual void forked() noexcept = 0;
  void watch_forks();
  void ignore_forks();
  bool in_child() const noexcept { return generation_ != fork_generation.load(std::memory_order_relaxed); }

 private:
  friend struct ForkList;

  const std::uint32_t generation_;
  ForkAware* prev_ = nullptr;
  ForkAware* next_ = nullptr;
};

}  // namespace lockr::core
