// Many threads that do the same for a while.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace lockr::bench {

struct Crowd {
  double cycles_per_s = 0;
  double worst_share = 0;  ///< The worst thread's part of a fair share.
};

/// Runs `make_cycle(i)()` over and over on `size` threads for `span`.
template <class MakeCycle>
Crowd run_crowd(std::size_t size, std::chrono::milliseconds span, MakeCycle make_cycle) {
  std::vector<std::uint64_t> counts(size);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < size; ++i) {
    threads.emplace_back([&, i] {
      auto cycle = make_cycle(i);
      std::uint64_t count = 0;
      for (; !stop.load(std::memory_order_relaxed); ++count) cycle();
      counts[i] = count;
    });
  }
  std::this_thread::sleep_for(span);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::uint64_t sum = 0;
  for (const std::uint64_t count : counts) sum += count;
  const auto worst = static_cast<double>(*std::min_element(counts.begin(), counts.end()));
  return {static_cast<double>(sum) / took.count(),
          sum == 0 ? 0 : worst * static_cast<double>(size) / static_cast<double>(sum)};
}

}  // namespace lockr::bench
