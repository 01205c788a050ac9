// What a config asks for: refused where the backend lacks it, kept where it has it.
#include <utility>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Unsupported);

TEST_P(Unsupported, what_a_config_requires_is_there_or_opening_fails) {
  const Capabilities& has = capabilities();
  const std::vector<std::pair<std::string, bool>> known{
      {"shared", has.shared},         {"fencing", has.fencing}, {"cross_process", has.cross_process},
      {"cross_host", has.cross_host}, {"fair", has.fair},       {"hold_at_least", has.hold_at_least}};
  for (const auto& [name, there] : known) {
    const auto opened = harness().open_locker({.fields = R"("require": [")" + name + R"("])", .options = {}});
    if (there) {
      EXPECT_TRUE(succeeds(opened)) << name;
    } else {
      EXPECT_TRUE(fails_with(opened, errc::unsupported)) << name;
    }
  }
}

TEST_P(Unsupported, shared_mode_is_served_or_refused_before_the_engine_is_asked) {
  if (!shared_or_unsupported()) return;
  EXPECT_TRUE(succeeds(locker().lock(key(), {.mode = Mode::shared, .timeout = kPatience})));
}

TEST_P(Unsupported, dedicated_sessions_are_there_or_refused_before_the_engine_is_asked) {
  const auto opened = locker().open_session({.dedicated = true});
  if (!capabilities().dedicated) {
    EXPECT_TRUE(fails_with(opened, errc::unsupported));
    EXPECT_EQ(locker().stats().engine_requests, 0u);
    return;
  }
  ASSERT_TRUE(succeeds(opened));
  const auto held = (*opened)->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(session()->try_lock(key()), errc::not_acquired));
}

TEST_P(Unsupported, a_namespace_comes_before_every_key) {
  Locker& red = open({.fields = R"("namespace": "red")", .options = {}});
  Locker& blue = open({.fields = R"("namespace": "blue")", .options = {}});
  const auto in_red = session_of(red);
  const auto in_blue = session_of(blue);
  auto held = in_red->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(succeeds(in_blue->try_lock(key())));
  EXPECT_TRUE(fails_with(session_of(red)->try_lock(key()), errc::not_acquired));
  const Key prefixed = key().prefixed("red").value();
  const auto plain = session();
  EXPECT_TRUE(succeeds(plain->try_lock(key())));
  if (harness().excludes_across_lockers()) {
    EXPECT_TRUE(fails_with(plain->try_lock(prefixed), errc::not_acquired));
  }
}

TEST_P(Unsupported, a_key_too_long_with_its_namespace_is_refused) {
  Locker& red = open({.fields = R"("namespace": "red")", .options = {}});
  const Key longest = Key::parse(std::string(Key::kMaxBytes, 'x')).value();
  EXPECT_TRUE(fails_with(session_of(red)->try_lock(longest), errc::invalid_key));
  EXPECT_TRUE(succeeds(session()->try_lock(longest)));
}

TEST_P(Unsupported, the_limit_of_held_keys_is_kept) {
  Locker& small = open({.fields = R"("limits": {"held": 2})", .options = {}});
  const std::vector<Key> three = keys(3);
  const auto owner = session_of(small);
  auto first = owner->lock(three[0], {.timeout = kPatience});
  const auto second = owner->lock(three[1], {.timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  EXPECT_TRUE(fails_with(owner->lock(three[2], {.timeout = kPatience}), errc::capacity));
  EXPECT_TRUE(fails_with(owner->lock_all(three, {.timeout = kPatience}), errc::capacity));
  EXPECT_TRUE(succeeds(owner->lock(three[0], {.timeout = kPatience}))) << "a re-entry is no further key";
  EXPECT_TRUE(succeeds(first->release()));
  EXPECT_TRUE(eventually([&] { return owner->try_lock(three[2]).has_value(); }));
}

TEST_P(Unsupported, what_was_given_back_does_not_count_against_the_limit_of_held_keys) {
  Locker& limited = open({.fields = R"("limits": {"held": 2})", .options = {}});
  const auto owner = session_of(limited);
  for (const Key& each : keys(10)) EXPECT_TRUE(succeeds(owner->lock(each, {.timeout = kPatience})));
  for (const Key& each : keys(10)) EXPECT_TRUE(succeeds(limited.lock(each, {.timeout = kPatience})));
}

TEST_P(Unsupported, the_limit_of_waiting_callers_is_kept) {
  Locker& small = open({.fields = R"("limits": {"waiters": 1})", .options = {}});
  const auto holder = session_of(small);
  const auto one = session_of(small);
  const auto two = session_of(small);
  auto held = holder->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*one, key());
  ASSERT_TRUE(waiting(small, 1));
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = kPatience}), errc::capacity));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(result_of(waiter)));
}

}  // namespace lockr::testing
