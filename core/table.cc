// The lock table: what each event does in each state.
//
// The states are those of an entry's Hold, the engine's side of a key. Without an engine (memory) there is no Hold and
// the key is as if held for ever.
//
//   event            | absent            | asking             | waiting            | held
//   -----------------+-------------------+--------------------+--------------------+------------------------------------
//   lock             | ask -> asking     | queue              | queue              | grant if it may join, else queue
//   try              | ask -> asking (1) | queue for answer   | not_acquired       | grant if it may join, not_acquired
//   last waiter left | -                 | answer decides     | stop the wait      | -
//   last release     | -                 | -                  | -                  | serve waiters (2); without any, or
//                    |                   |                    |                    | kept on: give back -> absent
//   granted          | -                 | -> held, serve     | -> held, serve     | -
//   refused          | -                 | tries fail; waiters| poll at ask_again  | -
//                    |                   | -> waiting         |                    |
//   failed           | -                 | tries fail, waiters stay and it is asked again later -> absent (3)
//   unknown          | -                 | the same, but not before ask_again -> absent
//   lost, expired    | -                 | -                  | -                  | grants are lost -> absent, asked
//                    |                   |                    |                    | for again once that is announced
//   hint, timer      | ask if waiters    | -                  | polling: ask again | expired?
//
//   (1) While the engine can't be reached: the trouble, at once.
//   (2) After limits.handoff passes or 10 ms, or to turn a shared hold exclusive: yield -> asking. Never shared to
//       exclusive at the engine in one step.
//   (3) Everyone fails, unless it is the connection that is gone.
//
// A give_back runs beside these states: the next take goes to the same link, behind it, or waits for its answer.
// "serve" grants from the head: one exclusive or all leading shared waiters. After a release, a head that has waited
// less than kBarging is only woken to take the key, and a newcomer may be faster; a head that has waited longer is
// granted and nobody passes it. The waiter itself tells when it is overdue, in poll(): lock and release of a contended
// key read no clock.
#include <algorithm>
#include <cstring>

#include "core/table_storage.h"

