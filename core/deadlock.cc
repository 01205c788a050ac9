// Deadlock detection between the sessions of one locker.
//
// A waiting session waits for the sessions that hold its key in a conflicting mode, and for those that stand before it
// in the queue with a conflicting request. A wait that would lead back to its own session is refused with `deadlock`.
// Detection runs when a session that holds something starts to wait for another one, with all shards locked: rare, and
// exact.
#include <algorithm>
#include <vector>

#include "core/table_storage.h"

namespace lockr::core {
namespace {

bool conflict(Mode a, Mode b) { return a == Mode::exclusive || b == Mode::exclusive; }

}  // namespace

bool Table::leave_if_deadlocked(Waiter& waiter, Effects& effects) {
  SessionCore& session = *waiter.session;
  if (waiter.unopposed || !session.detect_deadlocks || !holds_anything(session)) return false;
  for (Shard& shard : shards_) shard.mutex.lock();
  bool left = false;
  if (!waiter.sleeper.decided() && closes_cycle(waiter)) {
    Entry& entry = *waiter.entry;
    ++entry.shard->counters.deadlocks;
    effects.self = waiter.caller;
    fail_waiter(waiter, Error(errc::deadlock, "waiting would close a cycle of sessions that wait for each other"),
                effects);
    settle(entry, false, effects);
    left = true;
  }
  for (Shard& shard : shards_) shard.mutex.unlock();
  return left;
}

// A session that holds nothing keeps nobody waiting, so its wait closes no cycle.
bool Table::holds_anything(SessionCore& session) {
  const std::uint64_t touched = session.touched.load(std::memory_order_relaxed);
  for (Shard& shard : shards_) {
    if (!(touched >> shard.number & 1)) continue;
    std::lock_guard lock(shard.mutex);
    for (const Claim* claim = session.claims[shard.number]; claim; claim = claim->next) {
      if (!claim->waiting) return true;
    }
  }
  return false;
}

bool Table::closes_cycle(const Waiter& start) const {
  const SessionCore* target = start.session;
  std::vector<const SessionCore*> found;  // Sessions that `target` waits for, directly or not.
  const auto add_blockers = [&](const Waiter& waiter) {
    const auto add = [&](const SessionCore* session) {
      if (session != waiter.session && std::find(found.begin(), found.end(), session) == found.end()) {
        found.push_back(session);
      }
    };
    for (const TableGrant* grant = waiter.entry->holders; grant; grant = grant->next_holder_) {
      if (conflict(grant->mode_, waiter.mode)) add(grant->session);
    }
    for (const Waiter* other = waiter.ahead; other; other = other->ahead) {
      if (conflict(other->mode, waiter.mode)) add(other->session);
    }
  };
  add_blockers(start);
  for (std::size_t next = 0; next < found.size(); ++next) {
    const SessionCore& session = *found[next];
    if (&session == target) return true;
    if (!session.detect_deadlocks) continue;
    for (const Claim* first : session.claims) {
      for (const Claim* claim = first; claim; claim = claim->next) {
        if (!claim->waiting) continue;
        // A try waits for the engine's answer, which comes whoever stands before it.
        const Waiter& waiter = *static_cast<const Waiter*>(claim);
        if (!waiter.is_try) add_blockers(waiter);
      }
    }
  }
  return false;
}

}  // namespace lockr::core
