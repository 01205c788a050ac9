#include "tests/simulation/table_model.h"

#include <algorithm>

namespace lockr::testing {

bool TableModel::free_for(const Key& key, Mode mode) {
  return std::none_of(key.holders.begin(), key.holders.end(),
                      [&](const Claim& holder) { return conflict(holder.mode, mode); });
}

TableModel::Result TableModel::enter(Ticket ticket, int session, const std::string& name, Mode mode, bool is_try) {
  const auto refused = [&](errc code) {
    if (code == errc::deadlock) ++stats_.deadlocks;
    if (code == errc::not_acquired) ++stats_.not_acquired;
    outcomes_[ticket] = {.state = State::failed, .error = code};
    return Result{.state = State::failed, .error = code};
  };
  if (sessions_.at(session).closed) return refused(errc::session_closed);
  Key& key = keys_[name];
  const bool in_use = !key.holders.empty() || !key.queue.empty();
  if (!in_use && held_limit_ != 0 && keys_in_use() >= held_limit_) return refused(errc::capacity);
  where_[ticket] = name;
  const Claim claim{.ticket = ticket, .session = session, .mode = mode};
  std::vector<Ticket> mine;
  bool only_shared = true;
  for (const Claim& holder : key.holders) {
    if (holder.session == session) mine.push_back(holder.ticket);
    only_shared = only_shared && holder.mode == Mode::shared;
  }
  if (!mine.empty()) {
    if (mode == Mode::exclusive && only_shared) return refused(errc::deadlock);
    ++stats_.reentries;
    grant(key, claim);
    return {.state = State::granted, .repeats = mine};
  }
  if (free_for(key, mode) && (key.queue.empty() || !key.queue.front().overdue)) {
    grant(key, claim);
    return {.state = State::granted};
  }
  if (is_try) return refused(errc::not_acquired);
  if (waiter_limit_ != 0 && waiting() >= waiter_limit_) return refused(errc::capacity);
  ++stats_.waited;
  outcomes_[ticket] = {.state = State::queued};
  key.queue.push_back(claim);
  serve(key, false);
  return {.state = state(ticket)};
}

bool TableModel::poll(Ticket ticket, bool overdue) {
  if (state(ticket) != State::queued) return true;
  Key& key = key_of(ticket);
  for (Claim& waiter : key.queue) {
    if (waiter.ticket == ticket && overdue) waiter.overdue = true;
  }
  if (key.queue.front().ticket == ticket) serve(key, true);
  return state(ticket) != State::queued;
}

void TableModel::leave(Ticket ticket, errc code) {
  if (code == errc::timeout) ++stats_.timeouts;
  if (code == errc::cancelled) ++stats_.cancelled;
  Key& key = key_of(ticket);
  fail(key, ticket, code);
  serve(key, false);
}

bool TableModel::leave_if_deadlocked(Ticket ticket) {
  const Key& key = key_of(ticket);
  const auto self =
      std::find_if(key.queue.begin(), key.queue.end(), [&](const Claim& waiter) { return waiter.ticket == ticket; });
  if (self == key.queue.end() || !sessions_.at(self->session).detects) return false;
  // Everyone it waits for, and everyone they wait for.
  std::set<int> reached = blockers(key, *self);
  for (bool grown = true; grown;) {
    grown = false;
    for (const auto& [name, other] : keys_) {
      for (const Claim& waiter : other.queue) {
        if (!reached.contains(waiter.session) || !sessions_.at(waiter.session).detects) continue;
        for (const int session : blockers(other, waiter)) grown |= reached.insert(session).second;
      }
    }
  }
  if (!reached.contains(self->session)) return false;
  ++stats_.deadlocks;
  Key& mine = key_of(ticket);
  fail(mine, ticket, errc::deadlock);
  serve(mine, false);
  return true;
}

// The sessions that keep this waiter waiting: holders, and those before it in the queue, in a mode that conflicts.
std::set<int> TableModel::blockers(const Key& key, const Claim& waiter) const {
  std::set<int> found;
  for (const Claim& holder : key.holders) {
    if (holder.session != waiter.session && conflict(holder.mode, waiter.mode)) found.insert(holder.session);
  }
  for (const Claim& before : key.queue) {
    if (before.ticket == waiter.ticket) break;
    if (before.session != waiter.session && conflict(before.mode, waiter.mode)) found.insert(before.session);
  }
  return found;
}

std::optional<errc> TableModel::release(Ticket ticket) {
  Key& key = key_of(ticket);
  if (!end(key, ticket)) return std::exchange(outcomes_.at(ticket).ended_by, std::nullopt);
  serve(key, false);
  return std::nullopt;
}

void TableModel::dispose(Ticket ticket) {
  Key& key = key_of(ticket);
  if (end(key, ticket)) serve(key, false);
}

void TableModel::close_session(int session) {
  sessions_.at(session).closed = true;
  for (auto& [name, key] : keys_) {
    bool changed = false;
    const auto queue = key.queue;
    for (const Claim& waiter : queue) {
      if (waiter.session != session) continue;
      fail(key, waiter.ticket, errc::session_closed);
      changed = true;
    }
    const auto holders = key.holders;
    for (const Claim& holder : holders) {
      if (holder.session != session) continue;
      end(key, holder.ticket);
      outcomes_.at(holder.ticket).ended_by = errc::session_closed;
      changed = true;
    }
    if (changed) serve(key, false);
  }
}

void TableModel::close() {
  for (auto& [session, state] : sessions_) {
    for (auto& [name, key] : keys_) {
      const auto queue = key.queue;
      for (const Claim& waiter : queue) fail(key, waiter.ticket, errc::session_closed);
    }
    close_session(session);
  }
}

// ---- what changes

void TableModel::grant(Key& key, const Claim& claim) {
  ++stats_.acquired;
  key.holders.push_back(claim);
  outcomes_[claim.ticket] = {.state = State::granted};
}

void TableModel::serve(Key& key, bool first_may_take) {
  while (!key.queue.empty() && free_for(key, key.queue.front().mode)) {
    const Claim first = key.queue.front();
    if (key.holders.empty() && !first.overdue && !first_may_take) return;
    key.queue.pop_front();
    ++stats_.handed_off;
    grant(key, first);
  }
}

void TableModel::fail(Key& key, Ticket ticket, errc code) {
  std::erase_if(key.queue, [&](const Claim& waiter) { return waiter.ticket == ticket; });
  outcomes_[ticket] = {.state = State::failed, .error = code};
}

bool TableModel::end(Key& key, Ticket ticket) {
  const std::size_t ended = std::erase_if(key.holders, [&](const Claim& holder) { return holder.ticket == ticket; });
  stats_.released += ended;
  return ended != 0;
}

// ---- what can be seen

std::optional<TableModel::Ticket> TableModel::to_wake(const std::string& name) {
  const Key& key = keys_[name];
  if (key.queue.empty() || !free_for(key, key.queue.front().mode)) return std::nullopt;
  return key.queue.front().ticket;
}

std::size_t TableModel::keys_in_use() const {
  return static_cast<std::size_t>(std::count_if(keys_.begin(), keys_.end(), [](const auto& each) {
    return !each.second.holders.empty() || !each.second.queue.empty();
  }));
}

std::size_t TableModel::waiting() const {
  std::size_t all = 0;
  for (const auto& [name, key] : keys_) all += key.queue.size();
  return all;
}

Stats TableModel::stats() const {
  Stats all = stats_;
  all.waiting = waiting();
  for (const auto& [name, key] : keys_) all.held += key.holders.size();
  return all;
}

}  // namespace lockr::testing
