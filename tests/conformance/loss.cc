// Locks that end without being released: lost ones, and those of a process that died.
#include <algorithm>
#include <atomic>
#include <future>
#include <stop_token>
#include <thread>
#include <vector>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Loss);

TEST_P(Loss, what_can_not_be_lost_does_not_run_out) {
  const auto owner = session();
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const std::stop_token lost = held->lost_token();
  EXPECT_TRUE(lost.stop_possible());
  EXPECT_FALSE(lost.stop_requested());
  EXPECT_FALSE(held->lost());
  if (const auto until = held->valid_until()) {
    EXPECT_GT(*until, BootClock::now());
  }
  if (!harness().faults().empty()) return;
  EXPECT_EQ(capabilities().loss, 0ns);
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_FALSE(lost.stop_requested());
}

TEST_P(Loss, a_lock_that_runs_out_is_renewed_while_it_is_held) {
  const auto owner = session();
  const auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto until = held->valid_until();
  if (!until) {
    EXPECT_EQ(held->valid_until(), std::nullopt);
    return;
  }
  ASSERT_TRUE(eventually([&] { return BootClock::now() > *until; })) << "use a short validity in the harness";
  EXPECT_TRUE(held->held());
  EXPECT_GT(held->valid_until(), until);
  EXPECT_TRUE(fails_with(session_of(other_party())->try_lock(key()), errc::not_acquired));
}

TEST_P(Loss, a_lost_lock_is_announced) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    const auto recorder = std::make_shared<Recorder>();
    Locker& watched = open({.fields = {}, .options = {.observer = recorder}});
    const auto owner = session_of(watched, "unlucky");
    auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    const std::stop_token lost = held->lost_token();
    std::atomic<bool> called{false};
    const std::stop_callback callback(lost, [&] { called = true; });

    fault.strike();
    EXPECT_TRUE(eventually([&] { return held->lost(); }));
    EXPECT_FALSE(held->held());
    EXPECT_TRUE(eventually([&] { return called.load(); }));
    EXPECT_TRUE(held->lost_token().stop_requested());
    EXPECT_TRUE(eventually([&] { return !recorder->heard(Event::Kind::lost).empty(); }));
    const std::vector<Event> events = recorder->heard(Event::Kind::lost);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].key, key().string());
    EXPECT_EQ(events[0].label, "unlucky");
    EXPECT_TRUE(events[0].error);

    EXPECT_EQ(watched.stats().lost, 1u);
    EXPECT_TRUE(fails_with(held->release(), errc::lock_lost));
    EXPECT_TRUE(succeeds(held->release()));
    EXPECT_TRUE(held->lost());
    EXPECT_EQ(watched.stats().not_released, 0u);
  }
}

TEST_P(Loss, every_grant_of_a_lost_lock_is_lost) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    Locker& own = open();
    const auto owner = session_of(own);
    const std::vector<Key> all = keys(3);
    auto held = owner->lock_all(all, {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    auto again = owner->lock(all[0], {.timeout = kPatience});
    ASSERT_TRUE(succeeds(again));
    fault.strike();
    for (const Releaser& each : *held) EXPECT_TRUE(eventually([&] { return each.lost(); }));
    EXPECT_TRUE(eventually([&] { return again->lost(); }));
    EXPECT_EQ(own.stats().lost, 4u);
    EXPECT_EQ(own.stats().held, 0u);
  }
}

TEST_P(Loss, lock_all_hands_out_nothing_that_was_lost_while_it_waited) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    Locker& own = open();
    const auto owner = session_of(own);
    const auto asker = session_of(own);
    std::vector<Key> all = keys(2);
    std::sort(all.begin(), all.end());
    // The asker has the first key and waits for the second; the fault takes both away.
    const auto held = owner->lock(all[1], {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    auto both = std::async(std::launch::async, [&] { return asker->lock_all(all, {.timeout = kPatience}); });
    ASSERT_TRUE(waiting(own, 1));
    fault.strike();
    const auto got = result_of(both);
    ASSERT_TRUE(succeeds(got));
    for (const Releaser& one : *got) EXPECT_FALSE(one.lost());
    for (const Releaser& one : *got) EXPECT_TRUE(one.held());
  }
}

