// ParkMutex: a mutex that sleeps in the injected Runtime, so that it may be held across calls that sleep there too.
// Served in order of arrival. Not recursive.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "lockr/spi/runtime.h"

namespace lockr::core {

class ParkMutex {
 public:
  explicit ParkMutex(spi::Runtime& runtime) noexcept : runtime_(runtime) {}
  ParkMutex(const ParkMutex&) = delete;
  ParkMutex& operator=(const ParkMutex&) = delete;

  void lock() {
    Waiter self;
    {
      std::lock_guard guard(guard_);
      if (!held_) {
        held_ = true;
        return;
      }
      (last_ ? last_->next : first_) = &self;
      last_ = &self;
    }
    while (self.mine.load(std::memory_order_acquire) == 0) runtime_.park(self.mine, 0, spi::kNever);
  }

  void unlock() {
    Waiter* heir = nullptr;
    {
      std::lock_guard guard(guard_);
      heir = first_;
      if (!heir) {
        held_ = false;
        return;
      }
      first_ = heir->next;
      if (!first_) last_ = nullptr;
    }
    std::atomic<std::uint32_t>& mine = heir->mine;
    mine.store(1, std::memory_order_release);
    runtime_.wake(&mine);  // By address: the heir may have left by now.
  }

 private:
  struct Waiter {
    std::atomic<std::uint32_t> mine{0};
    Waiter* next = nullptr;
  };

  spi::Runtime& runtime_;
  std::mutex guard_;  // Never held while parked.
  bool held_ = false;
  Waiter* first_ = nullptr;
  Waiter* last_ = nullptr;
};

}  // namespace lockr::core
