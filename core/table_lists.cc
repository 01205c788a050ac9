// What the lock table does off the common path: growing, queues, telling.
#include <algorithm>

#include "core/table_storage.h"

namespace lockr::core {

spi::Request* Effects::take_send() noexcept {
  spi::Request* single = nullptr;
  spi::Request* grouped = nullptr;
  spi::Request** single_tail = &single;
  spi::Request** grouped_tail = &grouped;
  for (spi::Request* each = std::exchange(send, nullptr); each; each = each->next) {
    spi::Request**& tail = each->group != 0 ? grouped_tail : single_tail;
    *tail = each;
    tail = &each->next;
  }
  *grouped_tail = nullptr;
  *single_tail = grouped;
  send_tail = &send;
  return single;
}

std::uint8_t SessionCore::next_stripe() noexcept {
  static std::atomic<std::uint32_t> next{0};
  return static_cast<std::uint8_t>(next.fetch_add(1, std::memory_order_relaxed) % kStripes);
}

void Table::grow(Shard& shard) {
  const std::uint32_t size = (shard.mask + 1) * 2;
  auto slots = std::make_unique<Shard::Slot[]>(size);
  for (std::uint32_t i = 0; i <= shard.mask; ++i) {
    if (shard.slots[i].index == 0) continue;
    std::uint32_t to = shard.slots[i].tag & (size - 1);
    while (slots[to].index != 0) to = (to + 1) & (size - 1);
    slots[to] = shard.slots[i];
  }
  shard.many = std::move(slots);
  shard.slots = shard.many.get();
  shard.mask = size - 1;
}

// Counts the entry against limits.held. False: the limit is reached.
bool Table::count_in(Entry& entry) noexcept {
  if (setup_.held_limit == 0 || entry.counted) return true;
  if (held_entries_.fetch_add(1, std::memory_order_relaxed) >= setup_.held_limit) {
    held_entries_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  entry.counted = true;
  return true;
}

void Table::enqueue(Waiter& waiter, Entry& entry, SessionCore& session, const Key& key, const Intent& intent) {
  Shard& shard = *entry.shard;
  waiter.entry = &entry;
  waiter.key = &key;
  waiter.grant = nullptr;
  waiter.mode = intent.mode;
  waiter.is_try = intent.is_try;
  waiter.unopposed = !entry.head && !entry.holders;
  waiter.notified = false;
  waiter.overdue = false;
  waiter.arrived = intent.asked != Time{0} ? intent.asked : now();
  waiter.ahead = entry.tail;
  waiter.behind = nullptr;
  (entry.tail ? entry.tail->behind : entry.head) = &waiter;
  entry.tail = &waiter;
  link(waiter, session, shard);
  ++shard.counters.waiting;
  if (!intent.is_try) ++shard.counters.waited;
  waiters_.fetch_add(1, std::memory_order_relaxed);
}

void Table::dequeue(Waiter& waiter) noexcept {
  Entry& entry = *waiter.entry;
  (waiter.ahead ? waiter.ahead->behind : entry.head) = waiter.behind;
  (waiter.behind ? waiter.behind->ahead : entry.tail) = waiter.ahead;
  unlink(waiter, *entry.shard);
  --entry.shard->counters.waiting;
  waiters_.fetch_sub(1, std::memory_order_relaxed);
}

// The waiter's frame may be gone as soon as it is granted or has failed.
void Table::wake(Waiter& waiter, Sleeper::State state, Effects& effects) noexcept {
  const bool own = waiter.caller == effects.self;
  const Wake wake = waiter.sleeper.set(state);
  if (!own) effects.wakes.add(wake, *setup_.runtime);
}

void Table::fail_waiter(Waiter& waiter, Error error, Effects& effects) {
  if (error.key().empty() && error.code() != errc::not_acquired)
    error = std::move(error).with_key(waiter.key->string());
  dequeue(waiter);
  waiter.error.emplace(std::move(error));
  wake(waiter, Sleeper::kFailed, effects);
}

void Table::fail_tries(Entry& entry, const Error& error, Effects& effects) {
  for (Waiter *waiter = entry.head, *next = nullptr; waiter; waiter = next) {
    next = waiter->behind;
    if (!waiter->is_try) continue;
    if (error.code() == errc::not_acquired) ++entry.shard->counters.not_acquired;
    fail_waiter(*waiter, error, effects);
  }
}

void Table::fail_all(Entry& entry, const Error& error, Effects& effects) {
  while (entry.head) fail_waiter(*entry.head, error, effects);
}

void Table::tell_held_time(TableGrant& grant, Effects& effects) {
  if (!setup_.held_times) return;
  const Time held = now() - grant.extra().since;
  notice(effects,
         {.event = Event{Event::Kind::released, std::string(grant.key().string()), grant.session->label, {}, held}});
}

void Table::notice(Effects& effects, Notice notice) {
  if (!effects.notices) effects.notices = std::make_unique<std::vector<Notice>>();
  effects.notices->push_back(std::move(notice));
}

Stats Table::count() {
  Stats total;
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    const Counters& part = shard.counters;
    total.engine_requests += part.engine_requests;
    for (const Stripe& stripe : shard.stripes) {
      total.acquired += stripe.acquired;
      total.released += stripe.released;
    }
    total.reentries += part.reentries;
    total.not_acquired += part.not_acquired;
    total.waited += part.waited;
    total.timeouts += part.timeouts;
    total.cancelled += part.cancelled;
    total.deadlocks += part.deadlocks;
    total.handed_off += part.handed_off;
    total.lost += part.lost;
    total.not_released += part.not_released;
    total.waiting += part.waiting;
  }
  total.held = total.acquired - total.released - total.lost;
  return total;
}

void Table::describe(std::vector<Holder>& out, const Key* only) {
  using Wall = std::chrono::system_clock;
  const Time to_wall = setup_.runtime->wall_now() - now();
  const auto add = [&](const Key& key, Mode mode, bool waiting, const std::string& label, Time since) {
    Holder& holder = out.emplace_back();
    if (since != Time{0}) holder.since = Wall::time_point(std::chrono::duration_cast<Wall::duration>(since + to_wall));
    holder.key = key.string();
    holder.mode = mode;
    holder.waiting = waiting;
    holder.label = label;
  };
  for (Shard& shard : shards_) {
    if (only && &shard != &shard_of(only->hash())) continue;
    std::lock_guard lock(shard.mutex);
    for_each(shard, [&](Entry& entry) {
      const Time since = entry.hold ? entry.hold->take.since : Time{0};
      for (const TableGrant* grant = entry.holders; grant; grant = grant->next_holder_) {
        if (!only || grant->key() == *only) add(grant->key(), grant->mode_, false, grant->session->label, since);
      }
      for (const Waiter* waiter = entry.head; waiter; waiter = waiter->behind) {
        if (only && !(*waiter->key == *only)) continue;
        add(*waiter->key, waiter->mode, true, waiter->session->label, waiter->arrived);
      }
    });
  }
}

}  // namespace lockr::core
