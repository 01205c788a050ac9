#include "core/sleeper.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

namespace lockr::core {
namespace {

using spi::kNever;
using spi::Time;

/// Time stands still, and a sleep is over at once; remembers what was woken.
class Listener final : public spi::Runtime {
 public:
  Time steady_now() noexcept override { return {}; }
  Time boot_now() noexcept override { return {}; }
  Time wall_now() noexcept override { return {}; }
  void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time) noexcept override {
    if (word == expected && while_asleep) while_asleep();
  }
  void wake(const void*) noexcept override { ++woken; }
  void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                  Time) noexcept override {
    slept_with |= bits;
    if (word == expected && while_asleep) while_asleep();
  }
  void wake_among(const void* word, std::uint32_t bits) noexcept override { rung[word].push_back(bits); }
  std::uint64_t random() noexcept override { return 0; }
  std::unique_ptr<Thread> start(const char*, std::function<void()>) override { return nullptr; }

  std::function<void()> while_asleep;
  std::uint32_t slept_with = 0;
  int woken = 0;
  std::map<const void*, std::vector<std::uint32_t>> rung;
};

TEST(Sleeper, who_sleeps_alone_is_woken_alone) {
  Listener runtime;
  Sleeper sleeper;
  runtime.while_asleep = [&] { sleeper.set(Sleeper::kGranted).carry_out(runtime); };
  sleeper.park_together(runtime, kNever);
  EXPECT_TRUE(sleeper.decided());
  EXPECT_EQ(runtime.woken, 1);
  EXPECT_TRUE(runtime.rung.empty());
}

TEST(Sleeper, of_many_at_a_bell_those_are_woken_that_were_decided_and_by_one_call) {
  Listener runtime;
  Bell bell;
  std::deque<Sleeper> all(3);
  for (Sleeper& each : all) each.join(bell);
  Wakes wakes;
  // Each falls asleep inside the other's sleep, so all are asleep when two are decided.
  std::size_t asleep = 0;
  runtime.while_asleep = [&] {
    if (++asleep < all.size()) return all[asleep].park_together(runtime, kNever);
    wakes.add(all[0].set(Sleeper::kGranted), runtime);
    wakes.add(all[2].set(Sleeper::kFailed), runtime);
    wakes.carry_out(runtime);
  };
  all[0].park_together(runtime, kNever);
  EXPECT_EQ(runtime.slept_with, 0b111u);
  ASSERT_EQ(runtime.rung.size(), 1u);
  EXPECT_EQ(runtime.rung.begin()->second, (std::vector<std::uint32_t>{0b101}));
  EXPECT_EQ(runtime.woken, 0);
  EXPECT_EQ(all[0].state(), Sleeper::kGranted);
  EXPECT_EQ(all[1].state(), Sleeper::kQueued) << "it woke for nothing, and may sleep again";
  EXPECT_EQ(all[2].state(), Sleeper::kFailed);
  EXPECT_TRUE(wakes.empty());
}

TEST(Sleeper, a_nudge_changes_nothing_that_is_decided_and_wakes_nobody_twice) {
  Listener runtime;
  Sleeper sleeper;
  sleeper.nudge().carry_out(runtime);
  sleeper.nudge().carry_out(runtime);
  EXPECT_EQ(runtime.woken, 1);
  EXPECT_EQ(sleeper.state(), Sleeper::kNudged);
  runtime.while_asleep = [] { ADD_FAILURE() << "it sleeps though it was nudged"; };
  sleeper.park(runtime, kNever);
  EXPECT_NE(sleeper.set(Sleeper::kGranted).word, nullptr);
  sleeper.nudge().carry_out(runtime);
  sleeper.heed();
  EXPECT_EQ(sleeper.state(), Sleeper::kGranted);
  EXPECT_EQ(runtime.woken, 1);
}

TEST(Sleeper, more_than_there_is_room_for_are_woken_at_once) {
  Listener runtime;
  std::deque<Sleeper> all(65);
  Wakes wakes;
  for (Sleeper& each : all) wakes.add(each.set(Sleeper::kGranted), runtime);
  EXPECT_EQ(runtime.woken, 1);
  wakes.carry_out(runtime);
  EXPECT_EQ(runtime.woken, 65);
}

// On the system's futexes: who decides and who falls asleep race, and nobody sleeps on.
TEST(Sleeper, nobody_sleeps_through_its_ring) {
  constexpr int kThreads = 40;  // Some share a bit.
  constexpr int kRounds = 300;
  spi::Runtime& runtime = spi::system_runtime();
  Bell bell;
  std::array<std::atomic<Sleeper*>, kThreads> asleep{};
  std::vector<std::thread> threads;
  for (std::atomic<Sleeper*>& mine : asleep) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        Sleeper sleeper;
        sleeper.join(bell);
        mine = &sleeper;
        while (!sleeper.decided()) sleeper.park_together(runtime, kNever);
      }
    });
  }
  for (int decided = 0; decided < kThreads * kRounds;) {
    Wakes wakes;
    for (std::atomic<Sleeper*>& each : asleep) {
      Sleeper* const sleeper = each.exchange(nullptr);
      if (!sleeper) continue;
      wakes.add(sleeper->set(Sleeper::kGranted), runtime);
      ++decided;
    }
    wakes.carry_out(runtime);
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lockr::core
