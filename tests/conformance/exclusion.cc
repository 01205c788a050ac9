// Who may hold a key at the same time.
#include <array>
#include <atomic>
#include <thread>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Exclusion);

TEST_P(Exclusion, a_releaser_tells_what_it_holds) {
  const auto owner = session();
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(*held);
  EXPECT_TRUE(held->held());
  EXPECT_FALSE(held->lost());
  EXPECT_EQ(held->key(), key());
  EXPECT_EQ(held->mode(), Mode::exclusive);
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_FALSE(held->held());
  EXPECT_FALSE(held->lost());
  EXPECT_EQ(held->key(), key());
}

TEST_P(Exclusion, sessions_exclude_each_other) {
  const auto one = session();
  const auto two = session();
  auto held = one->try_lock(key());
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(two->lock(key(), {.timeout = kPatience})));
}

TEST_P(Exclusion, lockers_exclude_each_other_where_the_backend_says_so) {
  Locker& second = open();
  const auto one = session();
  const auto two = session_of(second);
  auto held = one->try_lock(key());
  ASSERT_TRUE(succeeds(held));
  if (!harness().excludes_across_lockers()) {
    EXPECT_FALSE(capabilities().cross_process);
    EXPECT_TRUE(succeeds(two->try_lock(key())));
    return;
  }
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(fails_with(two->lock(key(), {.timeout = 5ms}), errc::timeout));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(two->lock(key(), {.timeout = kPatience})));
}

TEST_P(Exclusion, different_keys_do_not_exclude_each_other) {
  const auto one = session();
  const auto two = session_of(other_party());
  std::vector<Releaser> held;
  for (const Key& each : keys(100)) {
    auto got = (held.size() % 2 == 0 ? one : two)->lock(each, {.timeout = kPatience});
    ASSERT_TRUE(succeeds(got));
    held.push_back(*std::move(got));
  }
  EXPECT_TRUE(succeeds(one->try_lock(Key::from_scopes({"conformance", "Exclusion"}).value())));
}

TEST_P(Exclusion, any_bytes_make_a_key) {
  const std::string longest(Key::kMaxBytes - key("x").string().size() + 1, 'x');
  for (const std::string& bytes :
       {std::string("'; DROP TABLE locks; --"), std::string("%s%n%1$x"), std::string("../../etc/passwd"),
        std::string("a\0b", 3), std::string("line\nline\r\x1b[0m"), std::string("\xff\xfe\xc0"), std::string(" "),
        std::string("*"), longest}) {
    const auto one = session();
    const auto two = session_of(other_party());
    const Key odd = key(bytes);
    auto held = one->try_lock(odd);
    ASSERT_TRUE(succeeds(held)) << bytes;
    EXPECT_EQ(held->key().string(), odd.string());
    EXPECT_TRUE(fails_with(two->try_lock(odd), errc::not_acquired)) << bytes;
    EXPECT_TRUE(succeeds(held->release()));
  }
}

TEST_P(Exclusion, an_empty_key_is_refused) {
  Key whole = key();
  const Key moved = std::move(whole);
  const auto asker = session();
  EXPECT_TRUE(fails_with(asker->lock(whole), errc::invalid_key));
  EXPECT_TRUE(fails_with(asker->try_lock(whole), errc::invalid_key));
  EXPECT_TRUE(fails_with(asker->lock_all(std::array{moved, whole}), errc::invalid_key));
  EXPECT_TRUE(fails_with(asker->try_lock_any(std::array{whole, moved}), errc::invalid_key));
  EXPECT_TRUE(fails_with(locker().lock(whole), errc::invalid_key));
  EXPECT_TRUE(fails_with(asker->lock({"tenant", ""}), errc::invalid_key));
  EXPECT_TRUE(fails_with(asker->try_lock({"ten:ant"}), errc::invalid_key));
  EXPECT_EQ(locker().stats().acquired, 0u);
}

