// SimRuntime: many threads of a program on one thread of the system, under virtual clocks, in an order that a seed
// chooses. The same seed runs the same schedule, so a failure can be looked at again.
//
// Threads are fibers. One runs until it parks or, now and then, takes or gives up a mutex; then another one runs. Time
// stands still but for small steps while any of them can run, and goes on to the next deadline when none can. When
// there is no deadline either, nobody will ever wake them: the program ends with the seed and the state of each fiber.
//
// Programs that use it are linked with --wrap for pthread_mutex_lock, _trylock and _unlock, by which mutexes of the
// program wait for a fiber, not for the thread that all of them share.
#pragma once

#include <pthread.h>
#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/engine.h"
#include "core/short_mutex.h"
#include "lockr/spi/runtime.h"

namespace lockr::testing {

using spi::Time;

class SimRuntime final : public spi::Runtime {
 public:
  explicit SimRuntime(std::uint64_t seed);
  ~SimRuntime() override;

  /// Runs `body` as a fiber, until it and all that was started have ended.
  void run(std::function<void()> body);

  Time steady_now() noexcept override { return now_; }
  Time boot_now() noexcept override { return now_ + suspended_; }
  Time wall_now() noexcept override { return kWallOffset + now_ + suspended_; }
  void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time until) noexcept override;
  void wake(const void* word) noexcept override;
  void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                  Time until) noexcept override;
  void wake_among(const void* word, std::uint32_t bits) noexcept override;
  std::uint64_t random() noexcept override { return dice_(); }
  std::uint32_t processor() noexcept override { return static_cast<std::uint32_t>(dice_()); }
  std::unique_ptr<Thread> start(const char* name, std::function<void()> body) override;

  /// Lets others run for this long; for fibers only.
  void sleep(Time span);
  /// The machine sleeps: the steady clock stands still, the others go on.
  void suspend(Time span) noexcept { suspended_ += span; }
  /// Fibers that have not ended, the first one and the caller included.
  std::size_t fibers() const noexcept { return fibers_.size(); }
  /// Ends the program with `what`, the seed and the state of each fiber.
  [[noreturn]] void fail(const std::string& what) const;

  // For the wrapped mutexes.
  static SimRuntime* running() noexcept { return running_; }
  int lock(pthread_mutex_t* mutex);
  int try_lock(pthread_mutex_t* mutex);
  int unlock(pthread_mutex_t* mutex);
  static void heard(const core::ShortMutex& mutex, core::ShortMutex::Moment moment);

 private:
  struct Fiber;
  class Handle;
  struct Stack;

  static constexpr Time kWallOffset = std::chrono::hours(24 * 365 * 50);

  static void enter();
  std::shared_ptr<Fiber> make(std::string name, std::function<void()> body);
  void switch_to(Fiber& next);
  /// Runs another fiber; the caller has said where it waits.
  void pass_on();
  void maybe_pass_on();
  template <class Try>
  void take(const void* mutex, Try try_lock);
  void given_up(const void* mutex);
  Fiber& pick();
  void make_runnable(Fiber& fiber);
  void wake_due();
  void advance();
  void end_current();
  bool one_in(unsigned count) { return count != 0 && dice_() % count == 0; }

  const std::uint64_t seed_;
  std::mt19937_64 dice_;
  const unsigned switch_one_in_;    // Mutex operations.
  const unsigned spurious_one_in_;  // Switches.
  const unsigned step_one_in_;      // Switches.
  Time now_ = std::chrono::seconds(1000);
  Time suspended_ = std::chrono::seconds(77);
  std::uint64_t switches_ = 0;

  std::unique_ptr<Fiber> root_;  // Whoever called run().
  Fiber* current_ = nullptr;
  std::vector<std::shared_ptr<Fiber>> fibers_;
  std::shared_ptr<Fiber> ended_;  // The last one, whose stack was in use until another fiber ran.
  std::vector<Fiber*> runnable_;
  std::vector<Fiber*> parked_;
  std::vector<Fiber*> blocked_;  // By mutexes.

  static SimRuntime* running_;  // The one whose run() is under way.
};

}  // namespace lockr::testing
