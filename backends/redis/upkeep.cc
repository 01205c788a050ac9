#include "backends/redis/upkeep.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace lockr::redis {
namespace {

// So many keys in one script: the server serves nobody else meanwhile.
constexpr std::size_t kRenewedAtOnce = 250;
constexpr std::size_t kGivenBackAtOnce = 100;
constexpr Time kPause = std::chrono::milliseconds(100);
constexpr Time kClockJump = std::chrono::milliseconds(500);

Error not_there_any_more() {
  return Error(errc::lock_lost, "Redis no longer has the lock for us: it ran out, was deleted or evicted");
}

}  // namespace

/// One renewal of everything.
struct Upkeep::Round {
  std::uint32_t epoch;
  Time started;  // Boot clock.
  std::shared_ptr<const Lease> last;
};

void Upkeep::add(std::shared_ptr<const Lease> lease) {
  site_.leases.add(std::move(lease));
  if (next_round_.load(std::memory_order_relaxed) != spi::kNever) return;
  Time never = spi::kNever;
  if (next_round_.compare_exchange_strong(never, site_.runtime.steady_now() + site_.options.ttl / 3)) {
    due_ = std::min(next_round_.load(), next_giving_.load());
    site_.wake();
  }
}

void Upkeep::hurry() {
  const Time now = site_.runtime.steady_now();
  if (next_round_.load() != spi::kNever) next_round_ = now;
  if (site_.leases.has_orphans()) next_giving_ = now;
  due_ = std::min(next_round_.load(), next_giving_.load());
  site_.wake();
}

void Upkeep::granted(const Lease& lease, spi::Seat seat) {
  if (site_.leases.is_gone(lease)) site_.sink->lost(seat, &lease.key, not_there_any_more());
  if (seat.life == site_.epoch) return;
  if (site_.leases.remove(lease)) give_back_later(lease, site_.held_until());
  site_.sink->lost(seat, &lease.key, server_changed());
}

void Upkeep::give_back_later(Lease lease, Time until) {
  lease.until = until;
  site_.leases.orphan(std::move(lease));
  next_giving_ = site_.runtime.steady_now();
  due_ = std::min(next_round_.load(), next_giving_.load());
  site_.wake();
}

void Upkeep::run(Time now) {
  if (now >= next_round_.load() && !renewing_.exchange(true)) {
    next_round_ = now + site_.options.ttl / 3;
    if (site_.leases.size() == 0) {
      next_round_ = spi::kNever;
      renewing_ = false;
      // What was added just now did not begin them.
      if (site_.leases.size() != 0) next_round_ = now + site_.options.ttl / 3;
    } else {
      renew(std::make_shared<Round>(Round{.epoch = site_.epoch, .started = site_.leases.complete_since(), .last = {}}));
    }
  }
  if (now >= next_giving_.load() && !giving_back_.exchange(true)) give_back(now);
  due_ = std::min(renewing_ ? spi::kNever : next_round_.load(), giving_back_ ? spi::kNever : next_giving_.load());
}

// ---- renewing

// A part of what is held; the next part follows its answer, so that others are served in between.
void Upkeep::renew(const std::shared_ptr<Round>& round) {
  const auto part = site_.leases.next(round->last.get(), kRenewedAtOnce);
  if (part.empty()) return end_round(*round, true);
  round->last = part.back();
  Arguments arguments;
  for (const auto& each : part) arguments.add(site_.names.locks(), each->key.string());
  arguments.add(in_milliseconds(site_.kept()));
  for (const auto& each : part) arguments.add(letter(each->mode)).add(each->value);
  link_.call(Script::renew, part.size(), std::move(arguments), [this, round, part](const Outcome& outcome) {
    if (!outcome.reply || round->epoch != site_.epoch) return end_round(*round, false);
    renewed(*round, part, *outcome.reply);
    renew(round);
  });
  link_.flush();
}

void Upkeep::renewed(Round& round, const std::vector<std::shared_ptr<const Lease>>& part, const redisReply& reply) {
  check_clock(*reply.element[0]);
  for (std::size_t i = 1; i < reply.elements; ++i) {
    const Lease& lease = *part[static_cast<std::size_t>(reply.element[i]->integer) - 1];
    // It may have been given back meanwhile, and even taken again.
    if (!site_.leases.lose(lease)) continue;
    site_.sink->lost({lease.lane, round.epoch}, &lease.key, not_there_any_more());
  }
}

void Upkeep::end_round(const Round& round, bool complete) {
  if (complete) {
    for (std::uint16_t lane = 0; lane < site_.options.lanes; ++lane) {
      site_.sink->alive({lane, round.epoch}, site_.valid_from(round.started));
    }
  } else {
    next_round_ = site_.runtime.steady_now() + site_.options.ttl / 12;
  }
  renewing_ = false;
  due_ = std::min(next_round_.load(), next_giving_.load());
}

// A jump of the server's clock ends leases early or keeps them for too long.
void Upkeep::check_clock(const redisReply& time) {
  const Time ahead = std::chrono::milliseconds(time.integer) - site_.runtime.boot_now();
  const Time jump = clock_ahead_ ? ahead - *clock_ahead_ : Time{0};
  clock_ahead_ = ahead;
  if (std::max(jump, -jump) < kClockJump || !site_.log) return;
  site_.log(LogLevel::warning, "redis: the server's clock was set, by " + std::to_string(in_milliseconds(jump)) +
                                   " ms: leases run out that much earlier");
}

// ---- giving back

void Upkeep::give_back(Time now) {
  const auto some = std::make_shared<std::vector<Lease>>(site_.leases.orphans(kGivenBackAtOnce));
  if (some->empty()) {
    next_giving_ = spi::kNever;
    giving_back_ = false;
    if (site_.leases.has_orphans()) next_giving_ = now;
    return;
  }
  const auto arguments = release_arguments(site_, *some, std::identity(), std::mem_fn(&Lease::keep_until));
  link_.call(Script::release, 2 * some->size(), arguments, [this, some](const Outcome& outcome) {
    if (!outcome.reply) {
      for (Lease& each : *some) site_.leases.orphan(std::move(each));
    }
    next_giving_ = site_.runtime.steady_now() + (outcome.reply ? Time{0} : kPause);
    giving_back_ = false;
    due_ = std::min(next_round_.load(), next_giving_.load());
  });
  link_.flush();
}

}  // namespace lockr::redis
