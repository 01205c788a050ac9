#include "tests/simulation/sim_runtime.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;
using spi::kNever;

/// A flag that threads wait for.
struct Flag {
  void raise(SimRuntime& sim) {
    word = 1;
    sim.wake(&word);
  }
  void await(SimRuntime& sim, Time until = kNever) {
    while (word == 0 && sim.steady_now() < until) sim.park(word, 0, until);
  }
  std::atomic<std::uint32_t> word{0};
};

// What three threads do between two mutexes, in the order of a seed.
std::string interleaving(std::uint64_t seed) {
  std::string steps;
  SimRuntime sim(seed);
  sim.run([&] {
    std::mutex mutex;
    std::vector<std::unique_ptr<spi::Runtime::Thread>> threads;
    for (const char name : {'a', 'b', 'c'}) {
      threads.push_back(sim.start("lockr-step", [&steps, &mutex, &sim, name] {
        for (int i = 0; i < 5; ++i) {
          std::lock_guard lock(mutex);
          steps += name;
          if (i == 2) steps += std::to_string(sim.random() % 10);
        }
        sim.sleep(1ms);
        steps += name;
      }));
    }
  });
  return steps;
}

TEST(SimRuntime, the_same_seed_runs_the_same_schedule) {
  std::vector<std::string> seen;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const std::string first = interleaving(seed);
    EXPECT_EQ(first, interleaving(seed)) << "seed " << seed;
    seen.push_back(first);
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_GT(std::unique(seen.begin(), seen.end()) - seen.begin(), 10);
}

TEST(SimRuntime, time_goes_to_the_next_deadline_when_nobody_can_run) {
  SimRuntime sim(1);
  sim.run([&] {
    const Time start = sim.steady_now();
    Time short_one{0};
    auto thread = sim.start("lockr-short", [&] {
      sim.sleep(10s);
      short_one = sim.steady_now();
    });
    sim.sleep(1h);
    EXPECT_GE(short_one, start + 10s);
    EXPECT_LT(short_one, start + 10s + 1ms);
    EXPECT_GE(sim.steady_now(), start + 1h);
    EXPECT_LT(sim.steady_now(), start + 1h + 1ms);
  });
}

TEST(SimRuntime, only_the_steady_clock_stands_still_in_suspend) {
  SimRuntime sim(1);
  sim.run([&] {
    const Time steady = sim.steady_now();
    const Time ahead = sim.boot_now() - steady;
    const Time wall = sim.wall_now() - steady;
    sim.suspend(3h);
    EXPECT_EQ(sim.steady_now(), steady);
    EXPECT_EQ(sim.boot_now() - steady, ahead + 3h);
    EXPECT_EQ(sim.wall_now() - steady, wall + 3h);
  });
}

TEST(SimRuntime, wakes_one_by_address) {
  SimRuntime sim(3);
  sim.run([&] {
    Flag mine;
    Flag other;
    std::vector<std::unique_ptr<spi::Runtime::Thread>> threads;
    threads.push_back(sim.start("lockr-mine", [&] { mine.await(sim); }));
    threads.push_back(sim.start("lockr-other", [&] { other.await(sim); }));
    sim.sleep(1ms);
    EXPECT_EQ(sim.fibers(), 3u);
    mine.raise(sim);
    threads[0].reset();
    EXPECT_EQ(sim.fibers(), 2u);
    other.raise(sim);
  });
}

TEST(SimRuntime, park_returns_at_once_for_another_word) {
  SimRuntime sim(3);
  sim.run([&] {
    std::atomic<std::uint32_t> word{7};
    sim.park(word, 6, kNever);
  });
}

TEST(SimRuntime, destroying_a_thread_joins_it_and_on_itself_lets_it_go) {
  SimRuntime sim(4);
  bool joined = false;
  bool let_go = false;
  sim.run([&] {
    sim.start("lockr-joined",
              [&] {
                sim.sleep(1s);
                joined = true;
              })
        .reset();
    EXPECT_TRUE(joined);
    auto own = std::make_shared<std::unique_ptr<spi::Runtime::Thread>>();
    *own = sim.start("lockr-own", [&, own] {
      own->reset();
      let_go = true;
    });
  });
  EXPECT_TRUE(let_go);
}

TEST(SimRuntime, mutexes_exclude_threads_that_share_the_systems_one) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SimRuntime sim(seed);
    int inside = 0;
    sim.run([&] {
      std::mutex outer;
      std::mutex inner;
      std::vector<std::unique_ptr<spi::Runtime::Thread>> threads;
      for (int i = 0; i < 4; ++i) {
        threads.push_back(sim.start("lockr-inside", [&] {
          for (int round = 0; round < 10; ++round) {
            std::lock_guard lock(outer);
            EXPECT_EQ(++inside, 1);
            { std::lock_guard nested(inner); }  // Where another thread may come to run.
            --inside;
          }
        }));
      }
    });
  }
}

TEST(SimRuntime, each_thread_has_its_own_inbox) {
  SimRuntime sim(5);
  sim.run([&] {
    core::Effects effects;
    core::inbox = {&sim, &effects};
    sim.start("lockr-inbox",
              [&] {
                EXPECT_EQ(core::inbox.engine, nullptr);
                core::inbox.engine = &effects;
                sim.sleep(1ms);
              })
        .reset();
    EXPECT_EQ(core::inbox.engine, &sim);
    core::inbox = {};
  });
}

TEST(SimRuntimeDeathTest, says_who_waits_for_ever) {
  const auto hang = [] {
    SimRuntime sim(77);
    sim.run([&] {
      Flag never;
      auto thread = sim.start("lockr-sleeper", [&] { never.await(sim); });
    });
  };
  EXPECT_DEATH(hang(), "seed 77: no thread can run, and nothing will wake one(.|\n)*lockr-sleeper +parked");
}

TEST(SimRuntimeDeathTest, says_who_waits_for_a_mutex_for_ever) {
  const auto hang = [] {
    SimRuntime sim(78);
    sim.run([&] {
      std::mutex mutex;
      std::lock_guard first(mutex);
      std::lock_guard second(mutex);
    });
  };
  EXPECT_DEATH(hang(), "seed 78: no thread can run(.|\n)*main +waits for a mutex");
}

TEST(SimRuntimeDeathTest, nobody_parks_with_a_mutex_locked) {
  const auto park = [] {
    SimRuntime sim(79);
    sim.run([&] {
      std::mutex mutex;
      std::lock_guard lock(mutex);
      sim.sleep(1ms);
    });
  };
  EXPECT_DEATH(park(), "seed 79: a thread parks with a mutex locked");
}

TEST(SimRuntimeDeathTest, waiting_goes_on_for_a_day_at_most) {
  const auto wait = [] {
    SimRuntime sim(80);
    sim.run([&] {
      Flag never;
      auto thread = sim.start("lockr-beat", [&] {
        for (;;) sim.sleep(1h);
      });
      never.await(sim);
    });
  };
  EXPECT_DEATH(wait(), "seed 80: a day has passed and the threads still run");
}

}  // namespace
}  // namespace lockr::testing
