// What a machine is late by, measured while a promised bound runs.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace lockr::testing {

/// A thread that only sleeps, and counts by how much it wakes up late: nobody's bound runs meanwhile.
class Heart {
 public:
  Heart() : thread_([this](const std::stop_token& over) { beat(over); }) {}

  /// What a bound that began with this heart is longer by: all that it was late, and a while for threads and servers
  /// that have more to do than to sleep.
  std::chrono::nanoseconds slack() const { return std::chrono::seconds(3) + 3 * std::chrono::nanoseconds(late_); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kBeat{1};

  void beat(const std::stop_token& over) {
    for (auto due = Clock::now() + kBeat; !over.stop_requested(); due = Clock::now() + kBeat) {
      std::this_thread::sleep_until(due);
      const std::chrono::nanoseconds late = Clock::now() - due;
      if (late > kBeat) late_ += late.count();
    }
  }

  std::atomic<std::chrono::nanoseconds::rep> late_{0};
  std::jthread thread_;
};

}  // namespace lockr::testing
