#include "backends/postgres/waiters.h"

#include <algorithm>

namespace lockr::postgres {
namespace {

constexpr Time kSlice = std::chrono::milliseconds(750);
constexpr Time kLongestSlice = std::chrono::seconds(10);
constexpr Time kPoll = std::chrono::milliseconds(20);
// So many keys are remembered; then all are forgotten, and start with short slices again.
constexpr std::size_t kRemembered = 10'000;

}  // namespace

Time Waiters::slice_for(std::uint64_t identity) {
  std::lock_guard lock(mutex_);
  const auto found = slices_.find(identity);
  return found == slices_.end() ? kSlice : found->second.length;
}

bool Waiters::start(Request& request) {
  const Time slice = slice_for(request.identity);
  for (const auto& link : links_) {
    if (link->start_wait(request, slice)) return true;
  }
  turned_away_.store(true, std::memory_order_relaxed);
  return false;
}

void Waiters::stop(const Request& request) {
  {
    std::lock_guard lock(mutex_);
    slices_.erase(request.identity);
  }
  for (const auto& link : links_) {
    if (link->stop_wait(request)) return;
  }
}

void Waiters::slice_over(Request& request, std::int64_t holder) {
  {
    std::lock_guard lock(mutex_);
    if (slices_.size() >= kRemembered) slices_.clear();
    Slice& slice = slices_.try_emplace(request.identity, Slice{kSlice, 0}).first->second;
    if (slice.holder != 0 && holder != slice.holder) slice.length = std::min(2 * slice.length, kLongestSlice);
    slice.holder = holder;
  }
  // Others had to poll: this one does now, and the next of them to be refused finds the waiter free.
  const bool polls = turned_away_.exchange(false, std::memory_order_relaxed);
  const Time jitter(runtime_.random() % static_cast<std::uint64_t>(kPoll.count()));
  request.ask_again = polls ? runtime_.steady_now() + kPoll / 2 + jitter : Time{0};
}

}  // namespace lockr::postgres
