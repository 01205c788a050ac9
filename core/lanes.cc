#include "core/lanes.h"

#include <algorithm>
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
  Lock lock(mutex_);
  if (sent_ >= ticket) return true;
  if (!driven_) {
    drive(lock, ticket, follower.until, next);
    return true;
  }
  follower.sleeper->join(follower.until_sent ? sent_bell_ : answer_bell_);
  if (taken_ >= ticket && !follower.until_sent) return true;  // The driver has it: its answer comes by itself.
  follower.ticket = ticket;
  follower.prev = nullptr;
  follower.next = followers_;
  if (followers_) followers_->prev = &follower;
  followers_ = &follower;
  follower.lane.store(this, std::memory_order_relaxed);
  return false;
}

void Lane::follow_up(Follower& follower, Effects& next) {
  Lock lock(mutex_);
  if (!follower.lane.load(std::memory_order_relaxed) || driven_) return;
  unlink(follower);
  if (sent_ < follower.ticket) drive(lock, follower.ticket, follower.until, next);
}

void Lane::unfollow(Follower& follower) {
  Lock lock(mutex_);
  if (follower.lane.load(std::memory_order_relaxed)) unlink(follower);
  // It may have been the one that the lane was passed on to.
  if (!driven_) pass_on(lock);
}

void Lane::serve(Effects& next) {
  Lock lock(mutex_);
  if (driven_) {
    summoned_ = true;
    return;
  }
  if (head_) drive(lock, added_, Time{0}, next);
  if (!lock) lock.lock();
  if (!deferred_ || driven_) return;
  driven_ = true;
  lock.unlock();
  const bool all = engine_.collect(link_, runtime_.steady_now(), next);
  lock.lock();
  driven_ = false;
  deferred_ = !all;
  pass_on(lock);
}

// Drives until everything up to the ticket is sent, and receives until then at most (steady), reply_timeout in all. The
// lock is held on entry and not on return.
void Lane::drive(Lock& lock, std::uint64_t ticket, Time until, Effects& next) {
  driven_ = true;
  while (sent_ < ticket) until = round(lock, until, next);
  driven_ = false;
  // The backend tells once that answers arrived, which was while we drove; or it counts on us to receive them.
  if (std::exchange(summoned_, false) && deferred_) engine_.backend()->wake();
  pass_on(lock);
}

// One batch: sends it, and receives the answers if someone waits for one of them and the driver may. Returns until when
// it may receive those of the next.
Time Lane::round(Lock& lock, Time until, Effects& next) {
  const bool awaited = take_batch() && until > Time{0};
  lock.unlock();
  engine_.submit(link_, batch_, next);
  batches_.fetch_add(1, std::memory_order_relaxed);
  lock.lock();
  sent_ = taken_;
  let_go(lock);
  bool all = false;
  if (awaited) {
    lock.unlock();
    until = std::min(until, runtime_.steady_now() + engine_.reply_timeout());
    all = engine_.collect(link_, until, next);
    lock.lock();
    summoned_ |= !all;
  }
  deferred_ = !all;
  return until;
}

// True: someone waits for an answer to one of them. Who does needs to follow the lane no more.
bool Lane::take_batch() {
  batch_.clear();
  bool awaited = false;
  while (head_) {
    const std::size_t size = together(*head_);
    if (!batch_.empty() && batch_.size() + size > engine_.backend()->traits().batch) break;
    for (std::size_t i = 0; i < size; ++i) {
      spi::Request* request = std::exchange(head_, head_->next);
      awaited |= !request->quiet;
      batch_.push_back(request);
    }
  }
  if (!head_) tail_ = &head_;
  taken_ += batch_.size();
  for (Follower *each = followers_, *after = nullptr; each; each = after) {
    after = each->next;
    if (!each->until_sent && each->ticket <= taken_) unlink(*each);
  }
  return awaited;
}

// Wakes those who had to wait for no more than the sending.
void Lane::let_go(Lock& lock) {
  for (Follower *each = followers_, *after = nullptr; each; each = after) {
    after = each->next;
    if (!each->until_sent || each->ticket > sent_) continue;
    wakes_.add(each->sleeper->nudge(), runtime_);
    unlink(*each);
  }
  if (wakes_.empty()) return;
  lock.unlock();
  wakes_.carry_out(runtime_);
  lock.lock();
}

// Wakes one whose request is still queued; the service thread looks after a queue that nobody follows. Gives up the
// lock.
void Lane::pass_on(Lock& lock) {
  Wake wake{};
  bool queued = head_ != nullptr;
  Follower* first = nullptr;
  for (Follower* each = queued ? followers_ : nullptr; each; each = each->next) {
    if (each->ticket > sent_ && (!first || each->ticket < first->ticket)) first = each;
  }
  if (first) wake = first->sleeper->nudge();
  lock.unlock();
  if (first) {
    wake.carry_out(runtime_);
  } else if (queued) {
    engine_.backend()->wake();
  }
}

void Lane::unlink(Follower& follower) noexcept {
  (follower.prev ? follower.prev->next : followers_) = follower.next;
  if (follower.next) follower.next->prev = follower.prev;
  follower.lane.store(nullptr, std::memory_order_release);
}

}  // namespace lockr::core