namespace lockr::core {
namespace {

constexpr Time kRetry = std::chrono::milliseconds(100);
constexpr Time kPoll = std::chrono::milliseconds(20);

// In [span / 2, 3 * span / 2): processes that failed together do not come back together.
Time jittered(Time span, spi::Runtime& runtime) {
  return span / 2 + Time(runtime.random() % static_cast<std::uint64_t>(span.count()));
}

}  // namespace

Table::Table(const TableSetup& setup) : setup_(setup), seats_(setup.seats) {
  for (std::uint32_t i = 0; i < kShards; ++i) {
    shards_[i].table = this;
    shards_[i].number = i;
    // Tokens of one key grow over the life of the process, also over lockers: they start at the clock.
    if (!setup.backend) shards_[i].next_token = static_cast<std::uint64_t>(setup.runtime->wall_now().count() / 1000);
  }
}

Table::~Table() = default;

void Hold::reset(Entry& owner) noexcept {
  state = State::absent;
  trouble.reset();
  not_before = Time{0};
  passes = 0;
  limit.store(kNever, std::memory_order_relaxed);
  keep_until = Time{0};
  entry = &owner;
}

// ---- callers

Entered Table::enter(SessionCore& session, const Key& key, const Intent& intent, Waiter& waiter, Effects& effects) {
  Shard& shard = shard_of(key.hash());
  std::lock_guard lock(shard.mutex);
  const auto refuse = [&](Error error) {
    waiter.error.emplace(std::move(error));
    return Entered::failed;
  };
  if (!admit(session, shard)) return refuse(Error(errc::session_closed));
  Entry* found = find(shard, key);
  if (!found) found = &insert(shard, key, session);
  Entry& entry = *found;
  if (!count_in(entry)) {
    erase_if_idle(entry);
    return refuse(
        Error(errc::capacity, "the limit of keys held at once is reached (limits.held); release some or raise it")
            .with_key(key.string()));
  }
  expire(entry, effects);
  if (const TableGrant* mine = held_by(entry, session)) {
    if (intent.mode == Mode::exclusive && entry.exclusive == 0) {
      ++shard.counters.deadlocks;
      return refuse(Error(errc::deadlock, "this session holds the key shared; release that before taking it exclusive")
                        .with_key(key.string()));
    }
    waiter.grant = add_grant(entry, session, key, intent.mode, mine->token_);
    ++shard.counters.reentries;
    return Entered::granted;
  }
  if (may_join(entry, intent.mode)) {
    waiter.grant = add_grant(entry, session, key, intent.mode, next_token(entry));
    return Entered::granted;
  }
  const Hold* hold = entry.hold;
  const bool answer_comes = hold && (hold->state == Hold::State::asking || hold->state == Hold::State::absent);
  const bool troubled = hold && hold->state == Hold::State::absent && hold->trouble && hold->not_before != Time{0};
  const bool idle = hold && hold->state == Hold::State::absent && !entry.head && hold->mourning == 0;
  if (intent.is_try && (!answer_comes || troubled || (intent.group != 0 && !idle))) {
    Error error = troubled ? *hold->trouble : Error(errc::not_acquired);
    if (intent.group == 0) ++shard.counters.not_acquired;
    erase_if_idle(entry);
    return refuse(std::move(error));
  }
  if (setup_.waiter_limit != 0 && waiters_.load(std::memory_order_relaxed) >= setup_.waiter_limit) {
    erase_if_idle(entry);
    return refuse(
        Error(errc::capacity, "the limit of waiting callers is reached (limits.waiters)").with_key(key.string()));
  }
  enqueue(waiter, entry, session, key, intent);
  settle(entry, false, effects);
  // A take that follows a give_back goes where that one goes, so it can't stand in a group.
  if (intent.group != 0 && entry.hold->take_busy && !entry.hold->give_busy) {
    entry.hold->take.group = intent.group;
    entry.hold->take.group_rule = intent.rule;
  }
  return Entered::queued;
}

bool Table::poll(Waiter& waiter, Effects& effects) {
  Entry& entry = *waiter.entry;
  std::lock_guard lock(entry.shard->mutex);
  if (waiter.sleeper.decided()) return true;
  waiter.sleeper.heed();
  waiter.notified = false;
  waiter.overdue = waiter.overdue || now() - waiter.arrived >= kBarging;
  if (entry.head != &waiter) return false;
  effects.self = waiter.caller;
  settle(entry, true, effects);
  return waiter.sleeper.decided();
}

bool Table::leave(Waiter& waiter, errc code, Effects& effects) {
  Entry& entry = *waiter.entry;
  Shard& shard = *entry.shard;
  std::lock_guard lock(shard.mutex);
  if (waiter.sleeper.decided()) return false;
  effects.self = waiter.caller;
  const Hold* hold = entry.hold;
  if (code == errc::timeout && waiter.is_try) {
    fail_waiter(waiter, Error(errc::connection_lost, "the engine did not answer within reply_timeout"), effects);
  } else if (code == errc::timeout && hold && hold->trouble && hold->state == Hold::State::absent) {
    fail_waiter(waiter, *hold->trouble, effects);
  } else {
    if (code == errc::timeout) ++shard.counters.timeouts;
    if (code == errc::cancelled) ++shard.counters.cancelled;
    fail_waiter(waiter, Error(code), effects);
  }
  settle(entry, false, effects);
  return true;
}

std::optional<Status> Table::release(TableGrant& grant, ReleaseWait& wait, Effects& effects) {
  Entry& entry = *grant.entry_;
  Shard& shard = *entry.shard;
  std::lock_guard lock(shard.mutex);
  expire(entry, effects);
  if (grant.state_.load(std::memory_order_relaxed) != TableGrant::State::held) return report(grant);
  tell_held_time(grant, effects);
  end_grant(grant, TableGrant::State::released);
  grant.reported_ = true;
  if (last_release(entry)) {
    begin_give(entry, &wait, effects);
    return std::nullopt;
  }
  settle(entry, false, effects);
  return Status{};
}

bool Table::forget(Entry& entry, ReleaseWait& wait) {
  std::lock_guard lock(entry.shard->mutex);
  if (wait.sleeper.decided()) return false;
  entry.hold->release_wait = nullptr;
  return true;
}

void Table::dispose(TableGrant& grant, Effects& effects) {
  Entry& entry = *grant.entry_;
  Shard& shard = *entry.shard;
  std::lock_guard lock(shard.mutex);
  const bool held = grant.state_.load(std::memory_order_relaxed) == TableGrant::State::held;
  if (held) {
    tell_held_time(grant, effects);
    end_grant(grant, TableGrant::State::released);
  }
  recycle(grant, effects);
  if (held) {
    settle(entry, false, effects);
  } else {
    erase_if_idle(entry);
  }
  // Counted by close() already, or to be counted because the locker may close while the effects are carried out.
  effects.orphan = shard.closed || !effects.empty();
  if (!shard.closed && effects.orphan) orphans.fetch_add(1, std::memory_order_relaxed);
}

std::vector<Notice> Table::long_wait(const Waiter& waiter, Time waited) {
  std::vector<Notice> notices;
  Event event{Event::Kind::long_wait, std::string(waiter.key->string()), waiter.session->label, {}, waited};
  notices.push_back({.event = std::move(event)});
  return notices;
}

std::stop_token Table::lost_token(TableGrant& grant) {
  std::lock_guard lock(grant.entry_->shard->mutex);
  TableGrant::Extra& extra = grant.extra();
  if (!extra.lost.stop_possible()) {
    extra.lost = std::stop_source();
    if (grant.state_.load(std::memory_order_relaxed) == TableGrant::State::lost) extra.lost.request_stop();
  }
  return extra.lost.get_token();
}

std::optional<spi::Seat> Table::seat_of(const TableGrant& grant) {
  std::lock_guard lock(grant.entry_->shard->mutex);
  if (grant.state_.load(std::memory_order_relaxed) != TableGrant::State::held || !grant.entry_->hold) return {};
  return grant.entry_->hold->seat;
}

// What release() says of a grant that is not held (any more); how it ended is told once.
Status Table::report(TableGrant& grant) {
  if (std::exchange(grant.reported_, true)) return {};
  if (grant.state_.load(std::memory_order_relaxed) == TableGrant::State::closed)
    return fail(Error(errc::session_closed));
  const TableGrant::Extra* extra = grant.extra_.load(std::memory_order_relaxed);
  const auto& reason = extra ? extra->reason : std::optional<Error>();
  Error error(errc::lock_lost, "the lock was lost before it was released" + (reason ? ": " + reason->message() : ""));
  return fail(std::move(error).with_key(grant.key().string()));
}

void Table::close_session(SessionCore& session, Effects& effects, std::deque<PendingRelease>& pending) {
  session.closed.store(true, std::memory_order_seq_cst);
  const std::uint64_t touched = session.touched.load(std::memory_order_seq_cst);
  for (Shard& shard : shards_) {
    if (!(touched >> shard.number & 1)) continue;
    std::lock_guard lock(shard.mutex);
    // All is given up before anyone is served: none of its waiters may get what another of its claims leaves.
    std::vector<Entry*> left;
    while (Claim* claim = session.claims[shard.number]) {
      if (claim->waiting) {
        Waiter& waiter = *static_cast<Waiter*>(claim);
        left.push_back(waiter.entry);
        fail_waiter(waiter, Error(errc::session_closed), effects);
      } else {
        TableGrant& grant = *static_cast<TableGrant*>(claim);
        left.push_back(grant.entry_);
        tell_held_time(grant, effects);
        end_grant(grant, TableGrant::State::closed);
      }
    }
    for (Entry* entry : left) {
      if (!last_release(*entry)) {
        settle(*entry, false, effects);
        continue;
      }
      PendingRelease& owed = pending.emplace_back();
      owed.entry = entry;
      owed.wait.caller = effects.self;
      begin_give(*entry, &owed.wait, effects);
    }
  }
}

void Table::close(Effects& effects) {
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    shard.closed = true;
    std::vector<std::uint32_t> entries;
    for (std::uint32_t i = 0; i <= shard.mask; ++i) {
      if (shard.slots[i].index != 0) entries.push_back(shard.slots[i].index);
    }
    for (const std::uint32_t index : entries) {
      Entry& entry = shard.entries.at(index);
      orphans.fetch_add(entry.references, std::memory_order_relaxed);
      while (entry.head) fail_waiter(*entry.head, Error(errc::session_closed), effects);
      while (entry.holders) {
        tell_held_time(*entry.holders, effects);
        end_grant(*entry.holders, TableGrant::State::closed);
      }
      settle(entry, false, effects);
    }
  }
}

