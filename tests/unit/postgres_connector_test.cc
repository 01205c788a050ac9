// The thread that connects anew what has gone down.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "backends/postgres/connector.h"
#include "lockr/spi/runtime.h"
#include "tests/support/eventually.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::eventually;

TEST(PostgresConnector, tries_until_it_is_up_and_no_more) {
  std::atomic<int> attempts{0};
  Connector connector(spi::system_runtime(), [&](std::uint16_t link, int) {
    EXPECT_EQ(link, 3);
    return ++attempts == 3;
  });
  connector.want(3);
  EXPECT_EQ(attempts, 0) << "it has not been started";
  connector.start();
  EXPECT_TRUE(eventually([&] { return attempts == 3; }));
  connector.want(3);
  EXPECT_TRUE(eventually([&] { return attempts >= 4; })) << "wanted again";
}

TEST(PostgresConnector, a_link_that_goes_down_as_soon_as_it_is_up_is_wanted_again) {
  std::atomic<int> attempts{0};
  Connector* self = nullptr;
  Connector connector(spi::system_runtime(), [&](std::uint16_t link, int) {
    if (++attempts == 1) self->want(link);  // It was up, and ended before this returns.
    return true;
  });
  self = &connector;
  connector.want(0);
  connector.start();
  EXPECT_TRUE(eventually([&] { return attempts == 2; }));
}

TEST(PostgresConnector, others_are_tried_while_one_can_not_be_had) {
  std::atomic<int> hopeless{0};
  std::atomic<bool> other{false};
  Connector connector(spi::system_runtime(), [&](std::uint16_t link, int) {
    if (link == 1) return other = true;
    ++hopeless;
    return false;
  });
  connector.want(0);
  connector.start();
  ASSERT_TRUE(eventually([&] { return hopeless >= 3; }));
  connector.want(1);
  EXPECT_TRUE(eventually([&] { return other.load(); }));
}

/// Time stands still, so that no pause ever ends by itself.
class StillClock final : public spi::Runtime {
 public:
  spi::Time steady_now() noexcept override { return 1s; }
  spi::Time boot_now() noexcept override { return 1s; }
  spi::Time wall_now() noexcept override { return 1s; }
  void park(std::atomic<std::uint32_t>&, std::uint32_t, spi::Time) noexcept override {}
  void wake(const void*) noexcept override {}
  void park_among(std::atomic<std::uint32_t>&, std::uint32_t, std::uint32_t, spi::Time) noexcept override {}
  void wake_among(const void*, std::uint32_t) noexcept override {}
  std::uint64_t random() noexcept override { return 0; }
  std::unique_ptr<Thread> start(const char* name, std::function<void()> body) override {
    return spi::system_runtime().start(name, std::move(body));
  }
};

TEST(PostgresConnector, nobody_sits_out_a_pause_once_the_server_is_there_again) {
  StillClock clock;
  std::array<std::atomic<int>, 4> attempts{};
  Connector connector(clock, [&](std::uint16_t link, int) { return ++attempts[link] == 2 || link == 3; });
  for (const std::uint16_t link : {0, 1, 2}) connector.want(link);
  connector.start();
  ASSERT_TRUE(eventually([&] { return attempts[0] == 1 && attempts[1] == 1 && attempts[2] == 1; }));
  connector.want(3);
  EXPECT_TRUE(eventually([&] { return attempts[0] == 2 && attempts[1] == 2 && attempts[2] == 2; }));
}

}  // namespace
}  // namespace lockr::postgres
