#include "tests/torture/checker.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "lockr/result.h"

namespace lockr::torture {
namespace {

constexpr auto code(errc value) { return static_cast<std::uint8_t>(value); }

constexpr int kSlots = 4;  // Two workers with two threads each.
constexpr int kKeys = 4;   // The last is spare.

// A good history that has everything in it: 200 turns in which the slots hold key 0 one after the other while the next
// waits, tries that are refused, readers together on key 1, a cold key 2, timeouts and cancels.
class GoodHistory {
 public:
  GoodHistory() {
    history.threads = 2;
    history.slots = kSlots;
    history.keys = kKeys;
    history.fault_names = {"kill", "restart", "stop"};
    history.bounds = {.takeover = 50 * kMillisecond,
                      .loss = 100 * kMillisecond,
                      .wake = 20 * kMillisecond,
                      .reserve = 5 * kMillisecond,
                      .reply = kSecond,
                      .release = 5 * kSecond};
    for (int turn = 0; turn < kTurns; ++turn) add_turn(turn);
    history.end = start_of(kTurns) + kSecond;
  }

  static constexpr int kTurns = 200;
  static Nanos start_of(int turn) { return kSecond + turn * 10 * kMillisecond; }

  /// The writer of key 0 in that turn.
  Attempt& writer(int turn) { return of(turn, 0, Call::lock); }
  Attempt& refused(int turn) { return of(turn, 0, Call::try_lock); }
  Attempt& reader(int turn, std::uint16_t slot) {
    for (Attempt& attempt : history.attempts) {
      if (attempt.key == 1 && attempt.slot == slot && attempt.answered > start_of(turn)) return attempt;
    }
    throw std::logic_error("no such reader");
  }
  Attempt& cold(int turn) { return of(turn, 2, Call::lock); }

  FaultRecord& fault(int kind, int effects, int worker, Nanos begin, Nanos end) {
    history.faults.push_back({.kind = static_cast<std::uint16_t>(kind),
                              .effects = static_cast<std::uint16_t>(effects),
                              .worker = static_cast<std::int16_t>(worker),
                              .incarnation = static_cast<std::uint16_t>(worker == kEveryone ? 0 : 1),
                              .begin = begin,
                              .end = end,
                              .settled = end});
    return history.faults.back();
  }

  Verdict judge() const { return check(history); }

  History history;

 private:
  Attempt& of(int turn, int key, Call call) {
    for (Attempt& attempt : history.attempts) {
      if (attempt.key == key && attempt.call == call && attempt.answered >= start_of(turn)) return attempt;
    }
    throw std::logic_error("no such attempt");
  }

  Attempt made(int slot, int key, Call call, Nanos asked, Nanos answered) {
    Attempt attempt;
    attempt.slot = static_cast<std::uint16_t>(slot);
    attempt.key = static_cast<std::uint16_t>(key);
    attempt.call = call;
    attempt.asked = asked;
    attempt.answered = answered;
    attempt.incarnation = 1;
    attempt.timeout_us = call == Call::try_lock ? 0 : 500'000;
    attempt.answer = kSuccess;
    attempt.release_answer = kSuccess;
    return attempt;
  }
  void grant(Attempt attempt, Nanos left, Nanos released, std::uint64_t token) {
    attempt.left = left;
    attempt.released = released;
    attempt.token = token;
    history.attempts.push_back(attempt);
  }
  void refuse(Attempt attempt, errc answer) {
    attempt.answer = code(answer);
    attempt.release_answer = kPending;
    history.attempts.push_back(attempt);
  }