bool Table::owed_by_engine() {
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    for (std::uint32_t i = 0; i <= shard.mask; ++i) {
      if (shard.slots[i].index == 0) continue;
      const Hold* hold = shard.entries.at(shard.slots[i].index).hold;
      if (hold && (hold->give_busy || hold->take_busy)) return true;
    }
  }
  return false;
}

// ---- the engine's answers

void Table::done(spi::Request& request, Effects& effects) {
  Entry& entry = *static_cast<Entry*>(request.owner);
  std::lock_guard lock(entry.shard->mutex);
  if (&request == &entry.hold->give) {
    give_answered(entry, effects);
  } else {
    take_answered(entry, effects);
  }
}

void Table::take_answered(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  hold.take_busy = false;
  hold.stopping = false;
  switch (hold.take.answer) {
    case spi::Answer::granted:
      hold.state = Hold::State::held;
      hold.mode = hold.take.mode;
      hold.seat = hold.take.seat;
      hold.token = hold.take.token;
      hold.valid_until.store(hold.take.valid_until, std::memory_order_relaxed);
      end_window(hold);
      hold.passes = 0;
      hold.handing_since = Time{0};
      hold.trouble.reset();
      if (valid_until(hold) != kNever) set_timer(hold, effects);
      if (expire(entry, effects)) {
        const Error late(errc::connection_lost, "the engine's answer came after the lock it granted had run out");
        fail_tries(entry, late, effects);
      } else {
        serve_queue(entry, true, effects);
        fail_tries(entry, Error(errc::not_acquired), effects);
      }
      break;
    case spi::Answer::refused:
      take_refused(entry, effects);
      break;
    default:
      take_failed(entry, effects);
      break;
  }
  settle(entry, true, effects);
}

