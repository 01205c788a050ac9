#include "core/lanes.h"

#include <utility>

#include "core/engine.h"

namespace lockr::core {

namespace {

// How many requests, from this one on, may not be torn apart.
std::size_t together(const spi::Request& first) noexcept {
  std::size_t count = 1;
  if (first.group == 0) return count;
  for (const spi::Request* each = first.next; each && each->group == first.group; each = each->next) ++count;
  return count;
}

}  // namespace

std::uint64_t Lane::add(spi::Request& first, spi::Request& last) {
  std::lock_guard lock(mutex_);
  last.next = nullptr;
  *tail_ = &first;
  tail_ = &last.next;
  for (spi::Request* each = &first; each; each = each->next) {
    ++added_;
    if (each->op == spi::Op::give_back && each->seat.link == link_) {
      static_cast<Entry*>(each->owner)->hold->give_queued.store(true, std::memory_order_release);
    }
  }
  return added_;
}

bool Lane::advance(std::uint64_t ticket, Follower& follower, Effects& next) {
  std::unique_lock lock(mutex_);
  if (sent_ >= ticket) return true;
  if (!driven_) {
    drive(lock, ticket, true, next);
    return true;
  }
  follower.lane = this;
  follower.ticket = ticket;
  follower.prev = nullptr;
  follower.next = followers_;
  if (followers_) followers_->prev = &follower;
  followers_ = &follower;
  return false;
}

void Lane::follow_up(Follower& follower, Effects& next) {
  std::unique_lock lock(mutex_);
  if (sent_ < follower.ticket) {
    if (driven_) return;
    unlink(follower);
    drive(lock, follower.ticket, true, next);
  } else {
    unlink(follower);
  }
}

void Lane::unfollow(Follower& follower) {
  std::unique_lock lock(mutex_);
  unlink(follower);
  // It may have been the one that the lane was passed on to.
  if (!driven_ && head_) pass_on();
}

void Lane::serve(Effects& next) {
  std::unique_lock lock(mutex_);
  if (driven_) {
    noticed_ = true;
    return;
  }
  if (head_) drive(lock, added_, false, next);
  if (!deferred_ || driven_) return;
  driven_ = true;
  lock.unlock();
  const bool all = engine_.exchange(link_, {}, runtime_.steady_now(), next);
  lock.lock();
  driven_ = false;
  deferred_ = !all;
  pass_on();
}

// Drives until everything up to the ticket is sent. The lock is held on entry and on return.
void Lane::drive(std::unique_lock<std::mutex>& lock, std::uint64_t ticket, bool receives, Effects& next) {
  driven_ = true;
  while (sent_ < ticket) round(lock, receives, next);
  driven_ = false;
  // The backend tells once that answers arrived; it was while we drove.
  if (std::exchange(noticed_, false) && deferred_) engine_.backend()->wake();
  pass_on();
}

// One batch: sends it, and receives the answers if someone waits for one of them and the driver may.
void Lane::round(std::unique_lock<std::mutex>& lock, bool receives, Effects& next) {
  batch_.clear();
  bool awaited = false;
  while (head_) {
    const std::size_t size = together(*head_);
    if (!batch_.empty() && batch_.size() + size > engine_.backend()->traits().batch) break;
    for (std::size_t i = 0; i < size; ++i) {
      spi::Request* request = std::exchange(head_, head_->next);
      awaited |= receives && !request->quiet;
      batch_.push_back(request);
    }
  }
  if (!head_) tail_ = &head_;
  const std::uint64_t count = batch_.size();
  lock.unlock();
  const Time until = awaited ? runtime_.steady_now() + engine_.reply_timeout() : Time{0};
  const bool all = engine_.exchange(link_, batch_, until, next);
  batches_.fetch_add(1, std::memory_order_relaxed);
  lock.lock();
  deferred_ = !all;
  sent_ += count;
  for (Follower *each = followers_, *after = nullptr; each; each = after) {
    after = each->next;
    if (each->until_sent && each->ticket <= sent_) nudge(*each);
  }
}

// Wakes one whose request is still queued; the service thread looks after a queue that nobody follows.
void Lane::pass_on() {
  if (!head_) return;
  Follower* first = nullptr;
  for (Follower* each = followers_; each; each = each->next) {
    if (each->ticket > sent_ && (!first || each->ticket < first->ticket)) first = each;
  }
  if (first) {
    nudge(*first);
  } else {
    engine_.backend()->wake();
  }
}

void Lane::unlink(Follower& follower) noexcept {
  (follower.prev ? follower.prev->next : followers_) = follower.next;
  if (follower.next) follower.next->prev = follower.prev;
  follower.lane = nullptr;
}

void Lane::nudge(Follower& follower) noexcept {
  std::uint32_t queued = Waiter::kQueued;
  follower.word->compare_exchange_strong(queued, Waiter::kNudged, std::memory_order_release);
  runtime_.wake(follower.word);
}

}  // namespace lockr::core
