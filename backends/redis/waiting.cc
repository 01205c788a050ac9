#include "backends/redis/waiting.h"

#include <algorithm>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {
namespace {

// A wake-up that was lost costs at most so long.
constexpr Time kLookAgain = std::chrono::seconds(1);
// What is left of a lease is told in whole milliseconds, and the server is not exact to the millisecond.
constexpr Time kLate = std::chrono::milliseconds(2);
constexpr std::uint64_t kJitter = 20'000'000;
// More are left to the queue's own end, a minute after the last of those in it has looked.
constexpr std::size_t kMostStrays = 1'000;

}  // namespace

void Waiting::start(Request& request) {
  {
    Lock lock(mutex_);
    Wait& wait = waits_[std::string(request.key->string())];
    wait = {.request = &request, .member = site_.names.member(request.mode, request.label), .number = ++next_number_};
    ask(lock, wait);
  }
  link_.flush();
}

void Waiting::stop(const Request& request) {
  Request* left = nullptr;
  {
    const Lock lock(mutex_);
    const auto at = waits_.find(request.key->string());
    if (at == waits_.end() || at->second.request != &request) return;
    if (at->second.asked) {
      at->second.stopped = true;
      return;
    }
    leave(*request.key, at->second.member);
    left = at->second.request;
    waits_.erase(at);
  }
  link_.flush();
  left->answer = Answer::refused;
  site_.sink->done(*left);
}

// Takes us out of the queue, and passes on what is reserved for us.
void Waiting::leave(const Key& key, const std::string& member) {
  Arguments arguments;
  add_names(arguments, site_.names, key);
  arguments.add(site_.names.prefix()).add(in_milliseconds(kReserved)).add(site_.names.process()).add(member);
  link_.call(Script::leave, 2, std::move(arguments),
             [this, left = std::string(key.string()), member](const Outcome& outcome) {
               if (outcome.error && !member.empty()) leave_later(left, member);
             });
}

// We may still be in the queue, and would be named where nobody waits: to be told when the server can be.
void Waiting::leave_later(std::string key, std::string member) {
  {
    const std::lock_guard lock(strays_mutex_);
    if (strays_.size() >= kMostStrays) return;
    if (strays_.empty()) strays_due_ = site_.runtime.steady_now() + kLookAgain;
    strays_.emplace(std::move(key), std::move(member));
  }
  site_.wake();
}

// When to try that again; kNever.
Time Waiting::strays_due() {
  const std::lock_guard lock(strays_mutex_);
  return strays_.empty() ? spi::kNever : strays_due_;
}

void Waiting::leave_strays() {
  std::set<std::pair<std::string, std::string>> strays;
  {
    const std::lock_guard lock(strays_mutex_);
    strays.swap(strays_);
  }
  const Lock lock(mutex_);  // Who begins to wait anew asks behind this.
  for (const auto& [key, member] : strays) {
    const auto at = waits_.find(key);
    if (at != waits_.end() && at->second.member == member) continue;
    if (const auto parsed = Key::parse(key)) leave(*parsed, member);
  }
}

void Waiting::named(std::string_view key) {
  {
    Lock lock(mutex_);
    const auto at = waits_.find(key);
    if (at == waits_.end()) {
      if (const auto parsed = Key::parse(key)) leave(*parsed, "");
    } else if (at->second.asked) {
      at->second.again = true;
    } else {
      ask(lock, at->second);
    }
  }
  link_.flush();
}

void Waiting::look_again() {
  leave_strays();
  link_.flush();
  {
    Lock lock(mutex_);
    for (auto& [key, wait] : waits_) wait.due = Time{0};
  }
  site_.wake();
}

Time Waiting::run(Time now) {
  bool asked = strays_due() <= now;
  if (asked) leave_strays();
  Time next = strays_due();
  {
    Lock lock(mutex_);
    std::vector<std::string> due;
    for (auto& [key, wait] : waits_) {
      if (wait.asked) continue;
      if (wait.due <= now) {
        due.push_back(key);
      } else {
        next = std::min(next, wait.due);
      }
    }
    for (const std::string& key : due) {
      const auto at = waits_.find(key);
      if (at != waits_.end() && !at->second.asked) ask(lock, at->second);
      asked = true;
    }
  }
  if (asked) link_.flush();
  return next;
}

