#include "lockr/spi/runtime.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <set>
#include <string>

namespace lockr::spi {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Time read_clock(clockid_t id) {
  timespec now{};
  clock_gettime(id, &now);
  return seconds(now.tv_sec) + Time(now.tv_nsec);
}

void wait_until(const std::atomic<bool>& flag) {
  const Time deadline = system_runtime().steady_now() + seconds(20);
  while (!flag && system_runtime().steady_now() < deadline) sched_yield();
  ASSERT_TRUE(flag);
}

TEST(Runtime, reads_the_clocks_it_names) {
  Runtime& runtime = system_runtime();
  const auto between = [](clockid_t id, auto now) {
    const Time before = read_clock(id);
    const Time seen = now();
    return before <= seen && seen <= read_clock(id);
  };
  EXPECT_TRUE(between(CLOCK_MONOTONIC, [&] { return runtime.steady_now(); }));
  EXPECT_TRUE(between(CLOCK_BOOTTIME, [&] { return runtime.boot_now(); }));
  const Time far_apart = runtime.wall_now() - read_clock(CLOCK_REALTIME);
  EXPECT_LT(far_apart, seconds(60));
  EXPECT_GT(far_apart, -seconds(60));
}

TEST(Runtime, park_returns_at_once_for_another_word_or_a_passed_deadline) {
  Runtime& runtime = system_runtime();
  std::atomic<std::uint32_t> word{5};
  runtime.park(word, 4, kNever);
  runtime.park(word, 5, Time(0));
  runtime.park(word, 5, Time::min());
  runtime.park(word, 5, runtime.steady_now());
  EXPECT_EQ(word, 5u);
}

TEST(Runtime, park_ends_at_its_deadline_and_not_before) {
  Runtime& runtime = system_runtime();
  std::atomic<std::uint32_t> word{0};
  const Time deadline = runtime.steady_now() + milliseconds(1200);  // crosses a second
  int early = 0;
  while (runtime.steady_now() < deadline && early < 100) {
    runtime.park(word, 0, deadline);
    if (runtime.steady_now() < deadline) ++early;
  }
  EXPECT_LT(early, 100) << "park() does not sleep";
}

TEST(Runtime, wake_ends_a_park_without_a_deadline) {
  Runtime& runtime = system_runtime();
  std::atomic<std::uint32_t> word{0};
  std::atomic<bool> parked{false};
  std::atomic<bool> through{false};
  const auto thread = runtime.start("lockr-parked", [&] {
    parked = true;
    while (word == 0) runtime.park(word, 0, kNever);
    through = true;
  });
  ASSERT_NE(thread, nullptr);
  wait_until(parked);
  word = 1;
  runtime.wake(&word);
  wait_until(through);
}

TEST(Runtime, wake_needs_no_memory_behind_the_address) {
  const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* page = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  ASSERT_EQ(munmap(page, size), 0);
  system_runtime().wake(page);
}

TEST(Runtime, random_numbers_do_not_repeat) {
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(system_runtime().random());
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(Runtime, threads_have_their_name_and_block_all_signals) {
  std::string name;
  std::set<int> open;
  const auto look = [&] {
    char buffer[16] = {};
    pthread_getname_np(pthread_self(), buffer, sizeof buffer);
    name = buffer;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    for (int signal = 1; signal < 32; ++signal) {
      if (!sigismember(&blocked, signal)) open.insert(signal);
    }
  };
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, nullptr, &before);
  system_runtime().start("lockr-a-name-that-is-too-long", look).reset();
  EXPECT_EQ(name, "lockr-a-name-th");
  EXPECT_EQ(open, (std::set<int>{SIGKILL, SIGSTOP}));
  sigset_t after;
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  EXPECT_EQ(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM)) << "the starter's own mask changed";
}

TEST(Runtime, destroying_a_thread_joins_it) {
  std::atomic<std::uint32_t> word{0};
  bool finished = false;
  auto thread = system_runtime().start("lockr-joined", [&] {
    while (word == 0) system_runtime().park(word, 0, kNever);
    finished = true;
  });
  word = 1;
  system_runtime().wake(&word);
  thread.reset();
  EXPECT_TRUE(finished);
}

TEST(Runtime, a_thread_that_is_destroyed_on_itself_is_let_go) {
  std::atomic<std::uint32_t> word{0};
  std::unique_ptr<Runtime::Thread> thread;
  int detached = -1;
  std::atomic<bool> looked{false};
  thread = system_runtime().start("lockr-own", [&] {
    while (word == 0) system_runtime().park(word, 0, kNever);
    thread.reset();
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getdetachstate(&attributes, &detached);
    pthread_attr_destroy(&attributes);
    looked = true;
  });
  word = 1;
  system_runtime().wake(&word);
  wait_until(looked);
  EXPECT_EQ(detached, PTHREAD_CREATE_DETACHED);
}

TEST(RuntimeDeathTest, an_abandoned_thread_is_not_joined) {
  const auto abandon_a_thread_that_never_ends = [] {
    alarm(20);
    static std::atomic<std::uint32_t> word{0};
    auto thread = system_runtime().start("lockr-endless", [] {
      for (;;) system_runtime().park(word, 0, kNever);
    });
    thread->abandon();
    thread.reset();
    _exit(7);
  };
  EXPECT_EXIT(abandon_a_thread_that_never_ends(), testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace lockr::spi