// One thread may ask what it holds while the loss of that is noticed.
TEST_P(Loss, a_releaser_may_be_read_while_it_is_lost) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    const auto owner = session();
    const auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    const std::string name(held->key().string());
    std::jthread striker([&] { fault.strike(); });
    EXPECT_TRUE(eventually([&] {
      EXPECT_EQ(held->key().string(), name);
      static_cast<void>(held->valid_until());
      return !held->held();
    }));
    EXPECT_EQ(held->valid_until(), std::nullopt);
    EXPECT_EQ(held->key().string(), name);
  }
}

TEST_P(Loss, a_lost_lock_is_not_revived_and_the_key_can_be_taken_again) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    Locker& own = open();
    const auto owner = session_of(own);
    const auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    fault.strike();
    ASSERT_TRUE(eventually([&] { return held->lost(); }));
    const auto again = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(again));
    EXPECT_TRUE(again->held());
    EXPECT_FALSE(held->held());
    EXPECT_TRUE(held->lost());
    if (capabilities().fencing) {
      EXPECT_GT(again->fencing_token().value_or(0), held->fencing_token().value_or(~std::uint64_t{0}));
    }
  }
}

TEST_P(Loss, a_wait_survives_the_loss) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    Locker& own = open();
    const auto owner = session_of(own);
    const auto asker = session_of(own);
    const auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    auto waiter = lock_later(*asker, key());
    ASSERT_TRUE(waiting(own, 1));
    fault.strike();
    EXPECT_TRUE(succeeds(result_of(waiter)));
    EXPECT_TRUE(held->lost());
  }
}

TEST_P(Loss, a_releaser_of_a_lost_lock_ends_in_silence) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    const auto recorder = std::make_shared<Recorder>();
    Locker& watched = open({.fields = {}, .options = {.observer = recorder}});
    {
      const auto owner = session_of(watched);
      const auto held = owner->lock(key(), {.timeout = kPatience});
      ASSERT_TRUE(succeeds(held));
      fault.strike();
      ASSERT_TRUE(eventually([&] { return held->lost(); }));
    }
    EXPECT_TRUE(is_free(watched, key()));
    close(watched);
    EXPECT_TRUE(recorder->heard(Event::Kind::not_released).empty());
    EXPECT_EQ(recorder->heard(Event::Kind::lost).size(), 1u);
  }
}

TEST_P(Loss, a_storm_of_losses_leaves_nothing_behind) {
  for (const Fault& fault : harness().faults()) {
    SCOPED_TRACE(fault.name);
    std::atomic<bool> over{false};
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] {
        const auto own = session();
        while (!over) {
          const auto held = own->lock(key("key" + std::to_string(i % 2)), {.timeout = kPatience});
          EXPECT_TRUE(succeeds(held));
          // Or the engine would find no processor to come back on.
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      });
    }
    for (int i = 0; i < 5; ++i) {
      const auto before = locker().stats().acquired;
      fault.strike();
      EXPECT_TRUE(eventually([&] { return locker().stats().acquired > before + 10; }));
    }
    over = true;
  }
}

TEST_P(Loss, a_dead_process_holds_nothing) {
  if (!capabilities().cross_process) {
    EXPECT_TRUE(fails_with(harness().open_locker({.fields = R"("require": ["cross_process"])", .options = {}}),
                           errc::unsupported));
    return;
  }
  auto other = harness().hold_elsewhere(key());
  ASSERT_TRUE(succeeds(other));
  const auto asker = session();
  EXPECT_TRUE(fails_with(asker->try_lock(key()), errc::not_acquired));
  auto waiter = lock_later(*asker, key());
  ASSERT_TRUE(waiting(1));
  (*other)->kill();
  EXPECT_TRUE(succeeds(result_of(waiter)));
  ASSERT_TRUE(capabilities().takeover);
  EXPECT_LT(*capabilities().takeover, kPatience) << "use a short validity in the harness";
}

}  // namespace lockr::testing