// Tries to take it, and waits in the queue where that fails. While the link is down it is asked when it is up again.
void Waiting::ask(Lock& lock, Wait& wait) {
  if (!link_.is_up()) {
    wait.due = spi::kNever;
    return;
  }
  wait.asked = true;
  wait.again = false;
  const Request& request = *wait.request;
  const Lease lease{.key = *request.key,
                    .value = site_.names.value(request.label),
                    .mode = request.mode,
                    .lane = static_cast<std::uint16_t>(wait.number % site_.options.lanes)};
  const TakeItem item{.lease = std::make_shared<const Lease>(lease), .member = wait.member};
  const std::uint64_t number = wait.number;
  const Asked asked = site_.ask();
  Arguments arguments = take_arguments(site_, "each", std::span(&item, 1));
  // The link may have gone down by now: then the handler is called at once.
  lock.unlock();
  link_.call(Script::take, 3, std::move(arguments), [this, lease = item.lease, number, asked](const Outcome& outcome) {
    answered(lease, number, asked, outcome);
  });
  lock.lock();
}

void Waiting::answered(const std::shared_ptr<const Lease>& lease, std::uint64_t number, const Asked& asked,
                       const Outcome& outcome) {
  const redisReply* const item = outcome.reply ? outcome.reply->element[0] : nullptr;
  const bool grant = item && is_grant(*item);
  if (grant) upkeep_.add(lease);
  site_.leases.answered(asked.at);
  if (!outcome.certain || outcome.half_done) upkeep_.give_back_later(*lease, site_.held_until());
  Lock lock(mutex_);
  const auto at = waits_.find(lease->key.string());
  if (at == waits_.end() || at->second.number != number) return;
  at->second.asked = false;
  if (grant) return granted(lock, at, *lease, asked, item->integer);
  if (item && item->type == REDIS_REPLY_INTEGER) return refused(lock, at, -1 - item->integer);
  if (!item) return failed(lock, at, outcome);
  Outcome wrong{.reply = nullptr,
                .error = from_reply("can't take the lock", text_of(*item)),
                .certain = true,
                .half_done = false};
  failed(lock, at, wrong);
}

void Waiting::granted(Lock& lock, Waits::iterator at, const Lease& lease, const Asked& asked, std::int64_t token) {
  Request& request = *at->second.request;
  waits_.erase(at);
  lock.unlock();
  request.seat = {lease.lane, asked.epoch};
  request.valid_until = site_.valid_from(asked.at);
  request.token = site_.options.fencing ? static_cast<std::uint64_t>(token) : 0;
  request.answer = Answer::granted;
  site_.sink->done(request);
  upkeep_.granted(lease, {lease.lane, asked.epoch});
}

void Waiting::refused(Lock& lock, Waits::iterator at, std::int64_t left) {
  Wait& wait = at->second;
  if (wait.stopped) {
    Request& request = *wait.request;
    leave(*request.key, wait.member);
    waits_.erase(at);
    lock.unlock();
    link_.flush();
    request.answer = Answer::refused;
    return site_.sink->done(request);
  }
  if (wait.again) {
    ask(lock, wait);
    lock.unlock();
    return link_.flush();
  }
  const Time jitter(static_cast<std::int64_t>(site_.runtime.random() % kJitter));
  // What is left of a foreign holder's lease may be centuries.
  const Time lease = left < in_milliseconds(kLookAgain) ? Time(std::chrono::milliseconds(left)) : kLookAgain;
  wait.due = site_.runtime.steady_now() + std::min<Time>(lease + kLate + jitter, kLookAgain);
}

// A connection that went is waited for. What the server itself says against it, the caller has to know.
void Waiting::failed(Lock& lock, Waits::iterator at, const Outcome& outcome) {
  Wait& wait = at->second;
  const bool comes_back = !outcome.certain || !link_.is_up();
  if (comes_back && !wait.stopped) {
    wait.due = site_.runtime.steady_now() + kLate;
    return;
  }
  Request& request = *wait.request;
  if (outcome.certain) {
    leave(*request.key, wait.member);
  } else {
    leave_later(std::string(request.key->string()), wait.member);
  }
  waits_.erase(at);
  lock.unlock();
  link_.flush();
  if (outcome.error && !comes_back) {
    request.error = *outcome.error;
    request.answer = Answer::failed;
  } else {
    request.answer = Answer::refused;
  }
  site_.sink->done(request);
}

}  // namespace lockr::redis
