// ShortMutex: a mutex for a few dozen instructions, four bytes wide, so that what it guards fits beside it in one cache
// line. Satisfies BasicLockable. Not fair, not recursive.
#pragma once

#include <atomic>
#include <cstdint>

namespace lockr::core {

class ShortMutex {
 public:
  void lock() noexcept {
    tell(Moment::before_lock);
    std::uint32_t state = kFree;
    if (!state_.compare_exchange_strong(state, kHeld, std::memory_order_acquire)) [[unlikely]]
      lock_contended();
  }
  void unlock() noexcept {
    if (state_.exchange(kFree, std::memory_order_release) == kAwaited) [[unlikely]]
      wake_one();
    tell(Moment::after_unlock);
  }
  bool locked() const noexcept { return state_.load(std::memory_order_relaxed) != kFree; }

  /// Where a simulator changes threads, and a test counts. Null but in tests.
  enum class Moment : bool { before_lock, after_unlock };
  static inline std::atomic<void (*)(const ShortMutex& mutex, Moment moment)> listener{nullptr};

 private:
  enum : std::uint32_t { kFree, kHeld, kAwaited };

  void tell(Moment moment) const noexcept {
    if (auto* call = listener.load(std::memory_order_relaxed)) [[unlikely]]
      call(*this, moment);
  }
  void lock_contended() noexcept;
  void wake_one() noexcept;

  std::atomic<std::uint32_t> state_{kFree};
};

}  // namespace lockr::core
