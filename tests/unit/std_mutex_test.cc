#include "lockr/std_mutex.h"

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "lockr/lockr.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;

class StdMutexTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Locker> open_memory() {
    return open(LockerConfig::from_json(R"({"backend": "memory", "acquire_timeout": "20ms"})").value()).value();
  }

  std::unique_ptr<Locker> locker_ = open_memory();
  std::unique_ptr<Session> one_ = locker_->open_session().value();
  std::unique_ptr<Session> two_ = locker_->open_session().value();
  const Key key_ = Key::parse("tenant:42").value();
  StdMutex mine_{*one_, key_};
  StdMutex other_{*two_, key_};
};

template <class Call>
std::error_code thrown_by(Call call) {
  try {
    call();
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

TEST_F(StdMutexTest, unique_lock_excludes_other_sessions) {
  {
    std::unique_lock lock(mine_);
    EXPECT_TRUE(mine_.held()->held());
    EXPECT_EQ(mine_.key(), key_);
    EXPECT_FALSE(other_.try_lock());
    EXPECT_FALSE(std::unique_lock(other_, 5ms));
    EXPECT_FALSE(std::unique_lock(other_, std::chrono::system_clock::now() + 5ms));
    EXPECT_EQ(other_.held(), nullptr);
  }
  EXPECT_EQ(mine_.held(), nullptr);
  EXPECT_TRUE(std::unique_lock(other_, std::try_to_lock));
}

TEST_F(StdMutexTest, a_time_that_nanoseconds_cannot_hold_is_past_or_for_ever) {
  using Hours = std::chrono::duration<std::int64_t, std::ratio<3600>>;
  const std::lock_guard lock(mine_);
  EXPECT_FALSE(other_.try_lock_for(Hours::min()));
  EXPECT_FALSE(other_.try_lock_until(std::chrono::time_point<std::chrono::system_clock, Hours>::min()));
  EXPECT_FALSE(other_.try_lock_until(std::chrono::steady_clock::time_point::min()));
  StdMutex far(*two_, Key::parse("far").value());
  EXPECT_TRUE(far.try_lock_for(Hours::max()));
  EXPECT_TRUE(far.try_lock_until(std::chrono::time_point<std::chrono::system_clock, Hours>::max()));
  EXPECT_TRUE(far.try_lock_until(std::chrono::steady_clock::time_point::max()));
}

TEST_F(StdMutexTest, shared_locks_share) {
  std::shared_lock lock(mine_);
  EXPECT_TRUE(std::shared_lock(other_, 5ms));
  EXPECT_TRUE(std::shared_lock(other_, std::chrono::steady_clock::now() + 5ms));
  EXPECT_TRUE(std::shared_lock(other_, std::try_to_lock));
  EXPECT_FALSE(other_.try_lock());
}

TEST_F(StdMutexTest, scoped_lock_takes_several) {
  StdMutex more(*one_, Key::parse("tenant:43").value());
  StdMutex more_of_other(*two_, more.key());
  std::scoped_lock lock(mine_, more);
  EXPECT_FALSE(more_of_other.try_lock());
}

TEST_F(StdMutexTest, locks_are_counted) {
  std::unique_lock outer(mine_);
  std::unique_lock inner(mine_);
  inner.unlock();
  EXPECT_FALSE(other_.try_lock());
  outer.unlock();
  EXPECT_TRUE(other_.try_lock());
  other_.unlock();
}

TEST_F(StdMutexTest, unlock_gives_back_in_the_mode_it_names) {
  mine_.lock();
  mine_.lock_shared();
  mine_.unlock();
  EXPECT_FALSE(other_.try_lock());
  EXPECT_TRUE(other_.try_lock_shared());
  other_.unlock_shared();
  mine_.unlock_shared();
  mine_.unlock();  // Nothing is left.
  EXPECT_TRUE(other_.try_lock());
}

TEST_F(StdMutexTest, a_time_that_nanoseconds_can_not_hold_is_for_ever) {
  auto held = one_->lock(key_).value();
  std::jthread waiter([&] { EXPECT_TRUE(other_.try_lock_for(std::chrono::hours::max())); });
  while (locker_->stats().waiting == 0) std::this_thread::yield();
  EXPECT_TRUE(held.release());
}

TEST_F(StdMutexTest, what_an_answer_can_not_say_is_thrown) {
  std::unique_lock lock(mine_);
  EXPECT_EQ(thrown_by([&] { other_.lock(); }), std::errc::timed_out);
  EXPECT_EQ(thrown_by([&] { other_.lock(); }), make_error_code(errc::timeout));
  lock.unlock();
  std::shared_lock reader(mine_);
  EXPECT_EQ(thrown_by([&] { mine_.lock(); }), make_error_code(errc::deadlock));
  reader.unlock();
  EXPECT_TRUE(two_->close());
  EXPECT_EQ(thrown_by([&] { other_.try_lock(); }), make_error_code(errc::session_closed));
  EXPECT_EQ(thrown_by([&] { other_.try_lock_for(1ms); }), make_error_code(errc::session_closed));
}

TEST_F(StdMutexTest, destroying_it_releases) {
  {
    StdMutex again(*one_, key_);
    again.lock();
    EXPECT_FALSE(other_.try_lock());
  }
  EXPECT_TRUE(other_.try_lock());
}

}  // namespace
}  // namespace lockr
