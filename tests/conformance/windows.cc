// Locks that last for a certain time: not less, not more.
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Windows);

namespace {

constexpr auto kWindow = 2s;
using Clock = std::chrono::steady_clock;

}  // namespace

// A time that is less than promised fails this; a machine that stands still for the whole window proves nothing.
TEST_P(Windows, a_released_key_stays_taken_until_hold_at_least_is_over) {
  const auto holder = session();
  const auto begin = Clock::now();
  auto held = holder->lock(key(), {.timeout = kPatience, .hold_at_least = kWindow});
  if (!capabilities().hold_at_least) {
    EXPECT_TRUE(fails_with(held, errc::unsupported));
    EXPECT_EQ(locker().stats().engine_requests, 0u);
    return;
  }
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(succeeds(held->release()));
  Locker& other = other_party();
  for (const auto& session : {session_of(locker()), session_of(other)}) {
    const auto early = session->try_lock(key());
    const bool in_time = Clock::now() < begin + kWindow;
    EXPECT_TRUE(!in_time || fails_with(early, errc::not_acquired));
  }
  EXPECT_TRUE(succeeds(session_of(other)->lock(key(), {.timeout = kPatience})));
  EXPECT_GE(Clock::now(), begin + kWindow);
}

TEST_P(Windows, who_waits_here_gets_the_key_when_hold_at_least_is_over) {
  if (!capabilities().hold_at_least) return;
  const auto holder = session();
  const auto next = session();
  const auto begin = Clock::now();
  auto held = holder->lock(key(), {.timeout = kPatience, .hold_at_least = kWindow});
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*next, key());
  ASSERT_TRUE(waiting(locker(), 1));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(result_of(waiter)));
  EXPECT_GE(Clock::now(), begin + kWindow);
}

TEST_P(Windows, a_key_held_for_longer_is_free_at_once) {
  if (!capabilities().hold_at_least) return;
  const auto holder = session();
  auto held = holder->lock(key(), {.timeout = kPatience, .hold_at_least = 1ns});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(session_of(other_party())->try_lock(key())));
}

TEST_P(Windows, a_lock_is_lost_when_hold_at_most_is_over) {
  const auto holder = session();
  auto held = holder->lock_all(keys(2), {.timeout = kPatience, .hold_at_most = 200ms});
  if (capabilities().backend == "memory") {
    EXPECT_TRUE(fails_with(held, errc::unsupported));
    return;
  }
  ASSERT_TRUE(succeeds(held));
  for (Releaser& each : *held) {
    EXPECT_TRUE(eventually([&] { return each.lost_token().stop_requested(); }));
    EXPECT_FALSE(each.held());
    EXPECT_TRUE(fails_with(each.release(), errc::lock_lost));
  }
  const auto other = session_of(other_party());
  for (const Key& each : keys(2)) EXPECT_TRUE(succeeds(other->lock(each, {.timeout = kPatience})));
}

TEST_P(Windows, the_next_holder_has_no_limit_of_the_last) {
  if (capabilities().backend == "memory") return;
  const auto first = session();
  const auto second = session();
  auto held = first->lock(key(), {.timeout = kPatience, .hold_at_most = 300ms});
  ASSERT_TRUE(succeeds(held));
  const auto limit = held->valid_until();
  ASSERT_TRUE(limit);
  auto waiter = lock_later(*second, key());
  ASSERT_TRUE(waiting(locker(), 1));
  static_cast<void>(held->release());
  const auto next = result_of(waiter);
  ASSERT_TRUE(succeeds(next));
  ASSERT_TRUE(eventually([&] { return BootClock::now() > *limit + 100ms; }));
  EXPECT_TRUE(next->held());
}

TEST_P(Windows, what_makes_no_window_is_refused) {
  const auto holder = session();
  const auto refused = [&](const LockOptions& options) {
    return fails_with(holder->lock(key(), options), errc::unsupported);
  };
  EXPECT_TRUE(refused({.mode = Mode::shared, .hold_at_most = 1h}));
  EXPECT_TRUE(refused({.hold_at_most = 0s}));
  EXPECT_TRUE(refused({.hold_at_least = 2s, .hold_at_most = 1s}));
  EXPECT_EQ(locker().stats().engine_requests, 0u);
}

}  // namespace lockr::testing
