#include "lockr/releaser.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "lockr/locker.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

constexpr auto kEmptyReleaser = "this Releaser is empty: it holds no lock";

/// A grant that writes down what is asked of it.
class FakeGrant final : public Grant {
 public:
  FakeGrant(Key key, Mode mode, std::vector<std::string>& calls) : key_(std::move(key)), mode_(mode), calls_(calls) {}

  Status release() noexcept override {
    calls_.emplace_back("release");
    return fail(Error(errc::lock_lost));
  }
  bool held() const noexcept override { return true; }
  bool lost() const noexcept override { return true; }
  std::stop_token lost_token() override { return source_.get_token(); }
  std::optional<BootClock::time_point> valid_until() const noexcept override {
    return BootClock::time_point(std::chrono::seconds(9));
  }
  const Key& key() const noexcept override { return key_; }
  Mode mode() const noexcept override { return mode_; }
  Result<std::uint64_t> fencing_token() const override { return 77; }
  Result<std::vector<Descriptor>> descriptors() const override { return std::vector<Descriptor>(); }
  void dispose() noexcept override {
    calls_.emplace_back("dispose");
    delete this;
  }

 private:
  ~FakeGrant() = default;

  const Key key_;
  const Mode mode_;
  std::vector<std::string>& calls_;
  std::stop_source source_;
};

TEST(Releaser, an_empty_one_holds_nothing_and_says_so) {
  Releaser releaser;
  EXPECT_FALSE(releaser);
  EXPECT_TRUE(releaser.release());
  EXPECT_FALSE(releaser.held());
  EXPECT_FALSE(releaser.lost());
  EXPECT_FALSE(releaser.lost_token().stop_possible());
  EXPECT_EQ(releaser.valid_until(), std::nullopt);
  EXPECT_TRUE(releaser.key().empty());
  EXPECT_EQ(releaser.mode(), Mode::exclusive);
  EXPECT_TRUE(fails_with(errc::not_acquired, kEmptyReleaser, releaser.fencing_token()));
  EXPECT_TRUE(fails_with(errc::not_acquired, kEmptyReleaser, releaser.descriptors()));
  EXPECT_FALSE(releaser.fencing_token().error().retryable());
}

TEST(Releaser, asks_its_grant_and_disposes_of_it_once) {
  std::vector<std::string> calls;
  {
    Releaser first(new FakeGrant(Key::parse("a:b").value(), Mode::shared, calls));
    Releaser releaser = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
    EXPECT_TRUE(releaser);
    EXPECT_TRUE(releaser.held());
    EXPECT_TRUE(releaser.lost());
    EXPECT_TRUE(releaser.lost_token().stop_possible());
    EXPECT_EQ(releaser.valid_until()->time_since_epoch(), std::chrono::seconds(9));
    EXPECT_EQ(releaser.key().string(), "a:b");
    EXPECT_EQ(releaser.mode(), Mode::shared);
    EXPECT_EQ(releaser.fencing_token().value(), 77u);
    EXPECT_TRUE(releaser.descriptors().value().empty());
    EXPECT_EQ(releaser.release().error().code(), errc::lock_lost);
    EXPECT_EQ(calls, (std::vector<std::string>{"release"}));
  }
  EXPECT_EQ(calls, (std::vector<std::string>{"release", "dispose"}));
}

TEST(Releaser, assignment_disposes_of_the_old_grant) {
  std::vector<std::string> old_calls;
  std::vector<std::string> new_calls;
  Releaser releaser(new FakeGrant(Key::parse("old").value(), Mode::exclusive, old_calls));
  releaser = Releaser(new FakeGrant(Key::parse("new").value(), Mode::exclusive, new_calls));
  EXPECT_EQ(old_calls, (std::vector<std::string>{"dispose"}));
  EXPECT_TRUE(new_calls.empty());
  EXPECT_EQ(releaser.key().string(), "new");
}

TEST(Descriptor, closes_its_file_once) {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    Descriptor first(fd);
    const Descriptor descriptor = std::move(first);
    EXPECT_EQ(descriptor.get(), fd);
    EXPECT_EQ(first.get(), -1);  // NOLINT(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
    EXPECT_GE(fcntl(fd, F_GETFD), 0);
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

TEST(BootClock, is_never_behind_the_steady_clock) {
  const auto steady = std::chrono::steady_clock::now().time_since_epoch();
  const auto boot = BootClock::now().time_since_epoch();
  EXPECT_GE(boot, steady);
  EXPECT_GE(BootClock::now().time_since_epoch(), boot);
}

/// Grants whatever key it is asked for.
class FakeSession final : public Session {
 public:
  using Session::lock;
  using Session::try_lock;
  Result<Releaser> lock(const Key& key, const LockOptions& options) override {
    return Releaser(new FakeGrant(key, options.mode, calls_));
  }
  Result<Releaser> try_lock(const Key& key, Mode mode) override { return Releaser(new FakeGrant(key, mode, calls_)); }
  Result<std::vector<Releaser>> lock_all(std::span<const Key>, const LockOptions&) override {
    return std::vector<Releaser>();
  }
  Result<Releaser> try_lock_any(std::span<const Key>, Mode) override { return Releaser(); }
  Status close() override { return {}; }
  std::string_view label() const noexcept override { return ""; }

 private:
  std::vector<std::string> calls_;
};

class FakeLocker final : public Locker {
 public:
  using Locker::lock;
  using Locker::try_lock;
  Result<std::unique_ptr<Session>> open_session(SessionOptions) override { return std::make_unique<FakeSession>(); }
  Result<Releaser> lock(const Key& key, const LockOptions& options) override { return session_.lock(key, options); }
  Result<Releaser> try_lock(const Key& key, Mode mode) override { return session_.try_lock(key, mode); }
  Result<std::vector<Holder>> inspect(const Key*) override { return std::vector<Holder>(); }
  Stats stats() const override { return {}; }
  const Capabilities& capabilities() const noexcept override { return capabilities_; }
  Status close() override { return {}; }

 private:
  FakeSession session_;
  Capabilities capabilities_;
};

template <class T>
class ScopedLocking : public testing::Test {};
using Lockables = testing::Types<FakeSession, FakeLocker>;
TYPED_TEST_SUITE(ScopedLocking, Lockables);

TYPED_TEST(ScopedLocking, makes_the_key_of_its_scopes) {
  TypeParam lockable;
  const auto waited = lockable.lock({"tenant", "42"}, {.mode = Mode::shared});
  ASSERT_TRUE(waited);
  EXPECT_EQ(waited->key().string(), "tenant:42");
  EXPECT_EQ(waited->mode(), Mode::shared);
  const auto tried = lockable.try_lock({"tenant", "43"}, Mode::shared);
  ASSERT_TRUE(tried);
  EXPECT_EQ(tried->key().string(), "tenant:43");
  EXPECT_EQ(tried->mode(), Mode::shared);
}

TYPED_TEST(ScopedLocking, refuses_bad_scopes) {
  constexpr auto kMessage =
      "scope 1 of the key (counted from 0) contains ':', which separates scopes; split it or use another character";
  TypeParam lockable;
  EXPECT_TRUE(fails_with(errc::invalid_key, kMessage, lockable.lock({"tenant", "4:2"})));
  EXPECT_TRUE(fails_with(errc::invalid_key, kMessage, lockable.try_lock({"tenant", "4:2"})));
}

}  // namespace
}  // namespace lockr