void Table::take_refused(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  hold.trouble.reset();
  const bool was_group = std::exchange(hold.take.group, 0) != 0;
  // The rest of a group may have been at fault: the key itself is asked for again if someone waits.
  fail_tries(entry, Error(errc::not_acquired), effects);
  if (!entry.head || was_group) {
    hold.state = Hold::State::absent;
    return;
  }
  const bool was_waiting = hold.state == Hold::State::waiting;
  hold.state = Hold::State::waiting;
  if (was_waiting && hold.take.ask_again != Time{0}) {
    start_polling(entry, effects);
    return;
  }
  hold.take_busy = true;
  hold.take.op = spi::Op::take;
  hold.take.mode = entry.head->mode;
  hold.take.answer = spi::Answer::pending;
  hold.take.next = std::exchange(effects.wait, &hold.take);
}

void Table::take_failed(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  hold.state = Hold::State::absent;
  hold.take.group = 0;
  const Error error = with_bound(hold.take);
  fail_tries(entry, error, effects);
  // A lost connection comes back by itself. What else a retry may help against, such as a lack of descriptors, its
  // caller has to know of now.
  const bool waits_it_out = error.code() == errc::connection_lost && error.retryable();
  if (hold.take.answer == spi::Answer::failed && !waits_it_out) {
    fail_all(entry, error, effects);
    return;
  }
  hold.trouble = error;
  hold.not_before = hold.take.ask_again != Time{0} ? hold.take.ask_again : now() + jittered(kRetry, *setup_.runtime);
  set_timer(hold, effects);
}

void Table::give_answered(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  Shard& shard = *entry.shard;
  hold.give_busy = false;
  const bool cleanup = std::exchange(hold.cleanup, false);
  const spi::Answer answer = hold.give.answer;
  std::optional<Error> error;
  if (answer == spi::Answer::not_held && !cleanup) {
    ++shard.counters.not_released;
    error = Error(errc::not_released, "the engine says that this process did not hold the lock it gave back");
    if (!hold.give.error.native().empty()) error = std::move(*error).with_native(std::string(hold.give.error.native()));
  } else if (answer == spi::Answer::failed || answer == spi::Answer::unknown) {
    error = with_bound(hold.give);
    if (answer == spi::Answer::unknown && hold.give.ask_again > hold.not_before) hold.not_before = hold.give.ask_again;
  }
  if (error) error = std::move(*error).with_key(entry.key.string());
  if (ReleaseWait* wait = std::exchange(hold.release_wait, nullptr)) {
    wait->error = std::move(error);
    const bool own = wait->caller == effects.self;
    const Wake wake = wait->sleeper.set(Sleeper::kGranted);
    if (!own) effects.wakes.add(wake, *setup_.runtime);
  } else if (error && error->code() != errc::connection_lost && setup_.observed) {
    // What ends with its connection is free by then.
    Event event{Event::Kind::not_released, std::string(entry.key.string()), std::string(hold.give.label), error,
                Time{0}};
    notice(effects, {.event = std::move(event)});
  }
  settle(entry, true, effects);
}

