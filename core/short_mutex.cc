#include "core/short_mutex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockr/spi/runtime.h"

namespace lockr::core {
namespace {

// About what it costs to sleep and be woken; the holder is mostly done long before.
constexpr int kSpins = 40;

}  // namespace

// The mutex of U. Drepper, "Futexes Are Tricky" (2011), section 6: whoever may have left a sleeper behind says so.
void ShortMutex::lock_contended() noexcept {
  for (int i = 0; i < kSpins; ++i) {
    spi::pause_briefly();
    std::uint32_t state = kFree;
    if (state_.load(std::memory_order_relaxed) == kFree &&
        state_.compare_exchange_strong(state, kHeld, std::memory_order_acquire)) {
      return;
    }
  }
  while (state_.exchange(kAwaited, std::memory_order_acquire) != kFree) {
    syscall(SYS_futex, &state_, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, kAwaited, nullptr);
  }
}

void ShortMutex::wake_one() noexcept { syscall(SYS_futex, &state_, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1); }

}  // namespace lockr::core