TEST_P(Exclusion, readers_share_and_keep_writers_out) {
  if (!shared_or_unsupported()) return;
  const auto one = session();
  const auto two = session();
  const auto three = session_of(other_party());
  auto first = one->try_lock(key(), Mode::shared);
  auto second = two->try_lock(key(), Mode::shared);
  auto third = three->try_lock(key(), Mode::shared);
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  ASSERT_TRUE(succeeds(third));
  EXPECT_EQ(first->mode(), Mode::shared);
  const auto writer = session();
  EXPECT_TRUE(fails_with(writer->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds(first->release()));
  EXPECT_TRUE(succeeds(second->release()));
  EXPECT_TRUE(fails_with(writer->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds(third->release()));
  EXPECT_TRUE(succeeds(writer->lock(key(), {.timeout = kPatience})));
}

TEST_P(Exclusion, a_writer_keeps_readers_out) {
  if (!shared_or_unsupported()) return;
  const auto writer = session();
  auto held = writer->try_lock(key());
  ASSERT_TRUE(succeeds(held));
  const auto near = session();
  const auto far = session_of(other_party());
  EXPECT_TRUE(fails_with(near->try_lock(key(), Mode::shared), errc::not_acquired));
  EXPECT_TRUE(fails_with(far->try_lock(key(), Mode::shared), errc::not_acquired));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(near->lock(key(), {.mode = Mode::shared, .timeout = kPatience})));
  EXPECT_TRUE(succeeds(far->lock(key(), {.mode = Mode::shared, .timeout = kPatience})));
}

TEST_P(Exclusion, re_entry_is_counted) {
  const auto one = session();
  const auto two = session();
  auto outer = one->lock(key(), {.timeout = kPatience});
  auto inner = one->try_lock(key());
  ASSERT_TRUE(succeeds(outer));
  ASSERT_TRUE(succeeds(inner));
  EXPECT_EQ(locker().stats().reentries, 1u);
  EXPECT_TRUE(succeeds(outer->release()));
  EXPECT_TRUE(inner->held());
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds(inner->release()));
  EXPECT_TRUE(succeeds(two->lock(key(), {.timeout = kPatience})));
}

TEST_P(Exclusion, exclusive_covers_shared_within_a_session) {
  if (!shared_or_unsupported()) return;
  const auto one = session();
  const auto two = session_of(other_party());
  auto outer = one->lock(key(), {.timeout = kPatience});
  auto inner = one->try_lock(key(), Mode::shared);
  ASSERT_TRUE(succeeds(outer));
  ASSERT_TRUE(succeeds(inner));
  EXPECT_EQ(inner->mode(), Mode::shared);
  EXPECT_TRUE(fails_with(two->try_lock(key(), Mode::shared), errc::not_acquired));
  EXPECT_TRUE(succeeds(outer->release()));
  EXPECT_TRUE(fails_with(two->try_lock(key()), errc::not_acquired));
}

TEST_P(Exclusion, shared_to_exclusive_is_a_deadlock_at_once) {
  if (!shared_or_unsupported()) return;
  const auto one = session();
  auto held = one->lock(key(), {.mode = Mode::shared, .timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(fails_with(one->lock(key(), {.timeout = forever}), errc::deadlock));
  EXPECT_TRUE(fails_with(one->try_lock(key()), errc::deadlock));
  EXPECT_TRUE(held->held());
  EXPECT_EQ(locker().stats().deadlocks, 2u);
}

TEST_P(Exclusion, re_entry_jumps_the_queue) {
  const auto one = session();
  const auto two = session();
  auto outer = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(outer));
  auto waiter = lock_later(*two, key());
  ASSERT_TRUE(waiting(1));
  auto inner = one->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(inner));
  EXPECT_TRUE(succeeds(outer->release()));
  EXPECT_EQ(waiter.wait_for(0s), std::future_status::timeout);
  EXPECT_TRUE(succeeds(inner->release()));
  EXPECT_TRUE(succeeds(result_of(waiter)));
}

TEST_P(Exclusion, a_counter_loses_no_update) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 40;
  std::array<Locker*, 2> parties{&locker(), &other_party()};
  // Atomic so that a broken backend fails the test, not the sanitizer; read and written apart, so updates can be lost.
  std::atomic<int> counter{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session_of(*parties[static_cast<std::size_t>(i) % 2]);
      for (int round = 0; round < kRounds; ++round) {
        auto held = own->lock(key(), {.timeout = kPatience});
        ASSERT_TRUE(succeeds(held));
        const int before = counter.load();
        std::this_thread::yield();
        counter.store(before + 1);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(counter, kThreads * kRounds);
}

TEST_P(Exclusion, readers_and_writers_never_meet) {
  if (!shared_or_unsupported()) return;
  std::array<Locker*, 2> parties{&locker(), &other_party()};
  std::atomic<int> readers{0};
  std::atomic<int> writers{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto own = session_of(*parties[static_cast<std::size_t>(i) % 2]);
      for (int round = 0; round < 30; ++round) {
        const bool writes = (round + i) % 3 == 0;
        auto held = own->lock(key(), {.mode = writes ? Mode::exclusive : Mode::shared, .timeout = kPatience});
        ASSERT_TRUE(succeeds(held));
        (writes ? writers : readers).fetch_add(1);
        EXPECT_LE(writers, 1);
        EXPECT_TRUE(writers == 0 || readers == 0);
        std::this_thread::yield();
        (writes ? writers : readers).fetch_sub(1);
      }
    });
  }
}

}  // namespace lockr::testing