void Table::hint(std::uint64_t identity, Effects& effects) {
  Shard& shard = shard_of(identity);
  std::lock_guard lock(shard.mutex);
  for (std::uint32_t i = static_cast<std::uint32_t>(identity) & shard.mask; shard.slots[i].index != 0;
       i = (i + 1) & shard.mask) {
    Entry& entry = shard.entries.at(shard.slots[i].index);
    if (entry.key.hash() != identity || !entry.hold->polling) continue;
    clear_timer(*entry.hold);
    return ask_again(entry, effects);
  }
}

void Table::alive(spi::Seat seat, Time until) {
  if (seat.link >= seats_.size()) return;
  SeatLife& mine = seats_[seat.link];
  if (mine.life.load(std::memory_order_relaxed) == seat.life &&
      mine.valid_until.load(std::memory_order_relaxed) > until) {
    return;
  }
  // A reader that sees the new time with the old life ignores it, so the order of these stores matters.
  mine.life.store(0, std::memory_order_release);
  mine.valid_until.store(until, std::memory_order_release);
  mine.life.store(seat.life, std::memory_order_release);
}

void Table::lost(spi::Seat seat, const Key* key, const Error& error, Effects& effects) {
  for (Shard& shard : shards_) {
    if (key && &shard != &shard_of(key->hash())) continue;
    std::lock_guard lock(shard.mutex);
    for_each(shard, [&](Entry& entry) {
      const Hold* hold = entry.hold;
      if (!hold || hold->state != Hold::State::held || !(hold->seat.load() == seat)) return;
      if (key && entry.key.hash() != key->hash()) return;
      if (key && !setup_.identity_is_hash && !(entry.key == *key)) return;
      lose(entry, error, effects);
      settle(entry, false, effects);
    });
  }
}

void Table::reconnected(Effects& effects) {
  if (setup_.observed) notice(effects, {.event = Event{Event::Kind::reconnected, {}, {}, {}, Time{0}}});
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    for_each(shard, [&](Entry& entry) {
      Hold* hold = entry.hold;
      if (!hold || hold->state != Hold::State::absent || !hold->trouble) return;
      if (hold->take.answer == spi::Answer::unknown) return;  // Its time is the engine's, not the connection's.
      hold->not_before = Time{0};
      settle(entry, false, effects);
    });
  }
}

void Table::mourned(Entry& entry, Effects& effects) {
  std::lock_guard lock(entry.shard->mutex);
  --entry.hold->mourning;
  settle(entry, false, effects);
}

// ---- what follows

// Brings the entry to rest after any event: serves, asks, gives back, stops waiting, goes away.
// `direct`: grant to the head even if it has not waited long.
void Table::settle(Entry& entry, bool direct, Effects& effects) {
  Hold* hold = entry.hold;
  if (!hold) {
    serve_queue(entry, direct, effects);
    erase_if_idle(entry);
    return;
  }
  if (hold->state == Hold::State::held && !expire(entry, effects)) {
    if (entry.holders) {
      serve_queue(entry, direct, effects);
    } else if (!entry.head || is_kept(*hold)) {
      if (!hold->give_busy) begin_give(entry, nullptr, effects);
    } else if (!covers(entry, entry.head->mode) || handoff_over(entry)) {
      begin_take(entry, spi::Op::yield, effects);
    } else {
      serve_queue(entry, direct, effects);
    }
  }
  if (hold->state == Hold::State::absent && hold->not_before != Time{0}) {
    if (now() < hold->not_before) {
      set_timer(*hold, effects);
    } else {
      hold->not_before = Time{0};
    }
  }
  if (hold->state == Hold::State::absent && entry.head && hold->mourning == 0 && hold->not_before == Time{0} &&
      may_follow_give(*hold)) {
    begin_take(entry, spi::Op::take, effects);
  }
  if (hold->state == Hold::State::waiting && !entry.head) {
    if (hold->polling) {
      hold->polling = false;
      hold->state = Hold::State::absent;
      hold->not_before = Time{0};
    } else if (!hold->stopping) {
      hold->stopping = true;
      effects.stops.push_back(&hold->take);
    }
  }
  erase_if_idle(entry);
}

