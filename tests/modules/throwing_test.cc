// What becomes of a backend that throws exceptions.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/modules/test_modules.h"
#include "tests/support/eventually.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using testing::eventually;

Result<std::unique_ptr<Locker>> open_throwing_in(const std::string& call, bool lanes = false) {
  return open(
      thrower_config(built("thrower"), R"("throw_in": ")" + call + R"(", "lanes": )" + (lanes ? "true" : "false")));
}

std::string sentence(const std::string& call) {
  return "the backend \"thrower\" threw an exception out of " + call.substr(0, call.find("_at_once")) +
         "(); tell its author";
}

TEST(Throwing, in_the_factory_is_incompatible) {
  const auto opened = open_throwing_in("create");
  EXPECT_TRUE(fails_with(errc::incompatible_plugin, "the backend \"thrower\" threw an exception instead of being made",
                         opened));
  EXPECT_EQ(opened.error().native(), "boom in create");
}

TEST(Throwing, in_open_is_a_failure) {
  const auto opened = open_throwing_in("open");
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence("open"), opened));
  EXPECT_EQ(opened.error().native(), "boom in open");
}

// A call that leaves unknown what the engine granted: with lanes and without.
class ThrowingRequest : public ::testing::TestWithParam<std::pair<const char*, bool>> {};

TEST_P(ThrowingRequest, loses_what_is_held_and_closes_the_backend) {
  const auto [call, lanes] = GetParam();
  const auto opened = open_throwing_in(call, lanes);
  ASSERT_TRUE(opened) << opened.error().to_string();
  Locker& locker = **opened;
  const auto other = open_throwing_in("nothing").value();
  auto held = locker.lock({"held"});
  ASSERT_TRUE(held);
  EXPECT_EQ(other->try_lock({"held"}).error().code(), errc::not_acquired);

  const auto boom = locker.try_lock({"boom"});
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence(call), boom));
  EXPECT_EQ(boom.error().native(),
            call == std::string("collect") ? "an exception that is no std::exception" : std::string("boom in ") + call);
  EXPECT_TRUE(held->lost());
  EXPECT_EQ(held->release().error().code(), errc::lock_lost);
  EXPECT_TRUE(other->try_lock({"held"})) << "a backend that is closed holds nothing";
  EXPECT_EQ(locker.lock({"more"}, {.timeout = 10s}).error().code(), errc::backend_failure);
  EXPECT_TRUE(locker.close());
}

INSTANTIATE_TEST_SUITE_P(Throwing, ThrowingRequest,
                         ::testing::Values(std::pair("submit", false), std::pair("submit", true),
                                           std::pair("collect", true)),
                         [](const auto& one) {
                           return std::string(one.param.first) + (one.param.second ? "_with_lanes" : "");
                         });

// Calls that no caller waits for: the loss is announced all the same.
class ThrowingCall : public ::testing::TestWithParam<const char*> {};

TEST_P(ThrowingCall, loses_what_is_held) {
  const auto opened = open_throwing_in(GetParam());
  ASSERT_TRUE(opened) << opened.error().to_string();
  Locker& locker = **opened;
  const auto other = open_throwing_in("nothing").value();
  const auto taken = other->lock({"taken"});
  ASSERT_TRUE(taken);
  const auto held = locker.lock({"held"});
  ASSERT_TRUE(held);
  static_cast<void>(locker.lock({"boom"}));
  const auto waited = locker.lock({"taken"}, {.timeout = 50ms});
  EXPECT_FALSE(waited);
  static_cast<void>(locker.open_session().value()->lock({"held"}, {.timeout = 50ms}));  // A local waiter.
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence(GetParam()), locker.try_lock({"more"})));
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence(GetParam()), locker.inspect()));
  EXPECT_TRUE(other->lock({"held"}, {.timeout = 10s}));
  EXPECT_TRUE(locker.close());
}

INSTANTIATE_TEST_SUITE_P(Throwing, ThrowingCall,
                         ::testing::Values("start_wait", "stop_wait", "pump", "wake", "wake_at_once"),
                         [](const auto& one) { return std::string(one.param); });

TEST(Throwing, in_wanted_elsewhere_ends_the_hand_off) {
  std::mutex mutex;
  std::string lines;
  const auto log = [&](LogLevel, std::string_view line) {
    std::lock_guard lock(mutex);
    lines.append(line).append("\n");
  };
  const auto config =
      LockerConfig::from_json(R"({"backend": "thrower", "plugin": ")" + built("thrower") +
                              R"(", "limits": {"handoff": 0}, "thrower": {"throw_in": "wanted_elsewhere"}})")
          .value();
  auto locker = open(config, {.log = log}).value();
  const auto other = open_throwing_in("nothing").value();
  auto first = locker->lock({"boom"});
  ASSERT_TRUE(first);
  std::vector<std::thread> waiters;
  std::atomic<int> failed{0};
  for (int i = 0; i < 2; ++i) {
    waiters.emplace_back([&] {
      const auto held = locker->lock({"boom"}, {.timeout = 20s});
      if (!held && held.error().code() == errc::backend_failure) ++failed;
    });
  }
  EXPECT_TRUE(eventually([&] { return locker->stats().waiting == 2; }));
  static_cast<void>(first->release());
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_GE(failed, 1);
  EXPECT_TRUE(eventually([&] { return other->try_lock({"boom"}).has_value(); }));
  locker->close();
  EXPECT_NE(lines.find("(boom in wanted_elsewhere); it is closed\n"), std::string::npos) << lines;
}

TEST(Throwing, in_start_wait_ends_the_wait) {
  const auto locker = open_throwing_in("start_wait").value();
  const auto other = open_throwing_in("nothing").value();
  const auto taken = other->lock({"taken"});
  ASSERT_TRUE(taken);
  ASSERT_TRUE(locker->lock({"boom"}));
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence("start_wait"), locker->lock({"taken"}, {.timeout = 20s})));
}

TEST(Throwing, in_inspect_or_descriptors_fails_that_call_alone) {
  const auto locker = open_throwing_in("inspect").value();
  const auto held = locker->lock({"boom"});
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence("inspect"), locker->inspect()));
  EXPECT_TRUE(held->held());
  EXPECT_TRUE(locker->try_lock({"more"}));

  const auto second = open_throwing_in("descriptors").value();
  EXPECT_EQ(second->try_lock({"boom"}).error().code(), errc::not_acquired);
  const auto kept = second->lock({"kept"});
  ASSERT_TRUE(kept);
  EXPECT_TRUE(fails_with(errc::backend_failure, sentence("descriptors"), kept->descriptors()));
  EXPECT_TRUE(kept->held());
}

TEST(Throwing, in_close_is_told_to_the_log) {
  std::mutex mutex;
  std::string lines;
  const auto log = [&](LogLevel, std::string_view line) {
    std::lock_guard lock(mutex);
    lines.append(line).append("\n");
  };
  auto locker = open(thrower_config(built("thrower"), R"("throw_in": "close")"), {.log = log}).value();
  static_cast<void>(locker->try_lock({"boom"}));
  EXPECT_TRUE(locker->close());
  EXPECT_EQ(lines, "backend_failure: " + sentence("close") + " (boom in close)\n");
}

}  // namespace
}  // namespace lockr
