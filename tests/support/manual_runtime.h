// ManualRuntime: time that stands still until somebody sleeps. For tests of one part on one thread.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>

#include "lockr/spi/runtime.h"

namespace lockr::testing {

/// park() moves the clocks to the moment it was to sleep until; a sleep without end is a fault of the test and ends it.
class ManualRuntime final : public spi::Runtime {
 public:
  spi::Time steady_now() noexcept override { return now_; }
  spi::Time boot_now() noexcept override { return now_ + suspended_; }
  spi::Time wall_now() noexcept override { return std::chrono::hours(24 * 365 * 50) + now_; }

  void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, spi::Time until) noexcept override {
    if (word.load() != expected) return;
    if (until == spi::kNever) {
      std::fputs("ManualRuntime: nothing would ever end this sleep\n", stderr);
      std::abort();
    }
    now_ = std::max(now_, until);
  }
  void wake(const void* /*word*/) noexcept override {}
  void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t /*bits*/,
                  spi::Time until) noexcept override {
    park(word, expected, until);
  }
  void wake_among(const void* /*word*/, std::uint32_t /*bits*/) noexcept override {}
  std::uint64_t random() noexcept override { return seed_ = seed_ * 6364136223846793005u + 1442695040888963407u; }
  std::unique_ptr<Thread> start(const char* /*name*/, std::function<void()> /*body*/) override { return nullptr; }

  void advance(spi::Time span) { now_ += span; }
  /// The machine sleeps: only the boot clock runs.
  void suspend(spi::Time span) { suspended_ += span; }

 private:
  spi::Time now_ = std::chrono::seconds(1000);
  spi::Time suspended_{0};
  std::uint64_t seed_ = 1;
};

}  // namespace lockr::testing