// Whether nobody here holds or wants what the engine holds for us, so that it can be given back now. While an earlier
// give_back is outstanding it can't; settle() does it when that is answered.
bool Table::last_release(const Entry& entry) const noexcept {
  return entry.hold && entry.hold->state == Hold::State::held && !entry.holders && !entry.head &&
         !entry.hold->give_busy;
}

// Whether a take sent now arrives after the give_back that is on its way. The thread that has to send that one may not
// have come to it: then its answer is awaited, or the take would find the lock still ours, and lose it to the
// give_back.
bool Table::may_follow_give(const Hold& hold) const noexcept {
  return !hold.give_busy || hold.give_queued.load(std::memory_order_acquire);
}

void Table::serve_queue(Entry& entry, bool direct, Effects& effects) {
  while (Waiter* head = entry.head) {
    if (!compatible(entry, head->mode)) return;
    if (entry.hold && (entry.hold->state != Hold::State::held || !covers(entry, head->mode))) return;
    if (entry.hold && entry.holders && handoff_over(entry)) return;  // Drains first, then others get their turn.
    if (!direct && !entry.holders && !head->overdue) {
      if (!std::exchange(head->notified, true)) wake(*head, Sleeper::kNudged, effects);
      return;
    }
    if (!entry.hold || entry.hold->passes != 0) ++entry.shard->counters.handed_off;
    grant_to(*head, effects);
  }
}

void Table::grant_to(Waiter& waiter, Effects& effects) {
  Entry& entry = *waiter.entry;
  dequeue(waiter);
  waiter.grant = add_grant(entry, *waiter.session, *waiter.key, waiter.mode, next_token(entry));
  wake(waiter, Sleeper::kGranted, effects);
}

bool Table::compatible(const Entry& entry, Mode mode) const noexcept {
  return !entry.holders || (mode == Mode::shared && entry.exclusive == 0);
}

// Whether what the engine granted is enough for this mode.
bool Table::covers(const Entry& entry, Mode mode) const noexcept {
  return entry.hold->mode == Mode::exclusive || mode == Mode::shared;
}

// Whether a newcomer may have the key now.
bool Table::may_join(Entry& entry, Mode mode) {
  if (!compatible(entry, mode)) return false;
  const Hold* hold = entry.hold;
  if (hold && (hold->state != Hold::State::held || !covers(entry, mode))) return false;
  if (entry.head && entry.head->overdue) return false;
  if (!hold) return true;
  if (!entry.holders && is_kept(*hold)) return false;  // Its give_back is about to be sent.
  return !handoff_over(entry);
}

// Whether local sessions have had the key for their share and another process may be waiting.
bool Table::handoff_over(Entry& entry) {
  Hold& hold = *entry.hold;
  if (hold.passes == 0) return false;
  if (hold.passes >= kTokenPasses) return true;
  const Time at = now();
  if (hold.handing_since == Time{0}) hold.handing_since = at;
  if (hold.passes < setup_.handoff && at - hold.handing_since < kHandoff) return false;
  return setup_.backend->wanted_elsewhere(entry.key.hash());
}

// Whether nobody may have the key yet, even when it is released (hold_at_least).
bool Table::is_kept(const Hold& hold) const noexcept {
  return hold.keep_until != Time{0} && setup_.runtime->boot_now() < hold.keep_until;
}

void Table::end_window(Hold& hold) noexcept {
  hold.limit.store(kNever, std::memory_order_relaxed);
  hold.keep_until = Time{0};
}

// The request's error; of one whose outcome is unknown, with the time until which the engine may hold the key.
Error Table::with_bound(const spi::Request& request) {
  const bool bounded = request.answer == spi::Answer::unknown && request.ask_again != Time{0};
  if (!bounded || request.error.may_hold_until()) return request.error;
  return Error(request.error).with_may_hold_until(setup_.runtime->boot_now() + (request.ask_again - now()));
}

std::uint64_t Table::next_token(Entry& entry) noexcept {
  Hold* hold = entry.hold;
  if (!hold) return ++entry.shard->next_token;
  if (!entry.holders) end_window(*hold);
  const std::uint32_t pass = hold->passes++;
  return setup_.fencing ? hold->token * kTokenPasses + pass : 0;
}

