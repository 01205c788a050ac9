// How locks, sessions and lockers end; deadlocks between sessions; the books.
#include <array>
#include <atomic>
#include <latch>
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Sessions);

TEST_P(Sessions, release_is_idempotent) {
  const auto owner = session();
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(succeeds(held->release()));
  EXPECT_EQ(locker().stats().released, 1u);
  auto again = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(again));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(again->held()) << "an old releaser is not to release a new lock";
}

TEST_P(Sessions, an_empty_releaser_holds_nothing) {
  Releaser empty;
  EXPECT_FALSE(empty);
  EXPECT_FALSE(empty.held());
  EXPECT_TRUE(succeeds(empty.release()));
  auto held = locker().lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  empty = *std::move(held);
  EXPECT_TRUE(empty.held());
}

TEST_P(Sessions, a_destroyed_releaser_releases) {
  const auto owner = session();
  const auto far = session_of(other_party());
  {
    const auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    EXPECT_TRUE(fails_with(far->try_lock(key()), errc::not_acquired));
  }
  EXPECT_TRUE(succeeds(far->lock(key(), {.timeout = kPatience})));
}

TEST_P(Sessions, a_releaser_that_is_assigned_to_releases_what_it_had) {
  const std::vector<Key> two = keys(2);
  const auto owner = session();
  auto first = owner->lock(two[0], {.timeout = kPatience});
  auto second = owner->lock(two[1], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  *first = *std::move(second);
  EXPECT_EQ(first->key(), two[1]);
  EXPECT_TRUE(is_free(other_party(), two[0]));
  EXPECT_TRUE(first->held());
}

TEST_P(Sessions, a_releaser_may_move_to_another_thread) {
  const auto owner = session();
  const auto far = session_of(other_party());
  for (const bool by_call : {true, false}) {
    auto held = owner->lock(key(), {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    std::jthread([&, mine = *std::move(held)]() mutable {
      EXPECT_TRUE(mine.held());
      if (!by_call) return;
      EXPECT_TRUE(succeeds(mine.release()));
    }).join();
    EXPECT_TRUE(succeeds(far->lock(key(), {.timeout = kPatience})));
  }
}

TEST_P(Sessions, a_releaser_that_outlives_its_session_says_so_once) {
  auto owner = session();
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  owner.reset();
  EXPECT_FALSE(held->held());
  EXPECT_FALSE(held->lost());
  EXPECT_EQ(held->key(), key());
  EXPECT_TRUE(is_free(other_party(), key()));
  EXPECT_TRUE(fails_with(held->release(), errc::session_closed));
  EXPECT_TRUE(succeeds(held->release()));
}

TEST_P(Sessions, sessions_and_releasers_may_outlive_their_locker) {
  auto brief = harness().open_locker({});
  ASSERT_TRUE(succeeds(brief));
  const auto owner = session_of(**brief);
  const auto idle = session_of(**brief);
  auto held = owner->lock(key(), {.timeout = kPatience});
  auto disposed = owner->lock(key("disposed"), {.timeout = kPatience});
  auto own = (*brief)->lock(key("own session"), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  ASSERT_TRUE(succeeds(disposed));
  ASSERT_TRUE(succeeds(own));
  brief->reset();
  EXPECT_FALSE(held->held());
  EXPECT_TRUE(fails_with(held->release(), errc::session_closed));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(fails_with(own->release(), errc::session_closed));
  EXPECT_TRUE(fails_with(owner->lock(key(), {.timeout = kPatience}), errc::session_closed));
  EXPECT_TRUE(fails_with(idle->try_lock(key()), errc::session_closed));
  EXPECT_TRUE(succeeds(idle->close()));
  EXPECT_TRUE(is_free(locker(), key()));
}

// Who is last frees what they share, whoever that is.
TEST_P(Sessions, releasers_may_end_on_many_threads_while_their_locker_closes) {
  for (int round = 0; round < 20; ++round) {
    auto own = harness().open_locker({});
    ASSERT_TRUE(succeeds(own));
    const auto names = keys(8);
    std::vector<std::jthread> threads;
    std::latch begin(static_cast<std::ptrdiff_t>(names.size()) + 1);
    for (const Key& name : names) {
      auto held = (*own)->lock(name, {.timeout = kPatience});
      ASSERT_TRUE(succeeds(held));
      threads.emplace_back([&begin, held = std::move(held)]() mutable {
        begin.arrive_and_wait();
        held = fail(Error(errc::not_acquired));
      });
    }
    begin.arrive_and_wait();
    own->reset();
  }
}

TEST_P(Sessions, close_frees_everything_and_sends_waiters_away) {
  const std::vector<Key> some = keys(5);
  const auto closing = session();
  const auto holder = session();
  const auto held_elsewhere = holder->lock(key("taken"), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held_elsewhere));
  std::vector<Releaser> held;
  for (const Key& each : some) {
    auto got = closing->lock(each, {.timeout = kPatience});
    ASSERT_TRUE(succeeds(got));
    held.push_back(*std::move(got));
  }
  auto waiter = lock_later(*closing, key("taken"), {.timeout = forever});
  ASSERT_TRUE(waiting(1));
  EXPECT_TRUE(succeeds(closing->close()));
  EXPECT_TRUE(fails_with(result_of(waiter), errc::session_closed));
  Locker& party = other_party();
  for (const Key& each : some) EXPECT_TRUE(succeeds(session_of(party)->lock(each, {.timeout = kPatience})));
  EXPECT_TRUE(held_elsewhere->held());
}

TEST_P(Sessions, a_closed_session_stays_closed) {
  const auto closed = session();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(succeeds(closed->close()));
  EXPECT_TRUE(fails_with(closed->lock(key(), {.timeout = kPatience}), errc::session_closed));
  EXPECT_TRUE(fails_with(closed->try_lock(key()), errc::session_closed));
  EXPECT_TRUE(fails_with(closed->lock_all(keys(2), {.timeout = kPatience}), errc::session_closed));
  EXPECT_TRUE(fails_with(closed->try_lock_any(keys(2)), errc::session_closed));
}

TEST_P(Sessions, a_closed_locker_stays_closed_and_sends_waiters_away) {
  Locker& brief = open();
  const auto holder = session_of(brief);
  const auto asker = session_of(brief);
  auto held = holder->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*asker, key(), {.timeout = forever});
  ASSERT_TRUE(waiting(brief, 1));
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(succeeds(brief.close()));
  EXPECT_TRUE(fails_with(result_of(waiter), errc::session_closed));
  EXPECT_TRUE(fails_with(brief.open_session(), errc::session_closed));
  EXPECT_TRUE(fails_with(brief.lock(key(), {.timeout = kPatience}), errc::session_closed));
  EXPECT_TRUE(fails_with(brief.try_lock(key()), errc::session_closed));
  EXPECT_TRUE(fails_with(brief.inspect(), errc::session_closed));
  EXPECT_FALSE(held->held());
  EXPECT_TRUE(is_free(locker(), key()));
}

TEST_P(Sessions, a_lock_of_the_locker_has_a_session_of_its_own) {
  auto first = locker().lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  EXPECT_TRUE(fails_with(locker().try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds(first->release()));
  EXPECT_TRUE(succeeds(locker().try_lock(key())));
  EXPECT_TRUE(succeeds(locker().lock({"conformance", "scopes"}, {.timeout = kPatience})));
}

TEST_P(Sessions, labels_name_sessions) {
  EXPECT_EQ(session("painter")->label(), "painter");
  EXPECT_EQ(session_of(open({.fields = R"("label": "from config")", .options = {}}))->label(), "from config");
  EXPECT_EQ(session(std::string(500, 'x'))->label(), std::string(128, 'x'));
}

// Each of the sessions holds a key and waits for the next one's; exactly one must be told.
void expect_one_deadlock(Locker& locker, const std::vector<Key>& ring) {
  std::atomic<std::size_t> ready{0};
  std::atomic<int> deadlocks{0};
  std::atomic<int> granted{0};
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < ring.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto own = locker.open_session();
      ASSERT_TRUE(succeeds(own));
      auto first = (*own)->lock(ring[i], {.timeout = kPatience});
      ASSERT_TRUE(succeeds(first));
      ++ready;
      ASSERT_TRUE(eventually([&] { return ready == ring.size(); }));
      const auto second = (*own)->lock(ring[(i + 1) % ring.size()], {.timeout = kPatience});
      if (second) {
        ++granted;
        return;
      }
      EXPECT_TRUE(fails_with(second, errc::deadlock));
      EXPECT_TRUE(first->held()) << "the victim keeps what it has";
      ++deadlocks;
    });
  }
  threads.clear();
  EXPECT_EQ(deadlocks, 1);
  EXPECT_EQ(granted, static_cast<int>(ring.size()) - 1);
  EXPECT_EQ(locker.stats().deadlocks, 1u);
}

