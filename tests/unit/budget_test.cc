// What an uncontended cycle in memory may cost, counted: two sections of a shard's mutex; no other mutex, no
// allocation, no reading of a clock, no system call for the pid.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>

#include "core/short_mutex.h"
#include "lockr/lockr.h"
#include "lockr/spi/runtime.h"

namespace {

struct Counts {
  int allocations = 0;
  int sections = 0;
  int other_mutexes = 0;
  int clock_readings = 0;
  int pids = 0;
};
Counts counts;

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// The program's own definitions come before those of the C and C++ libraries.
void* operator new(std::size_t size) {
  ++counts.allocations;
  if (void* memory = std::malloc(size)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" pid_t getpid() noexcept {
  ++counts.pids;
  static auto* const real = next<pid_t()>("getpid");
  return real();
}

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  ++counts.other_mutexes;
  static auto* const real = next<int(pthread_mutex_t*)>("pthread_mutex_lock");
  return real(mutex);
}

namespace lockr {
namespace {

/// The system's, with readings counted.
class CountingRuntime final : public spi::Runtime {
 public:
  spi::Time steady_now() noexcept override { return counted(system_.steady_now()); }
  spi::Time boot_now() noexcept override { return counted(system_.boot_now()); }
  spi::Time wall_now() noexcept override { return counted(system_.wall_now()); }
  void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, spi::Time until) noexcept override {
    system_.park(word, expected, until);
  }
  void wake(const void* word) noexcept override { system_.wake(word); }
  void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                  spi::Time until) noexcept override {
    system_.park_among(word, expected, bits, until);
  }
  void wake_among(const void* word, std::uint32_t bits) noexcept override { system_.wake_among(word, bits); }
  std::uint64_t random() noexcept override { return system_.random(); }
  std::unique_ptr<Thread> start(const char* name, std::function<void()> body) override {
    return system_.start(name, std::move(body));
  }

 private:
  static spi::Time counted(spi::Time time) noexcept {
    ++counts.clock_readings;
    return time;
  }
  spi::Runtime& system_ = spi::system_runtime();
};

class Budget : public ::testing::Test {
 protected:
  /// What `body` does, the second time.
  template <class Body>
  Counts count(Body body) {
    body();
    core::ShortMutex::listener = [](const core::ShortMutex&, core::ShortMutex::Moment moment) {
      if (moment == core::ShortMutex::Moment::before_lock) ++counts.sections;
    };
    counts = {};
    body();
    const Counts seen = counts;
    core::ShortMutex::listener = nullptr;
    return seen;
  }

  CountingRuntime runtime_;
  std::unique_ptr<Locker> locker_ = open(LockerConfig::from_url("memory:").value(), {.runtime = &runtime_}).value();
  std::unique_ptr<Session> session_ = locker_->open_session().value();
};

void expect_frugal(const Counts& seen) {
  EXPECT_EQ(seen.sections, 2);
  EXPECT_EQ(seen.other_mutexes, 0);
  EXPECT_EQ(seen.allocations, 0);
  EXPECT_EQ(seen.clock_readings, 0);
  EXPECT_EQ(seen.pids, 0);
}

TEST_F(Budget, lock_and_destructor) {
  for (const char* name : {"short", "long enough that it does not lie inside the key itself"}) {
    const Key key = Key::parse(name).value();
    expect_frugal(count([&] { EXPECT_TRUE(session_->lock(key)); }));
  }
}

TEST_F(Budget, lock_with_a_timeout) {
  const Key key = Key::parse("key").value();
  expect_frugal(count([&] { EXPECT_TRUE(session_->lock(key, {.timeout = std::chrono::seconds(5)})); }));
}

TEST_F(Budget, try_lock_and_destructor) {
  const Key key = Key::parse("key").value();
  expect_frugal(count([&] { EXPECT_TRUE(session_->try_lock(key)); }));
}

// The counting itself.
TEST_F(Budget, what_is_dear_is_counted) {
  const Key key = Key::parse("key").value();
  const Counts seen = count([&] {
    const auto own = session_->lock(key);
    const auto other = locker_->lock(key, {.timeout = std::chrono::milliseconds(1)});
    EXPECT_FALSE(other);
    EXPECT_TRUE(locker_->inspect());
  });
  EXPECT_GT(seen.sections, 2);
  EXPECT_GT(seen.allocations, 0);
  EXPECT_GT(seen.clock_readings, 0);
  EXPECT_GT(seen.pids, 0);
  std::mutex mutex;
  EXPECT_EQ(count([&] { std::lock_guard lock(mutex); }).other_mutexes, 1);
}

}  // namespace
}  // namespace lockr
