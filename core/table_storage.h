// The lock table's storage: entries by identity, grants, and the lists they are in. No decisions; those are in
// table.cc. Inline: each lock and each release comes through here.
#pragma once

#include <mutex>

#include "core/table.h"

namespace lockr::core {

inline Entry* Table::find(Shard& shard, const Key& key) const noexcept {
  const std::uint32_t tag = Shard::tag_of(key.hash());
  for (std::uint32_t i = tag & shard.mask; shard.slots[i].index != 0; i = (i + 1) & shard.mask) {
    if (shard.slots[i].tag != tag) continue;
    Entry& entry = shard.entries.at(shard.slots[i].index);
    if (setup_.identity_is_hash ? entry.key.hash() == key.hash() : entry.key == key) return &entry;
  }
  return nullptr;
}

// An entry that is not in use. Those of other stripes are left alone as long as they are few: entries that lie side by
// side share cache lines.
inline std::uint32_t Table::free_entry(Shard& shard, std::uint8_t stripe) {
  Slab<Entry>::FreeList& own = shard.stripes[stripe].free;
  if (own.first == 0) [[unlikely]] {
    for (Stripe& other : shard.stripes) {
      if (other.free.size > Slab<Entry>::kChunk) return shard.entries.take(other.free);
    }
  }
  return shard.entries.take(own);
}

inline Entry& Table::insert(Shard& shard, const Key& key, const SessionCore& session) {
  // Three quarters at the most: beyond, runs of used slots grow long.
  if ((shard.used + 1) * 4 > (shard.mask + 1) * 3) grow(shard);
  const std::uint32_t tag = Shard::tag_of(key.hash());
  std::uint32_t i = tag & shard.mask;
  while (shard.slots[i].index != 0) i = (i + 1) & shard.mask;
  const std::uint32_t index = free_entry(shard, session.stripe);
  shard.slots[i] = {tag, index};
  ++shard.used;
  Entry& entry = shard.entries.at(index);
  entry.key = key;
  if (!entry.shard) entry.shard = &shard;  // Once: callers read it without the mutex.
  entry.index = index;
  entry.stripe = session.stripe;
  if (setup_.backend) {
    entry.hold = shard.holds.take();
    entry.hold->reset(entry);
  }
  return entry;
}

// An entry that nobody holds or waits for no longer counts; without Releasers that refer to it, it goes.
inline void Table::erase_if_idle(Entry& entry) noexcept {
  if (entry.holders || entry.head || entry.key.empty()) return;
  if (entry.counted) {
    entry.counted = false;
    held_entries_.fetch_sub(1, std::memory_order_relaxed);
  }
  if (const Hold* hold = entry.hold) {
    if (hold->state != Hold::State::absent || hold->take_busy || hold->give_busy || hold->mourning != 0 ||
        hold->not_before != Time{0}) {
      return;
    }
  }
  if (entry.references == 0) erase(*entry.shard, entry);
}

inline void Table::erase(Shard& shard, Entry& entry) noexcept {
  std::uint32_t hole = Shard::tag_of(entry.key.hash()) & shard.mask;
  while (shard.slots[hole].index != entry.index) hole = (hole + 1) & shard.mask;
  // Moves back what stands behind the hole and may: everything whose own place is not after the hole.
  for (std::uint32_t i = (hole + 1) & shard.mask; shard.slots[i].index != 0; i = (i + 1) & shard.mask) {
    const std::uint32_t home = shard.slots[i].tag & shard.mask;
    if (((i - home) & shard.mask) >= ((i - hole) & shard.mask)) {
      shard.slots[hole] = shard.slots[i];
      hole = i;
    }
  }
  shard.slots[hole] = {0, 0};
  --shard.used;
  if (entry.hold) {
    clear_timer(*entry.hold);
    shard.holds.put(std::exchange(entry.hold, nullptr));
  }
  entry.key = Key::none();
  shard.entries.put(entry.index, shard.stripes[entry.stripe].free);
}

// Whether the session may still claim something in this shard. The order of these two seq_cst accesses is what
// close_session() relies on: it sets `closed`, then reads `touched`; one of both sees the other.
inline bool Table::admit(SessionCore& session, Shard& shard) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << shard.number;
  if (!(session.touched.load(std::memory_order_relaxed) & bit))
    session.touched.fetch_or(bit, std::memory_order_seq_cst);
  return !session.closed.load(std::memory_order_seq_cst) && !shard.closed;
}

inline void Table::link(Claim& claim, SessionCore& session, Shard& shard) noexcept {
  Claim*& first = session.claims[shard.number];
  claim.session = &session;
  claim.prev = nullptr;
  claim.next = first;
  if (first) first->prev = &claim;
  first = &claim;
}

