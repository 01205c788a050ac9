// What a call does while somebody else has the key.
#include <array>
#include <atomic>
#include <mutex>
#include <stop_token>
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

using Clock = std::chrono::steady_clock;

LOCKR_CONFORMANCE_TOPIC(Waiting);

TEST_P(Waiting, a_try_does_not_wait) {
  const auto one = session();
  const auto two = session();
  const auto far = session_of(other_party());
  const auto held = one->try_lock(key());
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(fails_with(far->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(fails_with(locker().try_lock(key()), errc::not_acquired));
  EXPECT_GE(locker().stats().not_acquired, 2u);
}

TEST_P(Waiting, a_timeout_of_zero_or_less_is_a_try) {
  const auto one = session();
  const auto two = session();
  auto held = one->lock(key(), {.timeout = 0s});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = 0s}), errc::not_acquired));
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = -5s}), errc::not_acquired));
  EXPECT_EQ(locker().stats().timeouts, 0u);
}

TEST_P(Waiting, a_timeout_passes_and_leaves_nothing_behind) {
  const auto one = session();
  for (const auto& two : {session(), session_of(other_party())}) {
    auto held = one->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    const auto started = Clock::now();
    EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = 20ms}), errc::timeout));
    EXPECT_GE(Clock::now() - started, 20ms);
    EXPECT_TRUE(succeeds(held->release()));
    EXPECT_TRUE(is_free(locker(), key()));
    EXPECT_TRUE(is_free(other_party(), key()));
  }
  EXPECT_GE(locker().stats().timeouts, 1u);
}

TEST_P(Waiting, the_earlier_of_timeout_and_deadline_applies) {
  const auto one = session();
  const auto two = session();
  const auto held = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto deadline = Clock::now() + 10ms;
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = kPatience, .deadline = deadline}), errc::timeout));
  EXPECT_GE(Clock::now(), deadline);
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = 5ms, .deadline = Clock::now() + kPatience}), errc::timeout));
  EXPECT_TRUE(fails_with(two->lock(key(), {.deadline = Clock::now() - 1s}), errc::timeout));
}

TEST_P(Waiting, without_a_timeout_the_configs_applies) {
  Locker& hasty = open({.fields = R"("acquire_timeout": "15ms")", .options = {}});
  const auto one = session_of(hasty);
  const auto two = session_of(hasty);
  const auto held = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto started = Clock::now();
  EXPECT_TRUE(fails_with(two->lock(key()), errc::timeout));
  EXPECT_GE(Clock::now() - started, 15ms);
}

TEST_P(Waiting, a_stop_that_came_before_is_seen) {
  const auto one = session();
  const auto two = session();
  const auto held = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = kPatience, .stop = stop.get_token()}), errc::cancelled));
}

TEST_P(Waiting, a_stop_ends_the_wait) {
  const auto one = session();
  for (Locker* party : {&locker(), &other_party()}) {
    const auto two = session_of(*party);
    auto held = one->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    std::stop_source stop;
    auto waiter = lock_later(*two, key(), {.timeout = forever, .stop = stop.get_token()});
    ASSERT_TRUE(waiting(*party, 1));
    stop.request_stop();
    EXPECT_TRUE(fails_with(result_of(waiter), errc::cancelled));
    EXPECT_EQ(party->stats().waiting, 0u);
    EXPECT_TRUE(succeeds(held->release()));
    EXPECT_TRUE(is_free(*party, key()));
  }
  EXPECT_GE(locker().stats().cancelled, 1u);
}

TEST_P(Waiting, forever_waits_until_the_key_is_free) {
  const auto one = session();
  for (Locker* party : {&locker(), &other_party()}) {
    const auto two = session_of(*party);
    auto held = one->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    auto waiter = lock_later(*two, key(), {.timeout = forever});
    ASSERT_TRUE(waiting(*party, 1));
    EXPECT_EQ(waiter.wait_for(5ms), std::future_status::timeout);
    EXPECT_TRUE(succeeds(held->release()));
    EXPECT_TRUE(succeeds(result_of(waiter)));
  }
}

TEST_P(Waiting, a_destroyed_releaser_wakes_the_next_too) {
  const auto two = session_of(other_party());
  auto held = std::make_unique<Result<Releaser>>(locker().lock(key(), {.timeout = kPatience}));
  ASSERT_TRUE(succeeds(*held));
  auto waiter = lock_later(*two, key(), {.timeout = forever});
  EXPECT_EQ(waiter.wait_for(5ms), std::future_status::timeout);
  held.reset();
  EXPECT_TRUE(succeeds(result_of(waiter)));
}

TEST_P(Waiting, waiters_of_a_locker_are_served_in_order_of_arrival) {
  const auto holder = session();
  auto held = holder->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  std::mutex mutex;
  std::vector<int> order;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session();
      auto got = own->lock(key(), {.timeout = kPatience});
      ASSERT_TRUE(succeeds(got));
      std::lock_guard lock(mutex);
      order.push_back(i);
    });
    ASSERT_TRUE(waiting(static_cast<std::uint64_t>(i) + 1));
  }
  EXPECT_TRUE(succeeds(held->release()));
  threads.clear();
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4, 5}));
}

