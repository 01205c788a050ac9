#include "core/fork.h"

#include <pthread.h>

#include <mutex>

namespace lockr::core {

std::atomic<std::uint32_t> fork_generation{0};

// Every ForkAware of the process. The mutex is held across fork(), so that the child sees whole links.
struct ForkList {
  static std::mutex mutex;
  static ForkAware* first;

  static void before() {
    mutex.lock();
    for (ForkAware* each = first; each; each = each->next_) each->before_fork();
  }
  static void in_parent() {
    for (ForkAware* each = first; each; each = each->next_) each->after_fork();
    mutex.unlock();
  }
  static void in_child() {
    fork_generation.fetch_add(1, std::memory_order_relaxed);
    for (ForkAware* each = first; each; each = each->next_) each->forked();
    first = nullptr;
    mutex.unlock();
  }

  static void add(ForkAware& one) {
    static const int registered = pthread_atfork(before, in_parent, in_child);
    static_cast<void>(registered);
    std::lock_guard lock(mutex);
    one.next_ = first;
    if (first) first->prev_ = &one;
    first = &one;
  }
  static void remove(ForkAware& one) {
    if (one.in_child()) return;
    std::lock_guard lock(mutex);
    (one.prev_ ? one.prev_->next_ : first) = one.next_;
    if (one.next_) one.next_->prev_ = one.prev_;
  }
};

std::mutex ForkList::mutex;
ForkAware* ForkList::first = nullptr;

ForkAware::ForkAware() : generation_(fork_generation.load(std::memory_order_relaxed)) {}

void ForkAware::watch_forks() { ForkList::add(*this); }

void ForkAware::ignore_forks() { ForkList::remove(*this); }

}  // namespace lockr::core