void Table::begin_take(Entry& entry, spi::Op op, Effects& effects) {
  Hold& hold = *entry.hold;
  const Waiter& head = *entry.head;
  const std::string& label = head.session->label;
  clear_timer(hold);
  hold.state = Hold::State::asking;
  hold.take_busy = true;
  hold.not_before = Time{0};
  const std::size_t length = std::min(label.size(), hold.label.size());
  std::memcpy(hold.label.data(), label.data(), length);
  spi::Request& take = hold.take;
  take.op = op;
  take.mode = head.mode;
  take.identity = entry.key.hash();
  take.key = &entry.key;
  take.label = {hold.label.data(), length};
  // A give_back on its way is answered first: the take follows it on the same link.
  take.seat = op == spi::Op::yield ? hold.seat.load() : hold.give_busy ? hold.give.seat : spi::Seat{};
  take.answer = spi::Answer::pending;
  take.valid_until = kNever;
  take.ask_again = Time{0};
  take.token = 0;
  take.since = Time{0};
  take.group = 0;
  take.owner = &entry;
  ++entry.shard->counters.engine_requests;
  effects.add_send(take);
}

void Table::begin_give(Entry& entry, ReleaseWait* wait, Effects& effects) {
  Hold& hold = *entry.hold;
  clear_timer(hold);
  hold.state = Hold::State::absent;
  hold.give_busy = true;
  hold.give_queued.store(false, std::memory_order_relaxed);
  hold.release_wait = wait;
  spi::Request& give = hold.give;
  give.op = spi::Op::give_back;
  give.mode = hold.mode;
  give.quiet = wait == nullptr;
  give.identity = entry.key.hash();
  give.key = &entry.key;
  give.label = hold.take.label;
  give.seat = hold.seat;
  give.keep_until = is_kept(hold) ? hold.keep_until : Time{0};
  give.answer = spi::Answer::pending;
  give.ask_again = Time{0};
  give.owner = &entry;
  ++entry.shard->counters.engine_requests;
  effects.add_send(give);
}

// Forgets a grant of the engine whose validity has run out. True if there was one.
bool Table::expire(Entry& entry, Effects& effects) {
  Hold* hold = entry.hold;
  if (!hold || hold->state != Hold::State::held) return false;
  const Time until = valid_until(*hold);
  if (until == kNever || setup_.runtime->boot_now() < until) return false;
  const bool limited = until == hold->limit.load(std::memory_order_relaxed);
  const char* const why = limited ? "it was held for as long as hold_at_most allows"
                                  : "its validity ran out before the engine confirmed it again";
  lose(entry, Error(errc::lock_lost, why), effects);
  // The engine may still hold it for us; nothing of ours may stay behind.
  if (!hold->give_busy) {
    begin_give(entry, nullptr, effects);
    hold->cleanup = true;
  }
  return true;
}

void Table::lapse(const TableGrant& grant, Effects& effects) {
  Entry& entry = *grant.entry_;
  std::lock_guard lock(entry.shard->mutex);
  if (expire(entry, effects)) settle(entry, false, effects);
}

void Table::lose(Entry& entry, const Error& error, Effects& effects) {
  Hold& hold = *entry.hold;
  clear_timer(hold);
  hold.state = Hold::State::absent;
  bool told = false;
  while (TableGrant* grant = entry.holders) {
    ++entry.shard->counters.lost;
    grant->extra().reason = error;
    if (setup_.observed) {
      Event event{Event::Kind::lost, std::string(grant->key().string()), grant->session->label, error, Time{0}};
      notice(effects, {.event = std::move(event)});
      told = true;
    }
    if (grant->extra().lost.stop_possible()) {
      notice(effects, {.fire = grant->extra().lost});
      told = true;
    }
    end_grant(*grant, TableGrant::State::lost);
  }
  if (told) {
    ++hold.mourning;
    notice(effects, {.mourned = &entry});
  }
}

// ---- time

Time Table::valid_until(const TableGrant& grant) const noexcept {
  return grant.entry_->hold ? valid_until(*grant.entry_->hold) : kNever;
}

Time Table::valid_until(const Hold& hold) const noexcept {
  const Time own = hold.valid_until.load(std::memory_order_relaxed);
  const Time limit = hold.limit.load(std::memory_order_relaxed);
  const spi::Seat held_by = hold.seat.load(std::memory_order_relaxed);
  if (own == kNever || held_by.link >= seats_.size()) return std::min(own, limit);
  const SeatLife& seat = seats_[held_by.link];
  const Time shared = seat.valid_until.load(std::memory_order_acquire);
  const bool alive = seat.life.load(std::memory_order_acquire) == held_by.life;
  return std::min(alive ? std::max(own, shared) : own, limit);
}