  // The writer asked in the turn before, and is in from 0.1 ms to 9 ms of its own.
  void add_turn(int turn) {
    const Nanos at = start_of(turn);
    const auto token = static_cast<std::uint64_t>(1000 + 10 * turn);
    const int slot = turn % 2 * 2;
    grant(made(slot, 0, Call::lock, at - 5 * kMillisecond, at + kMillisecond / 10), at + 9 * kMillisecond,
          at + 9 * kMillisecond + kMillisecond / 2, token);
    refuse(made(2 - slot, 0, Call::try_lock, at + 2 * kMillisecond, at + 3 * kMillisecond), errc::not_acquired);
    for (const int reader : {1, 3}) {
      Attempt attempt = made(reader, 1, Call::lock, at + kMillisecond, at + 2 * kMillisecond);
      attempt.marks = kShared;
      grant(attempt, at + 4 * kMillisecond, at + 5 * kMillisecond, token + static_cast<std::uint64_t>(reader));
    }
    if (turn % 20 == 0) {
      grant(made(1, 2, Call::lock, at + 6 * kMillisecond, at + 7 * kMillisecond), at + 8 * kMillisecond,
            at + 8 * kMillisecond, token);
    }
    Attempt impatient = made(3, 0, Call::lock, at + 6 * kMillisecond, at + 8 * kMillisecond);
    impatient.timeout_us = turn % 2 == 0 ? 1000 : 500'000;
    if (turn % 2 != 0) impatient.marks = kStoppable;
    refuse(impatient, turn % 2 == 0 ? errc::timeout : errc::cancelled);
  }
};

// Exactly that oracle finds something, once.
void expect_only(const Verdict& verdict, Oracle oracle) {
  EXPECT_EQ(verdict.counts.size(), 1u);
  EXPECT_EQ(verdict.counts.contains(oracle) ? verdict.counts.at(oracle) : 0, 1u) << name_of(oracle);
  for (const Violation& violation : verdict.violations) {
    if (violation.oracle != oracle) ADD_FAILURE() << name_of(violation.oracle) << ": " << violation.text;
  }
}

void expect_clean(const Verdict& verdict) {
  for (const Violation& violation : verdict.violations) {
    ADD_FAILURE() << name_of(violation.oracle) << ": " << violation.text;
  }
}

TEST(Checker, finds_nothing_in_a_good_history) {
  const GoodHistory good;
  const Verdict verdict = good.judge();
  expect_clean(verdict);
  EXPECT_EQ(verdict.attempts, good.history.attempts.size());
  EXPECT_EQ(verdict.grants, 3u * GoodHistory::kTurns + 10);
}

TEST(Checker, finds_an_overlap) {
  GoodHistory history;
  history.writer(50).answered = history.writer(49).left - 1;
  expect_only(history.judge(), Oracle::exclusion);
}

TEST(Checker, finds_a_writer_beside_a_reader) {
  GoodHistory history;
  // Early, so that no token is out of order.
  history.reader(50, 1).marks = 0;
  const Verdict verdict = history.judge();
  EXPECT_EQ(verdict.counts.size(), 1u);
  EXPECT_TRUE(verdict.counts.contains(Oracle::exclusion));
}

TEST(Checker, counts_an_overlap_beyond_the_validity_as_none) {
  GoodHistory history;
  history.writer(49).valid_until = history.writer(50).answered - kMillisecond;
  history.writer(49).left = history.writer(50).answered + kMillisecond;
  history.writer(49).marks |= kLost;
  history.fault(2, kStops | kMayLose, 1, history.writer(49).answered, history.writer(49).left - 1);
  expect_clean(history.judge());
}

TEST(Checker, excuses_an_overlap_by_a_fault_within_the_loss_bound) {
  GoodHistory history;
  Attempt& loser = history.writer(49);
  loser.left = loser.released = history.writer(50).answered + 2 * kMillisecond;
  loser.marks |= kLost;
  history.fault(1, kMayLose, kEveryone, GoodHistory::start_of(49) + 5 * kMillisecond,
                GoodHistory::start_of(49) + 6 * kMillisecond);
  const Verdict verdict = history.judge();
  expect_clean(verdict);
  EXPECT_EQ(verdict.excused, 1u);
  EXPECT_GT(verdict.worst_loss, 0);

  history.history.bounds.loss = kMillisecond;
  const Verdict strict = history.judge();
  EXPECT_TRUE(strict.counts.contains(Oracle::exclusion));
  EXPECT_TRUE(strict.counts.contains(Oracle::loss));
}

// A process that does not know of its loss yet hands the lock on: what begins after the fault comes from before it.
TEST(Checker, excuses_a_lock_that_was_handed_on_within_the_loss_bound) {
  GoodHistory history;
  Attempt& heir = history.writer(51);
  heir.left = heir.released = history.writer(52).answered + 2 * kMillisecond;
  heir.token = history.writer(49).token;
  heir.marks |= kStale;
  heir.release_answer = code(errc::not_released);
  history.fault(1, kMayLose, 1, GoodHistory::start_of(49) + 5 * kMillisecond,
                GoodHistory::start_of(49) + 6 * kMillisecond);
  expect_clean(history.judge());

  history.history.bounds.loss = kMillisecond;
  const Verdict strict = history.judge();
  for (const Oracle oracle : {Oracle::exclusion, Oracle::fence, Oracle::stale, Oracle::error}) {
    EXPECT_TRUE(strict.counts.contains(oracle)) << name_of(oracle);
  }
}

TEST(Checker, does_not_excuse_an_overlap_by_a_fault_of_somebody_else) {
  GoodHistory history;
  Attempt& loser = history.writer(49);  // Of worker 1; the winner is of worker 0, and had it to itself.
  loser.left = loser.released = history.writer(50).answered + 2 * kMillisecond;
  history.fault(1, kDisturbs, kEveryone, GoodHistory::start_of(49), GoodHistory::start_of(50));
  EXPECT_TRUE(history.judge().counts.contains(Oracle::exclusion));
}

TEST(Checker, finds_swapped_tokens) {
  GoodHistory history;
  std::swap(history.writer(50).token, history.writer(51).token);
  const Verdict verdict = history.judge();
  EXPECT_EQ(verdict.counts.size(), 1u);
  EXPECT_TRUE(verdict.counts.contains(Oracle::fence));
}

TEST(Checker, finds_a_token_that_was_there_before) {
  GoodHistory history;
  history.writer(50).token = history.writer(49).token;
  expect_only(history.judge(), Oracle::fence);
}

TEST(Checker, finds_tokens_that_start_anew_after_a_stretch) {
  GoodHistory history;
  history.history.last_tokens = {1000, 0, 0};
  expect_only(history.judge(), Oracle::fence);
  history.history.last_tokens = {999, 0, 0};
  expect_clean(history.judge());
}

TEST(Checker, finds_a_missing_release) {
  GoodHistory history;
  Attempt& holder = history.writer(GoodHistory::kTurns - 1);
  holder.left = holder.released = 0;
  expect_only(history.judge(), Oracle::late);
}

TEST(Checker, finds_a_call_that_never_returned) {
  GoodHistory history;
  history.refused(GoodHistory::kTurns - 1).answer = kPending;
  history.refused(GoodHistory::kTurns - 1).answered = 0;
  expect_only(history.judge(), Oracle::late);
}

TEST(Checker, finds_a_lost_wake_up) {
  GoodHistory history;
  // Everybody left key 0 at once, 30 ms before the writer who waited came in.
  for (int turn = 47; turn < 50; ++turn) history.writer(turn).key = history.refused(turn).key = 3;
  history.writer(50).asked = history.writer(46).left;
  for (Attempt& attempt : history.history.attempts) {
    if (attempt.slot == 3 && attempt.key == 0)
      attempt.key = 3, attempt.answer = code(errc::timeout), attempt.timeout_us = 1;
  }
  history.history.bounds.reserve = kSecond;  // Refusals are not the matter here.
  expect_only(history.judge(), Oracle::wake_up);

  // A machine that stood still is no fault of anybody.
  history.history.stalls.push_back({kEveryone, GoodHistory::start_of(47), GoodHistory::start_of(49)});
  expect_clean(history.judge());
}

TEST(Checker, finds_somebody_who_timed_out_at_a_free_key) {
  GoodHistory history;
  Attempt waiter;
  waiter.slot = 1;
  waiter.key = 2;
  waiter.incarnation = 1;
  waiter.asked = GoodHistory::start_of(21);
  waiter.answered = GoodHistory::start_of(27);
  waiter.timeout_us = 60'000;
  waiter.answer = code(errc::timeout);
  auto& attempts = history.history.attempts;
  const auto at = std::find_if(attempts.begin(), attempts.end(),
                               [](const Attempt& a) { return a.slot == 1 && a.asked > GoodHistory::start_of(27); });
  attempts.insert(at, waiter);
  expect_only(history.judge(), Oracle::wake_up);
}

// The writer of a turn was killed inside, and the one after it comes so much later.
void kill_writer(GoodHistory& history, int turn, Nanos later) {
  Attempt& dead = history.writer(turn);
  const int worker = dead.slot / 2;
  const Nanos time = dead.answered + kMillisecond;
  dead.left = dead.released = 0;
  dead.release_answer = kPending;
  history.fault(0, kKills, worker, time, time + kMillisecond / 2);
  for (Attempt& attempt : history.history.attempts) {
    if (attempt.slot / 2 == worker && attempt.asked > time) attempt.incarnation = 2;
  }
  const int next = turn + 1 + static_cast<int>(later / (10 * kMillisecond));
  const Nanos asked = history.writer(turn + 1).asked;
  for (int moved = turn + 1; moved < next; ++moved) history.writer(moved).key = 3;
  history.writer(next).asked = std::min(asked, time - 1);
}

TEST(Checker, measures_a_takeover) {
  GoodHistory history;
  kill_writer(history, 50, 0);
  const Verdict verdict = history.judge();
  expect_clean(verdict);
  EXPECT_EQ(verdict.takeovers, 1u);
  EXPECT_EQ(verdict.killed_holders, 1u);
  EXPECT_EQ(verdict.worst_takeover, 9 * kMillisecond);
}

TEST(Checker, finds_a_late_takeover) {
  GoodHistory history;
  kill_writer(history, 50, 100 * kMillisecond);
  history.history.bounds.reserve = kSecond;
  for (Attempt& attempt : history.history.attempts) {
    if (attempt.slot == 3 && attempt.key == 0) attempt.key = 3;
  }
  expect_only(history.judge(), Oracle::takeover);
}

TEST(Checker, finds_two_holders_where_one_was_killed_later) {
  GoodHistory history;
  kill_writer(history, 50, 0);
  history.writer(51).answered = history.history.faults[0].begin - kMillisecond / 2;
  EXPECT_TRUE(history.judge().counts.contains(Oracle::exclusion));
}

TEST(Checker, finds_a_refusal_of_a_free_key) {
  GoodHistory history;
  Attempt& refused = history.refused(50);
  refused.key = 2;
  expect_only(history.judge(), Oracle::refusal);
}

TEST(Checker, allows_a_refusal_while_the_key_is_kept_for_somebody) {
  GoodHistory history;
  Attempt& refused = history.refused(40);
  refused.key = 2;
  refused.asked = history.cold(40).released + 4 * kMillisecond;
  refused.answered = refused.asked + 1;
  expect_clean(history.judge());
}

// The waiter of key 2 in turn 40 left while its ask could not get through; who asks `later` than the last trace of that
// is refused.
Verdict refused_after_a_cut(Nanos later) {
  GoodHistory history;
  Attempt& left = history.cold(40);
  left.answer = code(errc::timeout);
  left.timeout_us = 1;
  left.release_answer = kPending;
  const Nanos settled = left.answered + 100 * kMillisecond;
  history.fault(1, kCuts, kEveryone, left.asked, left.answered).settled = settled;
  Attempt& refused = history.refused(140);
  refused.key = 3;
  left.key = 3;
  refused.asked = settled + 1500 * kMillisecond + history.history.bounds.reserve + later;
  refused.answered = refused.asked + 1;
  return history.judge();
}

TEST(Checker, allows_a_refusal_while_what_a_cut_delayed_may_arrive) { expect_clean(refused_after_a_cut(0)); }

TEST(Checker, finds_a_refusal_when_the_traces_of_a_cut_are_gone) {
  expect_only(refused_after_a_cut(kMillisecond), Oracle::refusal);
}

TEST(Checker, finds_a_loss_that_nothing_explains) {
  GoodHistory history;
  history.writer(50).marks |= kLost;
  expect_only(history.judge(), Oracle::loss);
}

TEST(Checker, finds_a_loss_that_was_told_too_late) {
  GoodHistory history;
  history.history.bounds.loss = kMillisecond;
  Attempt& loser = history.writer(50);
  loser.marks |= kLost;
  history.fault(1, kMayLose, kEveryone, loser.answered + kMillisecond, loser.answered + 2 * kMillisecond);
  expect_only(history.judge(), Oracle::loss);
}

TEST(Checker, finds_a_certain_loss_that_was_not_told) {
  GoodHistory history;
  history.history.bounds.loss = kMillisecond;
  const Attempt& holder = history.writer(50);
  history.fault(1, kLosesAll, kEveryone, holder.answered + kMillisecond, holder.answered + 2 * kMillisecond);
  expect_only(history.judge(), Oracle::loss);
  history.history.bounds.loss = 100 * kMillisecond;
  expect_clean(history.judge());
}

TEST(Checker, finds_errors_that_nothing_explains) {
  for (const errc answer : {errc::connection_lost, errc::backend_failure, errc::capacity}) {
    GoodHistory history;
    history.refused(50).answer = code(answer);
    expect_only(history.judge(), Oracle::error);
    const int effect = answer == errc::connection_lost ? kCuts : answer == errc::capacity ? kExhausts : kFails;
    history.fault(1, effect, 0, GoodHistory::start_of(50), GoodHistory::start_of(51));
    history.fault(1, effect, 1, GoodHistory::start_of(50), GoodHistory::start_of(51));
    expect_clean(history.judge());
  }
  for (const errc answer : {errc::deadlock, errc::session_closed, errc::timeout, errc::invalid_key}) {
    GoodHistory history;
    history.refused(50).answer = code(answer);
    history.fault(1, kCuts | kFails | kExhausts, kEveryone, GoodHistory::start_of(50), GoodHistory::start_of(51));
    expect_only(history.judge(), Oracle::error);
  }
}

TEST(Checker, finds_a_release_that_the_engine_denied) {
  GoodHistory history;
  history.writer(50).release_answer = code(errc::not_released);
  expect_only(history.judge(), Oracle::error);
}

TEST(Checker, finds_a_late_answer_and_an_early_timeout) {
  GoodHistory late;
  Attempt& slow = late.refused(GoodHistory::kTurns - 1);
  slow.answered = slow.asked + late.history.bounds.reply + kMillisecond;
  expect_only(late.judge(), Oracle::late);

  GoodHistory early;
  for (Attempt& attempt : early.history.attempts) {
    if (attempt.answer != code(errc::timeout) || attempt.asked < GoodHistory::start_of(50)) continue;
    attempt.timeout_us = 3000;
    break;
  }
  expect_only(early.judge(), Oracle::early);
}

TEST(Checker, finds_what_the_witness_and_the_resource_saw) {
  GoodHistory met;
  met.writer(50).marks |= kMet;
  expect_only(met.judge(), Oracle::witness);

  GoodHistory stale;
  stale.writer(50).marks |= kStale;
  expect_only(stale.judge(), Oracle::stale);

  GoodHistory careless;
  careless.writer(50).marks |= kOverwrote;
  expect_only(careless.judge(), Oracle::stale);
}

TEST(Checker, shows_the_piece_of_history) {
  GoodHistory history;
  history.writer(50).answered = history.writer(49).left - 1;
  History judged;
  const Verdict verdict = check(history.history, &judged);
  ASSERT_EQ(verdict.violations.size(), 1u);
  const std::string text = describe(verdict.violations[0], judged, GoodHistory::start_of(0));
  EXPECT_NE(text.find("exclusion: two holders at once"), text.npos) << text;
  EXPECT_NE(text.find("worker 1.1 session 2: lock key 0 exclusive"), text.npos) << text;
  EXPECT_NE(text.find("worker 0.1 session 0: lock key 0 exclusive"), text.npos) << text;
}

}  // namespace
}  // namespace lockr::torture
