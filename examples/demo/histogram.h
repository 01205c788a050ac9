// How long waits took: counts in buckets a sixteenth of their value wide, which worker processes share with the demo.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>

namespace demo {

class Histogram {
 public:
  // One writer at a time.
  void add(std::chrono::nanoseconds duration) {
    const auto ns = static_cast<std::uint64_t>(duration.count());
    counts_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
    longest_.store(std::max(longest_.load(std::memory_order_relaxed), ns), std::memory_order_relaxed);
  }

  void add(const Histogram& other) {
    for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i].load();
    longest_ = std::max(longest_.load(), other.longest_.load());
  }

  std::chrono::nanoseconds longest() const { return std::chrono::nanoseconds(longest_.load()); }

  // The duration that `share` (0 to 1) of all are not longer than.
  std::chrono::nanoseconds percentile(double share) const {
    std::uint64_t total = 0;
    for (const auto& count : counts_) total += count.load();
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(total));
    std::uint64_t seen = 0;
    std::size_t bucket = 0;
    while (bucket + 1 < kBuckets && (seen += counts_[bucket].load()) < wanted) ++bucket;
    return std::min(std::chrono::nanoseconds(middle_of(bucket)), longest());
  }

 private:
  static constexpr int kBits = 4;
  static constexpr std::size_t kBuckets = (64 - kBits + 1) << kBits;

  static std::size_t bucket_of(std::uint64_t value) {
    if (value < 1U << kBits) return value;
    const int shift = std::bit_width(value) - kBits - 1;
    return (static_cast<std::size_t>(shift) << kBits) + (value >> shift);
  }
  static std::uint64_t middle_of(std::size_t bucket) {
    if (bucket < 2U << kBits) return bucket;
    const auto shift = (bucket >> kBits) - 1;
    const std::uint64_t first = ((bucket & ((1U << kBits) - 1)) + (1U << kBits)) << shift;
    return first + (std::uint64_t{1} << shift) / 2;
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> longest_{0};
};

}  // namespace demo
