// What inspect(), descriptors() and capabilities() tell.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Inspection);

// The rows of a key that hold, or wait.
std::vector<Holder> rows(Locker& locker, const Key& key, bool waiting) {
  const auto all = locker.inspect(&key);
  EXPECT_TRUE(succeeds(all));
  std::vector<Holder> found;
  if (!all) return found;
  for (const Holder& row : *all) {
    EXPECT_EQ(row.key, key.string());
    if (row.waiting == waiting) found.push_back(row);
  }
  return found;
}

TEST_P(Inspection, nobody_holds_a_free_key) {
  EXPECT_TRUE(rows(locker(), key(), false).empty());
  const auto all = locker().inspect();
  EXPECT_TRUE(succeeds(all));
}

TEST_P(Inspection, a_holder_is_listed) {
  const auto owner = session("painter");
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const std::vector<Holder> found = rows(locker(), key(), false);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].mode, Mode::exclusive);
  EXPECT_EQ(found[0].label, "painter");
  EXPECT_EQ(found[0].pid, ::getpid());
  EXPECT_FALSE(found[0].host.empty());
  if (found[0].since) {
    const auto age = std::chrono::system_clock::now() - *found[0].since;
    EXPECT_GT(age, -1min);
    EXPECT_LT(age, 1min);
  }
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(rows(locker(), key(), false).empty());
}

TEST_P(Inspection, a_waiter_is_listed) {
  const auto owner = session("painter");
  const auto asker = session("carpenter");
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*asker, key());
  ASSERT_TRUE(waiting(1));
  const std::vector<Holder> found = rows(locker(), key(), true);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].label, "carpenter");
  EXPECT_EQ(found[0].pid, ::getpid());
  EXPECT_FALSE(found[0].host.empty());
  EXPECT_EQ(rows(locker(), key(), false).size(), 1u);
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(result_of(waiter)));
  EXPECT_TRUE(rows(locker(), key(), true).empty());
}

TEST_P(Inspection, without_a_key_all_are_listed) {
  const std::vector<Key> some = keys(3);
  const auto owner = session();
  const auto held = owner->lock_all(some, {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto all = locker().inspect();
  ASSERT_TRUE(succeeds(all));
  for (const Key& each : some) {
    EXPECT_EQ(std::count_if(all->begin(), all->end(), [&](const Holder& row) { return row.key == each.string(); }), 1);
  }
}

TEST_P(Inspection, another_lockers_holder_is_listed_where_the_backend_can_tell) {
  Locker& second = other_party();
  const auto owner = session_of(second, "painter");
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const std::vector<Holder> found = rows(locker(), key(), false);
  if (harness().excludes_across_lockers() && !harness().lists_other_lockers()) {
    EXPECT_TRUE(found.empty());
    return;
  }
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].label, "painter");
  EXPECT_EQ(found[0].pid, ::getpid());
  EXPECT_EQ(found[0].mode, Mode::exclusive);
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(eventually([&] { return rows(locker(), key(), false).empty(); }));
}

TEST_P(Inspection, readers_are_listed_each) {
  if (!shared_or_unsupported()) return;
  const auto one = session("one");
  const auto two = session("two");
  const auto first = one->lock(key(), {.mode = Mode::shared, .timeout = kPatience});
  const auto second = two->lock(key(), {.mode = Mode::shared, .timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  const std::vector<Holder> found = rows(locker(), key(), false);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NE(found[0].label, found[1].label);
  for (const Holder& each : found) EXPECT_EQ(each.mode, Mode::shared);
}

TEST_P(Inspection, descriptors_are_duplicates_for_the_caller_to_keep) {
  const auto owner = session();
  const auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto first = held->descriptors();
  const auto second = held->descriptors();
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  ASSERT_EQ(first->size(), second->size());
  for (std::size_t i = 0; i < first->size(); ++i) {
    EXPECT_NE((*first)[i].get(), (*second)[i].get());
    const int flags = ::fcntl((*first)[i].get(), F_GETFD);
    EXPECT_NE(flags, -1);
    EXPECT_TRUE(flags & FD_CLOEXEC);
  }
}

TEST_P(Inspection, descriptors_of_a_closed_session_are_refused) {
  auto owner = session();
  const auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const bool outside = !held->descriptors().value().empty();
  EXPECT_TRUE(succeeds(owner->close()));
  const auto after = held->descriptors();
  if (outside) {
    EXPECT_TRUE(fails_with(after, errc::session_closed));
  } else {
    EXPECT_TRUE(!after || after->empty());
  }
}

TEST_P(Inspection, capabilities_are_consistent) {
  const Capabilities& told = capabilities();
  EXPECT_FALSE(told.backend.empty());
  EXPECT_TRUE(told.cross_process || !told.cross_host);
  EXPECT_TRUE(!told.cross_process || harness().excludes_across_lockers());
  EXPECT_EQ(told.takeover.has_value(), told.cross_process);
  EXPECT_GE(told.loss, 0ns);
}

}  // namespace lockr::testing
