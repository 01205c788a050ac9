// The stack of a fiber, and what sanitizers want to hear when a thread goes from one stack to another.
#pragma once

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define LOCKR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOCKR_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define LOCKR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LOCKR_TSAN 1
#endif
#endif

#ifdef LOCKR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef LOCKR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace lockr::testing {

/// Memory with an unmapped page before it.
class FiberStack {
 public:
  static constexpr std::size_t kSize = 512 * 1024;

  FiberStack() : guard_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory = mmap(nullptr, guard_ + kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + guard_, kSize, PROT_READ | PROT_WRITE) != 0) {
      std::perror("no memory for a fiber's stack");
      std::abort();
    }
    memory_ = static_cast<char*>(memory);
#ifdef LOCKR_ASAN
    __asan_unpoison_memory_region(bottom(), kSize);  // What a former user of the address left behind.
#endif
  }
  FiberStack(const FiberStack&) = delete;
  FiberStack& operator=(const FiberStack&) = delete;
  ~FiberStack() { munmap(memory_, guard_ + kSize); }

  void* bottom() const { return memory_ + guard_; }

 private:
  const std::size_t guard_;
  char* memory_ = nullptr;
};

/// One side of a switch. Call leave() of the old and of the new fiber's right before it, arrive() right after.
class Switching {
 public:
  /// Of the thread's own stack.
  Switching() {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom_, &size_);
    pthread_attr_destroy(&attributes);
#ifdef LOCKR_TSAN
    fiber_ = __tsan_get_current_fiber();
#endif
  }
  explicit Switching(const FiberStack& stack) : bottom_(stack.bottom()), size_(FiberStack::kSize), own_(true) {
#ifdef LOCKR_TSAN
    fiber_ = __tsan_create_fiber(0);
#endif
  }
  Switching(const Switching&) = delete;
  Switching& operator=(const Switching&) = delete;
  ~Switching() {
#ifdef LOCKR_TSAN
    if (own_) __tsan_destroy_fiber(fiber_);
#endif
  }

  void leave([[maybe_unused]] const Switching& to, [[maybe_unused]] bool for_good) {
#ifdef LOCKR_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, to.bottom_, to.size_);
#endif
#ifdef LOCKR_TSAN
    __tsan_switch_to_fiber(to.fiber_, 0);
#endif
  }
  void arrive() {
#ifdef LOCKR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

 private:
  void* bottom_ = nullptr;
  std::size_t size_ = 0;
  [[maybe_unused]] const bool own_ = false;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* fiber_ = nullptr;
};

}  // namespace lockr::testing
