// A locker's backend hears of forks from when it is whole until its destructor begins.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <span>

#include "lockr/lockr.h"
#include "lockr/spi/polling.h"

namespace lockr {
namespace {

std::atomic<int> heard{0};       // Calls of before_fork().
std::atomic<int> heard_late{0};  // Of a backend whose destructor had begun.

int fork_once() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

class EndingBackend final : public spi::PollingBackend {
 public:
  explicit EndingBackend(spi::Runtime& runtime) : PollingBackend(runtime, traits_of(), {}) {}
  ~EndingBackend() override {
    ending_ = true;
    EXPECT_EQ(fork_once(), 0);
  }
  void before_fork() noexcept override { ++(ending_ ? heard_late : heard); }

 private:
  static spi::Traits traits_of() {
    spi::Traits traits;
    traits.capabilities.backend = "ending";
    return traits;
  }
  void take(std::span<spi::Request* const> batch) override {
    for (spi::Request* each : batch) each->answer = spi::Answer::refused;
  }
  void give_back(std::span<spi::Request* const> batch) override {
    for (spi::Request* each : batch) each->answer = spi::Answer::not_held;
  }

  Status renew(std::span<Held> /*batch*/) override { return {}; }

  bool ending_ = false;
};

Result<std::unique_ptr<spi::Backend>> make_ending(const spi::OpenContext& context) {
  return std::make_unique<EndingBackend>(context.runtime);
}

constexpr spi::BackendInfo kEnding{.name = "ending", .summary = "ends", .schema = "{}", .create = make_ending};

TEST(ForkTest, a_backend_that_ends_hears_of_no_fork) {
  Registry registry;
  ASSERT_TRUE(registry.add(kEnding));
  {
    const auto locker = registry.open(LockerConfig::from_json(R"({"backend": "ending"})").value());
    ASSERT_TRUE(locker) << locker.error().to_string();
    EXPECT_EQ(fork_once(), 0);
    EXPECT_EQ(heard, 1);
  }
  EXPECT_EQ(heard, 1);
  EXPECT_EQ(heard_late, 0);
}

}  // namespace
}  // namespace lockr
