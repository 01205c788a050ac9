// A lock whose validity runs out while the service thread is held up, as on a machine that is busy or was paused.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "lockr/lockr.h"
#include "lockr/spi/backend.h"
#include "tests/support/eventually.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using spi::Request;
using testing::eventually;

constexpr spi::Seat kSeat{.link = 0, .life = 1};

/// Grants everything, for a short while. Its service thread comes to nothing between hold_up() and go_on(), and then
/// hears first of all that the engine has answered.
class LateEngine final : public spi::Backend {
 public:
  LateEngine() {
    traits_.seats = 1;
    last = this;
  }

  Status open(spi::Sink& sink, spi::Time) noexcept override {
    sink_ = &sink;
    return {};
  }
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t, std::span<Request* const> batch) noexcept override {
    for (Request* request : batch) {
      const bool take = request->op == spi::Op::take;
      request->seat = kSeat;
      request->valid_until = boot_now() + 50ms;
      request->answer = take ? spi::Answer::granted : spi::Answer::released;
      if (!take) ++given_back;
      sink_->done(*request);
    }
  }
  void pump(spi::Time until) noexcept override {
    std::unique_lock lock(mutex_);
    if (held_up_) {
      arrived_ = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return !held_up_; });
      sink_->alive(kSeat, boot_now() + 1h);
    } else if (!woken_) {
      const spi::Time left = until - std::chrono::steady_clock::now().time_since_epoch();
      changed_.wait_for(lock, std::min<spi::Time>(left, 1s));
    }
    woken_ = false;
  }
  void wake() noexcept override {
    std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  }
  Result<std::vector<Holder>> inspect(const Key*, spi::Time) noexcept override { return {}; }
  void close(spi::Time) noexcept override {}
  void forked() noexcept override {}

  void hold_up() {
    std::unique_lock lock(mutex_);
    held_up_ = woken_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return arrived_; });
  }
  void go_on() {
    std::lock_guard lock(mutex_);
    held_up_ = false;
    changed_.notify_all();
  }

  std::atomic<int> given_back{0};
  static inline LateEngine* last = nullptr;

 private:
  static spi::Time boot_now() { return BootClock::now().time_since_epoch(); }

  spi::Traits traits_;
  spi::Sink* sink_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_up_ = false;  // Guarded by mutex_, as are the next.
  bool arrived_ = false;
  bool woken_ = false;
};

constexpr spi::BackendInfo kLate{
    .name = "late",
    .schemes = nullptr,
    .summary = "",
    .schema = "{}",
    .create = [](const spi::OpenContext&) -> Result<std::unique_ptr<spi::Backend>> {
      return std::make_unique<LateEngine>();
    },
};

class Validity : public ::testing::Test {
 protected:
  Validity() {
    Registry registry;
    EXPECT_TRUE(registry.add(kLate));
    locker_ = registry.open(LockerConfig::from_json(R"({"backend": "late", "late": {}})").value()).value();
    engine_ = LateEngine::last;
    engine_->hold_up();
  }
  ~Validity() override { engine_->go_on(); }

  std::unique_ptr<Locker> locker_;
  LateEngine* engine_ = nullptr;
};

TEST_F(Validity, what_was_told_to_be_lost_is_not_revived_by_a_late_answer) {
  auto held = locker_->lock(Key::parse("key").value());
  ASSERT_TRUE(held);
  ASSERT_TRUE(eventually([&] { return held->lost(); }, 60s));
  EXPECT_EQ(engine_->given_back, 0) << "asking sends nothing";
  engine_->go_on();
  EXPECT_TRUE(eventually([&] { return engine_->given_back == 1; }, 60s)) << "the engine still holds it";
  EXPECT_TRUE(held->lost());
  EXPECT_FALSE(held->held());
  EXPECT_EQ(held->release().error().code(), errc::lock_lost);
}

TEST_F(Validity, a_late_answer_keeps_what_nobody_was_told_to_be_lost) {
  auto held = locker_->lock(Key::parse("key").value());
  ASSERT_TRUE(held);
  const auto until = *held->valid_until();
  ASSERT_TRUE(eventually([&] { return BootClock::now() > until; }, 60s));
  engine_->go_on();
  ASSERT_TRUE(eventually([&] { return held->valid_until() > until; }, 60s));
  EXPECT_TRUE(held->held());
  EXPECT_FALSE(held->lost());
  EXPECT_TRUE(held->release());
}

}  // namespace
}  // namespace lockr
