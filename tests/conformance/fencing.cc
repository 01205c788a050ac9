// Fencing tokens: numbers that only grow.
#include <array>
#include <mutex>
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Fencing);

constexpr std::uint64_t kTokenLimit = std::uint64_t{1} << 63;

// The token of a lock that is taken and released; 0 with a failure when there is none.
std::uint64_t token_of(Session& session, const Key& key, Mode mode = Mode::exclusive) {
  const auto held = session.lock(key, {.mode = mode, .timeout = kPatience});
  EXPECT_TRUE(succeeds(held));
  if (!held) return 0;
  const auto token = held->fencing_token();
  EXPECT_TRUE(succeeds(token));
  return token.value_or(0);
}

TEST_P(Fencing, a_token_is_a_positive_bigint_or_unsupported) {
  const auto owner = session();
  const auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const auto token = held->fencing_token();
  if (!capabilities().fencing) {
    EXPECT_TRUE(fails_with(token, errc::unsupported));
    return;
  }
  ASSERT_TRUE(succeeds(token));
  EXPECT_GT(*token, 0u);
  EXPECT_LT(*token, kTokenLimit);
  EXPECT_EQ(held->fencing_token().value_or(0), *token);
}

// False where there are no tokens; the case above asserts what is said then.
bool has_tokens(const Capabilities& capabilities) { return capabilities.fencing; }

TEST_P(Fencing, tokens_grow_with_each_acquisition) {
  if (!has_tokens(capabilities())) return;
  Locker& second = other_party();
  std::uint64_t last = 0;
  for (int i = 0; i < 12; ++i) {
    const auto owner = session_of(i % 3 == 0 ? second : locker());
    const std::uint64_t token = token_of(*owner, key());
    EXPECT_GT(token, last);
    last = token;
  }
}

TEST_P(Fencing, tokens_grow_when_the_lock_is_handed_from_waiter_to_waiter) {
  if (!has_tokens(capabilities())) return;
  std::array<Locker*, 2> parties{&locker(), &other_party()};
  std::mutex mutex;
  std::vector<std::uint64_t> tokens;
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session_of(*parties[i % 2]);
      for (int round = 0; round < 25; ++round) {
        const auto held = own->lock(key(), {.timeout = kPatience});
        ASSERT_TRUE(succeeds(held));
        std::lock_guard lock(mutex);
        tokens.push_back(held->fencing_token().value_or(0));
      }
    });
  }
  threads.clear();
  EXPECT_EQ(tokens.size(), 100u);
  for (std::size_t i = 1; i < tokens.size(); ++i) EXPECT_GT(tokens[i], tokens[i - 1]);
}

TEST_P(Fencing, tokens_grow_across_modes) {
  if (!has_tokens(capabilities()) || !shared_or_unsupported()) return;
  const auto one = session();
  const auto two = session_of(other_party());
  const std::uint64_t written = token_of(*one, key());
  const std::uint64_t read = token_of(*two, key(), Mode::shared);
  EXPECT_GT(read, written);
  const auto first = one->lock(key(), {.mode = Mode::shared, .timeout = kPatience});
  const auto second = two->lock(key(), {.mode = Mode::shared, .timeout = kPatience});
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  EXPECT_GT(first->fencing_token().value_or(0), read);
  EXPECT_GT(second->fencing_token().value_or(0), first->fencing_token().value_or(0));
}

TEST_P(Fencing, re_entry_has_the_same_token) {
  if (!has_tokens(capabilities())) return;
  const auto owner = session();
  const auto outer = owner->lock(key(), {.timeout = kPatience});
  const auto inner = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(outer));
  ASSERT_TRUE(succeeds(inner));
  EXPECT_EQ(outer->fencing_token().value_or(0), inner->fencing_token().value_or(1));
}

TEST_P(Fencing, tokens_grow_over_the_life_of_lockers) {
  if (!has_tokens(capabilities())) return;
  std::uint64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    Locker& brief = open();
    const std::uint64_t token = token_of(*session_of(brief), key());
    EXPECT_GT(token, last);
    last = token;
    close(brief);
  }
}

TEST_P(Fencing, tokens_of_many_keys_grow_too) {
  if (!has_tokens(capabilities())) return;
  const std::vector<Key> all = keys(3);
  std::vector<std::uint64_t> last(all.size(), 0);
  for (Locker* party : {&locker(), &other_party(), &locker()}) {
    const auto owner = session_of(*party);
    const auto held = owner->lock_all(all, {.timeout = kPatience});
    ASSERT_TRUE(succeeds(held));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::uint64_t token = (*held)[i].fencing_token().value_or(0);
      EXPECT_GT(token, last[i]);
      last[i] = token;
    }
  }
}

}  // namespace lockr::testing