void Table::set_window(TableGrant& grant, Time keep_until, Time limit, Effects& effects) {
  Entry& entry = *grant.entry_;
  std::lock_guard lock(entry.shard->mutex);
  if (grant.state_.load(std::memory_order_relaxed) != TableGrant::State::held) return;
  Hold& hold = *entry.hold;
  hold.keep_until = std::max(hold.keep_until, keep_until);
  hold.limit.store(std::min(hold.limit.load(std::memory_order_relaxed), limit), std::memory_order_relaxed);
  if (valid_until(hold) != kNever) set_timer(hold, effects);
}

// When the service thread has to look at the hold, on the steady clock.
Time Table::due(const Hold& hold) const noexcept {
  if (hold.state != Hold::State::held) return hold.not_before;
  const Time until = valid_until(hold);
  if (until == kNever) return kNever;
  return setup_.runtime->steady_now() + std::max(Time{0}, until - setup_.runtime->boot_now());
}

void Table::set_timer(Hold& hold, Effects& effects) {
  if (!hold.timed) {
    Hold*& first = hold.entry->shard->timed;
    hold.timed = true;
    hold.timed_prev = nullptr;
    hold.timed_next = first;
    if (first) first->timed_prev = &hold;
    first = &hold;
  }
  const Time at = due(hold);
  Time next = next_due_.load();
  while (at < next) {
    if (next_due_.compare_exchange_weak(next, at)) {
      effects.rearm = true;
      return;
    }
  }
}

void Table::clear_timer(Hold& hold) noexcept {
  if (!hold.timed) return;
  hold.timed = false;
  (hold.timed_prev ? hold.timed_prev->timed_next : hold.entry->shard->timed) = hold.timed_next;
  if (hold.timed_next) hold.timed_next->timed_prev = hold.timed_prev;
}

Time Table::run_timers(Effects& effects) {
  if (now() < next_due_.load()) return next_due_.load();
  next_due_.store(kNever);
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    for (Hold *hold = shard.timed, *next = nullptr; hold; hold = next) {
      next = hold->timed_next;
      if (now() < due(*hold)) {
        set_timer(*hold, effects);
      } else {
        run_timer(*hold, effects);
      }
    }
  }
  return next_due_.load();
}

void Table::run_timer(Hold& hold, Effects& effects) {
  Entry& entry = *hold.entry;
  clear_timer(hold);
  if (hold.polling) {
    ask_again(entry, effects);
    return;
  }
  if (hold.state == Hold::State::held && !expire(entry, effects)) {
    set_timer(hold, effects);
    return;
  }
  settle(entry, false, effects);
}

void Table::start_polling(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  hold.polling = true;
  hold.not_before = hold.take.ask_again != Time{0} ? hold.take.ask_again : now() + jittered(kPoll, *setup_.runtime);
  set_timer(hold, effects);
}

void Table::wait_begun(Entry& entry, Effects& effects) {
  std::lock_guard lock(entry.shard->mutex);
  Hold* hold = entry.hold;
  if (!hold || hold->state != Hold::State::waiting || !hold->take_busy) return;
  // A stop_wait() that was called before the wait began was not heard; is it still meant?
  hold->stopping = !entry.head;
  if (hold->stopping) effects.stops.push_back(&hold->take);
}

void Table::wait_refused(Entry& entry, Effects& effects) {
  std::lock_guard lock(entry.shard->mutex);
  entry.hold->take_busy = false;
  entry.hold->stopping = false;
  start_polling(entry, effects);
  settle(entry, false, effects);
}

// Asks once more for a key that we poll for; a try meanwhile is still refused, as the state stays `waiting`.
void Table::ask_again(Entry& entry, Effects& effects) {
  Hold& hold = *entry.hold;
  hold.polling = false;
  hold.state = Hold::State::absent;
  hold.not_before = Time{0};
  if (!entry.head || !may_follow_give(hold)) return settle(entry, false, effects);
  begin_take(entry, spi::Op::take, effects);
  hold.state = Hold::State::waiting;
}

}  // namespace lockr::core
