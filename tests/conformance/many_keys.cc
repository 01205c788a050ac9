// lock_all and try_lock_any.
#include <algorithm>
#include <array>
#include <optional>
#include <stop_token>
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(ManyKeys);

TEST_P(ManyKeys, lock_all_takes_all_and_answers_in_the_order_given) {
  std::vector<Key> all = keys(5);
  const auto owner = session();
  const auto far = session_of(other_party());
  for (int turn = 0; turn < 2; ++turn) {
    auto held = owner->lock_all(all, {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    ASSERT_EQ(held->size(), all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ((*held)[i].key(), all[i]);
      EXPECT_TRUE((*held)[i].held());
      EXPECT_TRUE(fails_with(far->try_lock(all[i]), errc::not_acquired));
    }
    for (Releaser& each : *held) EXPECT_TRUE(succeeds(each.release()));
    std::reverse(all.begin(), all.end());
  }
}

TEST_P(ManyKeys, lock_all_takes_none_when_one_can_not_be_had) {
  const std::vector<Key> all = keys(4);
  const auto holder = session_of(other_party());
  const auto asker = session();
  const auto held = holder->lock(all[2], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto tried = asker->lock_all(all, {.timeout = 0s});
  ASSERT_TRUE(fails_with(tried, errc::not_acquired));
  EXPECT_EQ(tried.error().key(), all[2].string());
  const auto waited = asker->lock_all(all, {.timeout = 30ms});
  ASSERT_TRUE(fails_with(waited, errc::timeout));
  EXPECT_EQ(waited.error().key(), all[2].string());
  for (const std::size_t i : {0u, 1u, 3u}) EXPECT_TRUE(is_free(locker(), all[i]));
}

TEST_P(ManyKeys, lock_all_waits_for_what_is_missing) {
  const std::vector<Key> all = keys(4);
  const auto holder = session_of(other_party());
  const auto asker = session();
  auto first = holder->lock(all[1], {.timeout = kPatience});
  auto second = holder->lock(all[3], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  auto waiter = std::async(std::launch::async, [&] { return asker->lock_all(all, {.timeout = kPatience}); });
  EXPECT_EQ(waiter.wait_for(5ms), std::future_status::timeout);
  EXPECT_TRUE(succeeds(first->release()));
  EXPECT_EQ(waiter.wait_for(5ms), std::future_status::timeout);
  EXPECT_TRUE(succeeds(second->release()));
  const auto got = result_of(waiter);
  ASSERT_TRUE(succeeds(got));
  EXPECT_EQ(got->size(), all.size());
}

TEST_P(ManyKeys, lock_all_counts_a_key_given_twice) {
  const std::vector<Key> pair = keys(2);
  const auto owner = session();
  const auto other = session();
  auto held = owner->lock_all(std::array{pair[0], pair[1], pair[0]}, {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  ASSERT_EQ(held->size(), 3u);
  EXPECT_EQ((*held)[2].key(), pair[0]);
  EXPECT_TRUE(succeeds((*held)[0].release()));
  EXPECT_TRUE(fails_with(other->try_lock(pair[0]), errc::not_acquired));
  EXPECT_TRUE(succeeds((*held)[2].release()));
  EXPECT_TRUE(succeeds(other->lock(pair[0], {.timeout = kPatience})));
}

TEST_P(ManyKeys, lock_all_re_enters_what_the_session_holds) {
  const std::vector<Key> all = keys(3);
  const auto owner = session();
  const auto first = owner->lock(all[1], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  const auto held = owner->lock_all(all, {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_EQ(locker().stats().reentries, 1u);
}

TEST_P(ManyKeys, no_keys_are_refused) {
  const auto owner = session();
  EXPECT_TRUE(fails_with(owner->lock_all({}), errc::invalid_key));
  EXPECT_TRUE(fails_with(owner->try_lock_any({}), errc::invalid_key));
}

TEST_P(ManyKeys, lock_all_takes_more_than_a_batch) {
  const std::vector<Key> all = keys(150);
  const auto owner = session();
  const auto far = session_of(other_party());
  auto held = owner->lock_all(all, {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_EQ(held->size(), all.size());
  EXPECT_TRUE(fails_with(far->try_lock_any(all), errc::not_acquired));
}

TEST_P(ManyKeys, readers_of_many_keys_share) {
  if (!shared_or_unsupported()) return;
  const std::vector<Key> all = keys(3);
  const auto one = session();
  const auto two = session_of(other_party());
  const auto first = one->lock_all(all, {.mode = Mode::shared, .timeout = kPatience});
  const auto second = two->lock_all(all, {.mode = Mode::shared, .timeout = kPatience});
  EXPECT_TRUE(succeeds(first));
  EXPECT_TRUE(succeeds(second));
}

TEST_P(ManyKeys, a_cancelled_lock_all_leaves_nothing_behind) {
  const std::vector<Key> all = keys(3);
  const auto holder = session();
  const auto asker = session_of(other_party());
  auto held = holder->lock(all[2], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  std::stop_source stop;
  auto waiter = std::async(std::launch::async, [&] {
    const auto got = asker->lock_all(all, {.timeout = forever, .stop = stop.get_token()});
    return got ? std::optional<errc>() : got.error().code();
  });
  EXPECT_EQ(waiter.wait_for(5ms), std::future_status::timeout);
  stop.request_stop();
  EXPECT_EQ(result_of(waiter), errc::cancelled);
  for (const std::size_t i : {0u, 1u}) EXPECT_TRUE(is_free(locker(), all[i]));
}

TEST_P(ManyKeys, opposite_orders_do_not_deadlock) {
  std::array<Locker*, 2> parties{&locker(), &other_party()};
  const std::vector<Key> forth = keys(4);
  const std::vector<Key> back(forth.rbegin(), forth.rend());
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session_of(*parties[i % 2]);
      for (int round = 0; round < 12; ++round) {
        EXPECT_TRUE(succeeds(own->lock_all(i / 2 == 0 ? forth : back, {.timeout = kPatience})));
      }
    });
  }
}

TEST_P(ManyKeys, try_lock_any_takes_the_first_that_is_free) {
  const std::vector<Key> all = keys(4);
  const auto near = session();
  const auto far = session_of(other_party());
  const auto asker = session();
  const auto first = near->lock(all[0], {.timeout = kPatience});
  const auto second = far->lock(all[1], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  auto third = asker->try_lock_any(all);
  ASSERT_TRUE(succeeds(third));
  EXPECT_EQ(third->key(), all[2]);
  EXPECT_TRUE(is_free(other_party(), all[3])) << "only one of them is to be taken";
}

TEST_P(ManyKeys, try_lock_any_is_refused_when_none_is_free) {
  const std::vector<Key> all = keys(3);
  const auto far = session_of(other_party());
  const auto asker = session();
  const auto held = far->lock_all(all, {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(asker->try_lock_any(all), errc::not_acquired));
}

}  // namespace lockr::testing