TEST_P(Waiting, who_leaves_the_queue_does_not_hold_up_the_others) {
  const auto holder = session();
  auto held = holder->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto first = session();
  const auto second = session();
  const auto third = session();
  std::stop_source stop;
  auto leaves = lock_later(*first, key(), {.timeout = forever, .stop = stop.get_token()});
  ASSERT_TRUE(waiting(1));
  auto times_out = lock_later(*second, key(), {.timeout = 20ms});
  ASSERT_TRUE(waiting(2));
  auto stays = lock_later(*third, key());
  stop.request_stop();
  EXPECT_TRUE(fails_with(result_of(leaves), errc::cancelled));
  EXPECT_TRUE(fails_with(result_of(times_out), errc::timeout));
  ASSERT_TRUE(waiting(1));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(result_of(stays)));
}

TEST_P(Waiting, readers_behind_a_writer_share_after_it) {
  if (!shared_or_unsupported()) return;
  const auto writer = session();
  const auto one = session();
  const auto two = session();
  auto held = writer->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  auto first = lock_later(*one, key(), {.mode = Mode::shared, .timeout = kPatience});
  auto second = lock_later(*two, key(), {.mode = Mode::shared, .timeout = kPatience});
  ASSERT_TRUE(waiting(2));
  EXPECT_TRUE(succeeds(held->release()));
  const auto got_first = result_of(first);
  const auto got_second = result_of(second);
  EXPECT_TRUE(succeeds(got_first) && got_first->held());
  EXPECT_TRUE(succeeds(got_second) && got_second->held());
}

// Holds the key in one mode without a gap, by several sessions in turn, until stopped.
class Relay {
 public:
  Relay(Locker& locker, Key key, Mode mode) {
    for (int i = 0; i < 3; ++i) {
      threads_.emplace_back([this, &locker, key, mode](const std::stop_token& stop) {
        const auto own = locker.open_session();
        ASSERT_TRUE(succeeds(own));
        while (!stop.stop_requested()) {
          const auto held = (*own)->lock(key, {.mode = mode, .timeout = kPatience});
          ASSERT_TRUE(succeeds(held));
          // Overlap: each holds until the next one came.
          const int mine = ++turns_;
          const auto limit = Clock::now() + 2ms;
          while (turns_ == mine && Clock::now() < limit) std::this_thread::yield();
        }
      });
    }
  }
  int turns() const { return turns_; }

 private:
  std::atomic<int> turns_{0};
  std::vector<std::jthread> threads_;
};

TEST_P(Waiting, readers_do_not_starve_a_writer) {
  if (!shared_or_unsupported()) return;
  for (Locker* party : {&locker(), &other_party()}) {
    Relay readers(locker(), key(), Mode::shared);
    ASSERT_TRUE(eventually([&] { return readers.turns() > 3; }));
    EXPECT_TRUE(succeeds(party->lock(key(), {.timeout = kPatience})));
  }
}

TEST_P(Waiting, writers_do_not_starve_a_reader) {
  if (!shared_or_unsupported()) return;
  for (Locker* party : {&locker(), &other_party()}) {
    Relay writers(locker(), key(), Mode::exclusive);
    ASSERT_TRUE(eventually([&] { return writers.turns() > 3; }));
    EXPECT_TRUE(succeeds(party->lock(key(), {.mode = Mode::shared, .timeout = kPatience})));
  }
}

TEST_P(Waiting, a_busy_locker_does_not_starve_another) {
  Locker& party = other_party();
  Relay writers(locker(), key(), Mode::exclusive);
  ASSERT_TRUE(eventually([&] { return writers.turns() > 3; }));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(succeeds(party.lock(key(), {.timeout = kPatience})));
}

// Timeouts and stops that race grants: TearDown proves that none of them left a lock or a waiter behind.
TEST_P(Waiting, a_storm_of_timeouts_and_stops_leaks_nothing) {
  std::array<Locker*, 2> parties{&locker(), &other_party()};
  const std::vector<Key> hot = keys(2);
  std::atomic<int> granted{0};
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session_of(*parties[i % 2]);
      for (unsigned round = 0; round < 40; ++round) {
        std::stop_source stop;
        std::jthread stopper;
        LockOptions options{.timeout = std::chrono::microseconds(100 + 150 * ((round + i) % 9)),
                            .stop = stop.get_token()};
        if (round % 4 == 0) {
          options.timeout = kPatience;
          stopper = std::jthread([stop]() mutable { stop.request_stop(); });
        }
        auto held = own->lock(hot[(round + i) % hot.size()], options);
        if (held) {
          ++granted;
          if (round % 3 != 0) continue;
          EXPECT_TRUE(succeeds(held->release()));
          continue;
        }
        EXPECT_TRUE(held.error().code() == errc::timeout || held.error().code() == errc::cancelled)
            << held.error().to_string();
      }
    });
  }
  threads.clear();
  EXPECT_GT(granted, 0);
  for (const Key& each : hot) {
    for (Locker* party : parties) EXPECT_TRUE(is_free(*party, each));
  }
}

}  // namespace lockr::testing