TEST_P(Sessions, two_sessions_that_wait_for_each_other_are_a_deadlock) { expect_one_deadlock(locker(), keys(2)); }

TEST_P(Sessions, a_ring_of_sessions_is_a_deadlock) { expect_one_deadlock(locker(), keys(4)); }

TEST_P(Sessions, sessions_that_threads_share_are_left_out_of_deadlock_detection) {
  const std::vector<Key> two = keys(2);
  const auto shared = locker().open_session({.label = "shared", .deadlock_detection = false});
  ASSERT_TRUE(succeeds(shared));
  const auto other = session();
  const auto mine = (*shared)->lock(two[0], {.timeout = kPatience});
  auto theirs = other->lock(two[1], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(mine));
  ASSERT_TRUE(succeeds(theirs));
  auto waiter = lock_later(**shared, two[1]);
  ASSERT_TRUE(waiting(1));
  EXPECT_TRUE(fails_with(other->lock(two[0], {.timeout = 20ms}), errc::timeout));
  EXPECT_TRUE(succeeds(theirs->release()));
  EXPECT_TRUE(succeeds(result_of(waiter)));
}

TEST_P(Sessions, the_books_say_what_happened) {
  const auto one = session();
  const auto two = session();
  auto outer = one->lock(key(), {.timeout = kPatience});
  auto inner = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(outer));
  ASSERT_TRUE(succeeds(inner));
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = 2ms}), errc::timeout));
  std::stop_source stop;
  auto waiter = lock_later(*two, key(), {.timeout = forever, .stop = stop.get_token()});
  ASSERT_TRUE(waiting(1));
  stop.request_stop();
  EXPECT_TRUE(fails_with(result_of(waiter), errc::cancelled));
  const Stats before = locker().stats();
  EXPECT_EQ(before.acquired, 2u);
  EXPECT_EQ(before.reentries, 1u);
  EXPECT_EQ(before.held, 2u);
  EXPECT_EQ(before.not_acquired, 1u);
  EXPECT_EQ(before.timeouts, 1u);
  EXPECT_EQ(before.cancelled, 1u);
  EXPECT_GE(before.waited, 2u);
  auto next = lock_later(*two, key());
  ASSERT_TRUE(waiting(1));
  EXPECT_TRUE(succeeds(inner->release()));
  EXPECT_TRUE(succeeds(outer->release()));
  ASSERT_TRUE(succeeds(result_of(next)));
  const Stats after = locker().stats();
  EXPECT_EQ(after.acquired, 3u);
  EXPECT_EQ(after.released, 3u);
  EXPECT_EQ(after.not_released, 0u);
  EXPECT_EQ(after.lost, 0u);
}

// Sessions that close while their threads still ask: everyone gets an answer, nothing stays.
TEST_P(Sessions, closing_under_load_leaves_nothing_behind) {
  for (int round = 0; round < 10; ++round) {
    const auto closing = session();
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        for (int turn = 0; turn < 20; ++turn) {
          const auto held = closing->lock(key("key" + std::to_string(turn % 3)), {.timeout = kPatience});
          if (held) continue;
          EXPECT_TRUE(fails_with(held, errc::session_closed));
          return;
        }
      });
    }
    EXPECT_TRUE(succeeds(closing->close()));
  }
  EXPECT_TRUE(is_free(other_party(), key("key0")));
}

}  // namespace lockr::testing
