// The wall clock of a Redis server is set while locks are held: what the backend's README says of that, and no more.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "lockr/lockr.h"
#include "tests/support/heart.h"
#include "tests/support/redis_server.h"

namespace lockr::redis {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class RedisClock : public ::testing::Test {
 protected:
  std::unique_ptr<Locker> open() {
    auto locker = lockr::open(LockerConfig::from_url(server_.url("?ttl=3s")).value());
    EXPECT_TRUE(locker) << locker.error().to_string();
    return *std::move(locker);
  }
  std::chrono::seconds server_time() {
    return std::chrono::seconds(std::stoll(testing::RedisClient(server_.socket()).one({"TIME"})));
  }

  testing::ServerClock clock_;
  testing::RedisServer server_{{}, clock_.command()};
  const Key key_ = Key::parse("some:key").value();
};

TEST_F(RedisClock, set_forward_ends_leases_early_which_is_told_and_fenced) {
  const auto one = open();
  const auto two = open();
  const auto held = one->lock(key_);
  ASSERT_TRUE(held);
  const auto before = server_time();
  clock_.set(1min);
  ASSERT_GE(server_time(), before + 1min);
  const testing::Heart heart;
  const auto start = Clock::now();
  const auto next = two->lock(key_, {.timeout = 20s});
  ASSERT_TRUE(next) << next.error().to_string();
  EXPECT_GT(next->fencing_token().value(), held->fencing_token().value());
  const auto bound = one->capabilities().loss;
  while (!held->lost() && Clock::now() < start + bound + heart.slack()) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(held->lost());
  EXPECT_FALSE(held->held());
  EXPECT_TRUE(next->held());
}

TEST_F(RedisClock, set_back_takes_nothing_from_the_living) {
  const auto one = open();
  const auto two = open();
  auto held = one->lock(key_);
  ASSERT_TRUE(held);
  const auto before = server_time();
  clock_.set(-1h);
  ASSERT_LE(server_time(), before - 59min);
  const auto first_end = *held->valid_until();
  while (BootClock::now() < first_end) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(held->held()) << "it was not renewed";
  EXPECT_LE(std::stoll(testing::RedisClient(server_.socket()).one({"PTTL", "lockr:l:some:key"})), 3000)
      << "what is renewed ends when it should";
  EXPECT_FALSE(two->try_lock(key_));
  const std::uint64_t token = held->fencing_token().value();
  EXPECT_TRUE(held->release());
  const auto next = two->lock(key_, {.timeout = 20s});
  ASSERT_TRUE(next) << next.error().to_string();
  EXPECT_GT(next->fencing_token().value(), token);
}

}  // namespace
}  // namespace lockr::redis
