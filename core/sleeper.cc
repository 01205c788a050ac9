#include "core/sleeper.h"

namespace lockr::core {

void Wakes::add(const Wake& wake, spi::Runtime& runtime) noexcept {
  for (std::uint32_t i = 0; wake.bell && i < count_; ++i) {
    if (all_[i].bell != wake.bell) continue;
    all_[i].bits |= wake.bits;
    return;
  }
  if (count_ == all_.size()) {
    wake.carry_out(runtime);
  } else {
    all_[count_++] = wake;
  }
}

// Whoever sees kAtBell rings after that, and so after `seen` was read: the ring is not missed.
void Sleeper::park_together(spi::Runtime& runtime, spi::Time until) noexcept {
  if (!bell_) return park(runtime, until);
  const std::uint32_t seen = bell_->rings();
  if (!change(kQueued, kAtBell)) return;
  bell_->park(runtime, seen, bits_, until);
  change(kAtBell, kQueued);
}

Wake Sleeper::set(State state) noexcept {
  std::uint32_t was = word_.load(std::memory_order_acquire);
  for (;;) {
    const Wake wake = whom(was);  // Before the word says so: the sleeper may be gone then.
    if (word_.compare_exchange_weak(was, state, std::memory_order_acq_rel, std::memory_order_acquire)) return wake;
  }
}

Wake Sleeper::nudge() noexcept {
  std::uint32_t was = word_.load(std::memory_order_acquire);
  while (was < kNudged) {
    const Wake wake = whom(was);  // Before the word says so: the sleeper may be gone then.
    if (word_.compare_exchange_weak(was, kNudged, std::memory_order_acq_rel, std::memory_order_acquire)) return wake;
  }
  return {};
}

}  // namespace lockr::core
