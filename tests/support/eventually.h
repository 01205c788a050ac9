// Waiting in tests: for a condition, with a deadline.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace lockr::testing {

/// Whether the condition came to hold within `patience`.
inline bool eventually(const std::function<bool()>& condition,
                       std::chrono::seconds patience = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace lockr::testing