inline void Table::unlink(Claim& claim, Shard& shard) noexcept {
  (claim.prev ? claim.prev->next : claim.session->claims[shard.number]) = claim.next;
  if (claim.next) claim.next->prev = claim.prev;
}

inline const TableGrant* Table::held_by(const Entry& entry, const SessionCore& session) const noexcept {
  // The holders of the key and the claims of the session: the shorter list decides.
  const TableGrant* holder = entry.holders;
  const Claim* claim = session.claims[entry.shard->number];
  for (; holder && claim; holder = holder->next_holder_, claim = claim->next) {
    if (holder->session == &session) return holder;
    if (!claim->waiting && static_cast<const TableGrant*>(claim)->entry_ == &entry) {
      return static_cast<const TableGrant*>(claim);
    }
  }
  return nullptr;
}

inline TableGrant* Table::add_grant(Entry& entry, SessionCore& session, const Key& key, Mode mode,
                                    std::uint64_t token) {
  Shard& shard = *entry.shard;
  const bool first_used = entry.first.state_.load(std::memory_order_relaxed) != TableGrant::State::unused;
  TableGrant* grant = first_used ? shard.grants.take() : &entry.first;
  grant->entry_ = &entry;
  grant->token_ = token;
  grant->mode_ = mode;
  grant->reported_ = false;
  grant->one_shot_ = session.one_shot;
  grant->state_.store(TableGrant::State::held, std::memory_order_release);
  grant->prev_holder_ = nullptr;
  grant->next_holder_ = entry.holders;
  if (entry.holders) entry.holders->prev_holder_ = grant;
  entry.holders = grant;
  ++(mode == Mode::exclusive ? entry.exclusive : entry.shared);
  ++entry.references;
  link(*grant, session, shard);
  ++shard.stripes[entry.stripe].acquired;
  if (setup_.identity_is_hash && !(entry.key == key)) grant->extra().alias = key;
  if (setup_.held_times) grant->extra().since = now();
  return grant;
}

inline void Table::end_grant(TableGrant& grant, TableGrant::State state) noexcept {
  Entry& entry = *grant.entry_;
  (grant.prev_holder_ ? grant.prev_holder_->next_holder_ : entry.holders) = grant.next_holder_;
  if (grant.next_holder_) grant.next_holder_->prev_holder_ = grant.prev_holder_;
  --(grant.mode_ == Mode::exclusive ? entry.exclusive : entry.shared);
  unlink(grant, *entry.shard);
  if (state != TableGrant::State::lost) ++entry.shard->stripes[entry.stripe].released;
  grant.state_.store(state, std::memory_order_release);
}

// Puts the object behind a Releaser back; the grant has ended.
inline void Table::recycle(TableGrant& grant, Effects& effects) noexcept {
  Entry& entry = *grant.entry_;
  Shard& shard = *entry.shard;
  if (grant.one_shot_) effects.dead = grant.session;
  delete grant.extra_.exchange(nullptr, std::memory_order_relaxed);
  grant.state_.store(TableGrant::State::unused, std::memory_order_relaxed);
  if (&grant != &entry.first) shard.grants.put(&grant);
  --entry.references;
}

inline TableGrant* Table::take_free(SessionCore& session, const Key& key, Mode mode) {
  Shard& shard = shard_of(key.hash());
  std::lock_guard lock(shard.mutex);
  if (setup_.held_limit != 0 || !admit(session, shard)) return nullptr;
  Entry* entry = find(shard, key);
  if (!entry) {
    entry = &insert(shard, key, session);
  } else if (entry->holders || (entry->head && entry->head->overdue)) {
    return nullptr;
  }
  return add_grant(*entry, session, key, mode, ++shard.next_token);
}

inline bool Table::give_free(TableGrant& grant) noexcept {
  Entry& entry = *grant.entry_;
  Shard& shard = *entry.shard;
  std::lock_guard lock(shard.mutex);
  // With someone in the queue there is nothing to do either if that one is on its way already.
  if (grant.state_.load(std::memory_order_relaxed) != TableGrant::State::held || grant.one_shot_ ||
      grant.extra_.load(std::memory_order_relaxed) || entry.references != 1 || &grant != &entry.first ||
      entry.counted || (entry.head && (!entry.head->notified || entry.head->overdue))) {
    return false;
  }
  end_grant(grant, TableGrant::State::unused);
  entry.references = 0;
  if (!entry.head) erase(shard, entry);
  return true;
}

}  // namespace lockr::core
