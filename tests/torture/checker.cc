#include "tests/torture/checker.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "lockr/result.h"
#include "tests/torture/slack.h"

namespace lockr::torture {
namespace {

constexpr Nanos kNever = std::numeric_limits<Nanos>::max();
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

constexpr auto code(errc value) { return static_cast<std::uint8_t>(value); }

bool hits(const FaultRecord& fault, int worker) { return fault.worker == kEveryone || fault.worker == worker; }

std::string milliseconds(Nanos time) {
  char text[40];
  std::snprintf(text, sizeof text, "%.3f ms", static_cast<double>(time) / kMillisecond);
  return text;
}

class Checker {
 public:
  explicit Checker(History history) : history_(std::move(history)), slack_(history_) {}

  Verdict run() {
    settle();
    sort_by_key();
    for (std::size_t key = 0; key < static_cast<std::size_t>(history_.keys); ++key) check_key(key);
    for (std::size_t i = 0; i < history_.attempts.size(); ++i) check_attempt(i);
    check_certain_losses();
    return std::move(verdict_);
  }
  History take_history() { return std::move(history_); }

 private:
  using Index = std::uint32_t;
  using Order = std::vector<Index>;

  // Of one key, by answered; what the sweep knows of the past.
  struct Sweep {
    std::size_t writer = kNone, reader = kNone;  // Whose core ends last.
    Nanos writer_end = 0, reader_end = 0;
    std::size_t token_of = kNone, writer_token_of = kNone;  // Who had the largest token, of all and of the writers.
    std::uint64_t token = 0, writer_token = 0;
    Nanos busy_until = 0;       // Until then a try may be refused.
    Nanos free_from = 0;        // Nobody has held the key since.
    Nanos must_by = 0;          // By then a waiter must have it.
    std::size_t ended = kNone;  // Whose end `must_by` comes from.
    bool after_kill = false;
  };

  const Attempt& at(std::size_t index) const { return history_.attempts[index]; }
  int worker_of(const Attempt& attempt) const { return history_.worker_of(attempt); }

  void add(Oracle oracle, std::string text, std::vector<std::size_t> attempts, std::vector<std::size_t> faults = {}) {
    verdict_.add({oracle, std::move(text), std::move(attempts), std::move(faults)});
  }

  // The kill that ended the attempt's process; kNone.
  std::size_t killed_by(const Attempt& attempt) const {
    for (std::size_t i = 0; i < history_.faults.size(); ++i) {
      const FaultRecord& fault = history_.faults[i];
      if ((fault.effects & kKills) != 0 && fault.worker == worker_of(attempt) &&
          fault.incarnation == attempt.incarnation) {
        return i;
      }
    }
    return kNone;
  }

  // Attempts that never ended get the end that their process had; what remains open without a kill is stuck.
  void settle() {
    for (std::size_t i = 0; i < history_.attempts.size(); ++i) {
      Attempt& attempt = history_.attempts[i];
      const bool open = attempt.answered == 0 || (attempt.granted() && attempt.released == 0);
      if (!open) continue;
      const std::size_t kill = killed_by(attempt);
      if (kill == kNone) {
        add(Oracle::late, "the call never returned", {i});
        if (attempt.answered == 0) attempt.answered = history_.end;
        if (attempt.left == 0) attempt.left = history_.end;
        attempt.released = history_.end;
        continue;
      }
      const FaultRecord& fault = history_.faults[kill];
      attempt.marks |= kKilled;
      if (attempt.answered == 0) attempt.answered = std::max(attempt.asked, fault.begin);
      if (attempt.left == 0) attempt.left = std::max(attempt.answered, fault.begin);
      attempt.released = std::max(attempt.left, fault.end);
      ++(attempt.granted() ? verdict_.killed_holders : verdict_.killed_waiters);
    }
    verdict_.attempts = history_.attempts.size();
  }

  std::size_t cell(std::size_t key, std::size_t slot) const {
    return key * static_cast<std::size_t>(history_.slots) + slot;
  }
  std::span<const Index> run_of(std::size_t key, std::size_t slot) const {
    const std::size_t at = cell(key, slot);
    return {by_cell_.data() + starts_[at], by_cell_.data() + starts_[at + 1]};
  }

  // Groups by key and slot, keeping each slot's order, which is that of time.
  void sort_by_key() {
    const std::size_t cells = static_cast<std::size_t>(history_.keys) * static_cast<std::size_t>(history_.slots);
    starts_.assign(cells + 1, 0);
    for (const Attempt& attempt : history_.attempts) ++starts_[cell(attempt.key, attempt.slot) + 1];
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    by_cell_.resize(history_.attempts.size());
    auto next = starts_;
    for (std::size_t i = 0; i < history_.attempts.size(); ++i) {
      by_cell_[next[cell(at(i).key, at(i).slot)]++] = static_cast<Index>(i);
    }
  }

  // The key's attempts by answered: the slots' runs, merged pairwise.
  std::vector<std::pair<Nanos, Index>> merged(std::size_t key) const {
    std::vector<std::pair<Nanos, Index>> order, merged;
    std::vector<std::size_t> ends{0};
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
      for (const Index index : run_of(key, slot)) order.emplace_back(at(index).answered, index);
      if (order.size() > ends.back()) ends.push_back(order.size());
    }
    merged.resize(order.size());
    while (ends.size() > 2) {
      std::vector<std::size_t> fewer{0};
      for (std::size_t i = 0; i + 1 < ends.size(); i += 2) {
        const std::size_t middle = ends[i + 1], end = i + 2 < ends.size() ? ends[i + 2] : middle;
        std::merge(order.begin() + diff(ends[i]), order.begin() + diff(middle), order.begin() + diff(middle),
                   order.begin() + diff(end), merged.begin() + diff(ends[i]));
        fewer.push_back(end);
      }
      std::swap(order, merged);
      ends = std::move(fewer);
    }
    return order;
  }
  static std::ptrdiff_t diff(std::size_t size) { return static_cast<std::ptrdiff_t>(size); }

  void check_key(std::size_t key) {
    Sweep sweep;
    if (key < history_.last_tokens.size()) sweep.token = history_.last_tokens[key];
    sweep.writer_token = key < history_.last_writer_tokens.size() ? history_.last_writer_tokens[key] : 0;
    for (const auto& [answered, index] : merged(key)) {
      const Attempt& attempt = at(index);
      if (attempt.granted()) {
        check_exclusion(index, sweep);
        if (attempt.token != 0) check_fence(index, sweep);
        check_wake_up(index, sweep);
        ++verdict_.grants;
      } else if (attempt.answer == code(errc::not_acquired)) {
        check_refusal(index, sweep);
      } else if (attempt.call == Call::lock) {
        check_wake_up(index, sweep);
      }
      remember(index, sweep);
    }
    verdict_.last_tokens.resize(static_cast<std::size_t>(history_.keys));
    verdict_.last_tokens[key] = sweep.token;
    verdict_.last_writer_tokens.resize(static_cast<std::size_t>(history_.keys));
    verdict_.last_writer_tokens[key] = sweep.writer_token;
  }

  // Where the holder certainly held it ends.
  static Nanos core_end(const Attempt& attempt) {
    return attempt.valid_until == 0 ? attempt.left : std::min(attempt.left, attempt.valid_until);
  }

  void check_exclusion(std::size_t index, Sweep& sweep) {
    const Attempt& attempt = at(index);
    bool met = false;
    if (sweep.writer_end > attempt.answered) met = true, overlap(sweep.writer, index);
    if (!attempt.shared() && sweep.reader_end > attempt.answered) met = true, overlap(sweep.reader, index);
    const Nanos end = core_end(attempt);
    if (attempt.shared()) {
      if (end > sweep.reader_end) sweep.reader = index, sweep.reader_end = end;
    } else if (end > sweep.writer_end) {
      sweep.writer = index, sweep.writer_end = end;
    }
    if ((attempt.marks & kMet) != 0 && !met && !outlived(index)) {
      add(Oracle::witness, "the witness shows somebody inside, the times show nobody", {index});
    }
  }

  // Whom the witness met may be one whose validity was over, which the sweep does not see: a neighbour of the grant
  // that stayed until after it came.
  bool outlived(std::size_t index) const {
    const Attempt& attempt = at(index);
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
      if (slot == attempt.slot) continue;
      for (const Index other : from(attempt.key, slot, attempt.answered - 600 * kSecond)) {
        if (at(other).answered > attempt.left) break;
        if (at(other).granted() && at(other).left >= attempt.answered) return true;
      }
    }
    return false;
  }

  // Whether a fault took locks away from the worker so lately that it need not know in that time. A lock that it goes
  // on to believe in is handed on from session to session, so what begins after the fault may come from before it.
  bool unaware(const FaultRecord& fault, int worker, Nanos from, Nanos to) const {
    if ((fault.effects & (kMayLose | kLosesAll)) == 0 || !hits(fault, worker) || fault.begin > to) return false;
    const Nanos end = fault.end == 0 ? history_.end : fault.end;
    return from <= end + history_.bounds.loss + slack_.within(end, from, worker);
  }
  bool unaware(const Attempt& attempt, Nanos from, Nanos to) const {
    return std::any_of(history_.faults.begin(), history_.faults.end(),
                       [&](const FaultRecord& fault) { return unaware(fault, worker_of(attempt), from, to); });
  }

  void overlap(std::size_t first, std::size_t second) {
    const auto excuse = [&](const Attempt& loser, const Attempt& other) {
      return std::any_of(history_.faults.begin(), history_.faults.end(), [&](const FaultRecord& fault) {
        return fault.begin <= other.answered && unaware(fault, worker_of(loser), core_end(loser), core_end(loser));
      });
    };
    if (excuse(at(first), at(second)) || excuse(at(second), at(first))) {
      ++verdict_.excused;
      return;
    }
    const Nanos end = std::min(core_end(at(first)), core_end(at(second)));
    add(Oracle::exclusion, "two holders at once for " + milliseconds(end - at(second).answered), {first, second});
  }

  // A writer's token is larger than those of all who held before it, a reader's than those of the writers; readers are
  // in no order among themselves.
  void check_fence(std::size_t index, Sweep& sweep) {
    const Attempt& attempt = at(index);
    const std::size_t largest = attempt.shared() ? sweep.writer_token_of : sweep.token_of;
    const std::uint64_t before = attempt.shared() ? sweep.writer_token : sweep.token;
    // Where a fault took a lock away, two may hold it at once, and what was lost may be answered after what came next.
    const bool ordered = largest == kNone || at(largest).answered <= attempt.asked ||
                         ((attempt.marks & kLost) == 0 && core_end(at(largest)) <= attempt.answered);
    if (attempt.token <= before && ordered && !unaware(attempt, attempt.asked, attempt.answered)) {
      std::vector<std::size_t> shown{index};
      if (largest != kNone) shown.insert(shown.begin(), largest);
      add(Oracle::fence, "token " + std::to_string(attempt.token) + " after " + std::to_string(before), shown);
    }
    if (attempt.token > sweep.token) sweep.token = attempt.token, sweep.token_of = index;
    if (!attempt.shared() && attempt.token > sweep.writer_token) {
      sweep.writer_token = attempt.token, sweep.writer_token_of = index;
    }
  }

  // The attempts of a slot for a key, from the first that was answered at that time or later.
  std::span<const Index> from(std::size_t key, std::size_t slot, Nanos answered) const {
    const std::span<const Index> run = run_of(key, slot);
    const auto first = std::lower_bound(run.begin(), run.end(), answered,
                                        [this](Index index, Nanos time) { return at(index).answered < time; });
    return run.subspan(static_cast<std::size_t>(first - run.begin()));
  }

  void check_refusal(std::size_t index, const Sweep& sweep) {
    const Attempt& attempt = at(index);
    const int worker = worker_of(attempt);
    if (sweep.busy_until >= attempt.asked) return;
    if (sweep.busy_until + slack_.within(sweep.free_from, attempt.asked, kEveryone) >= attempt.asked) return;
    std::vector<std::size_t> shown{index};
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
      if (slot == attempt.slot) continue;
      for (const Index other : from(attempt.key, slot, attempt.asked)) {
        if (at(other).asked > attempt.answered) break;
        shown.push_back(other);
        if (at(other).answered < attempt.answered) continue;
        // A try in flight is no reason for another process to be refused; inside one its answer is shared.
        if (at(other).answer != code(errc::not_acquired) || worker_of(at(other)) == worker) return;
      }
    }
    add(Oracle::refusal, "refused, though nobody had or wanted the key", std::move(shown));
  }

  // An attempt ended, granted or not, while the key may have been free and it waited.
  void check_wake_up(std::size_t index, Sweep& sweep) {
    const Attempt& attempt = at(index);
    if (attempt.granted() && sweep.after_kill && sweep.ended != kNone) note_takeover(attempt, sweep);
    if (sweep.must_by >= attempt.answered) return;
    if (attempt.granted() || attempt.call == Call::lock) judge_wait(index, attempt.answered, sweep);
    if (!attempt.granted()) return;
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
      if (slot == attempt.slot) continue;
      for (const Index other : from(attempt.key, slot, attempt.answered)) {
        if (at(other).asked < attempt.answered) judge_wait(other, attempt.answered, sweep);
        break;
      }
    }
  }

  void note_takeover(const Attempt& attempt, Sweep& sweep) {
    const Attempt& dead = at(sweep.ended);
    if (attempt.call != Call::lock || attempt.asked >= dead.left || attempt.timeout_us == 0) return;
    ++verdict_.takeovers;
    verdict_.worst_takeover = std::max(verdict_.worst_takeover, attempt.answered - dead.left);
  }

  // Somebody who waited until then, when nobody held the key from `free_from` on.
  void judge_wait(std::size_t index, Nanos until, const Sweep& sweep) {
    const Attempt& waiter = at(index);
    if (waiter.call != Call::lock || waiter.timeout_us == 0 || (waiter.marks & kKilled) != 0) return;
    const int worker = worker_of(waiter);
    const Nanos since = std::max(sweep.free_from, waiter.asked);
    if (!sweep.after_kill && waiter.granted() && waiter.answered == until) {
      verdict_.worst_wake = std::max(verdict_.worst_wake, until - since);
    }
    const Nanos due = std::max(sweep.must_by, waiter.asked + history_.bounds.wake);
    if (until <= due || until <= due + slack_.within(since, until, worker)) return;
    if (until <= excused_until(waiter, sweep, until) + history_.bounds.wake + slack_.within(since, until, worker))
      return;
    std::vector<std::size_t> shown{index};
    if (sweep.ended != kNone) shown.insert(shown.begin(), sweep.ended);
    add(sweep.after_kill ? Oracle::takeover : Oracle::wake_up,
        "waited for a free key for " + milliseconds(until - since) + ", of which " +
            milliseconds(slack_.within(since, until, worker)) + " were not its own",
        shown);
  }

  // Until when the key may have been taken by somebody whose call shows nothing of it: a lock_all that waits for
  // another key, a stopped or killed process that was given it, a failed call whose outcome is open.
  Nanos excused_until(const Attempt& waiter, const Sweep& sweep, Nanos until) const {
    Nanos excused = 0;
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
      if (slot == waiter.slot) continue;
      for (const Index index : from(waiter.key, slot, sweep.free_from)) {
        const Attempt& other = at(index);
        if (other.asked > until) break;
        if (other.call == Call::lock_all) excused = std::max(excused, other.answered);
        for (const FaultRecord& fault : history_.faults) {
          if ((fault.effects & kStops) == 0 || fault.worker != worker_of(other)) continue;
          const Nanos end = fault.end == 0 ? history_.end : fault.end;
          if (fault.begin <= other.answered && end >= other.asked) excused = std::max(excused, end);
        }
      }
    }
    return excused;
  }

  void remember(std::size_t index, Sweep& sweep) {
    const Attempt& attempt = at(index);
    if (attempt.answer == code(errc::not_acquired)) return;
    const Bounds& bounds = history_.bounds;
    const bool killed = (attempt.marks & kKilled) != 0, lost = (attempt.marks & kLost) != 0;
    const bool unknown = killed || lost || attempt.valid_until != 0;
    Nanos end = attempt.granted() || killed ? attempt.released : attempt.answered;
    if (!attempt.granted() && attempt.valid_until != 0) end = std::max(end, attempt.valid_until);
    const Nanos grace = killed || lost ? bounds.takeover : bounds.wake;
    // What the engine has not confirmed may still be on its way to it, for as long as the traces of a fault last.
    const Nanos last_trace = attempt.release_answer == kSuccess
                                 ? 0
                                 : traces_until(kDisturbs | kCuts, worker_of(attempt), attempt.asked, end);
    sweep.busy_until = std::max(sweep.busy_until, std::max(end, last_trace) + bounds.reserve);
    if (killed || lost) sweep.busy_until = std::max(sweep.busy_until, end + bounds.takeover);
    if (!attempt.granted() && !unknown) return;
    if (attempt.granted()) sweep.free_from = std::max(sweep.free_from, lost ? attempt.left : end);
    if (end + grace > sweep.must_by) {
      sweep.must_by = end + grace;
      sweep.ended = index;
      sweep.after_kill = killed;
    }
  }

  // Until when there are traces of the faults of these effects that touched the worker in that time, 0: none did. One
  // that cut connections leaves some for a while, as they come back one after the other and need not all be there
  // again at once where processes compete for processors.
  Nanos traces_until(int effects, int worker, Nanos from, Nanos to) const {
    constexpr Nanos kComesBack = 1500 * kMillisecond;
    Nanos until = 0;
    for (const FaultRecord& fault : history_.faults) {
      if ((fault.effects & effects) == 0 || !hits(fault, worker) || fault.begin > to) continue;
      const Nanos end = fault.end == 0 ? history_.end : std::max(fault.end, fault.settled);
      const Nanos last = end + ((fault.effects & kCuts) != 0 ? kComesBack : 0);
      if (last + slack_.within(end, from, worker) >= from) until = std::max(until, last);
    }
    return until;
  }
  bool excused_by(int effects, int worker, Nanos from, Nanos to) const {
    return traces_until(effects, worker, from, to) != 0;
  }

  void check_attempt(std::size_t index) {
    const Attempt& attempt = at(index);
    if ((attempt.marks & kKilled) != 0 || attempt.answer == kPending) return;
    check_duration(index);
    if (!attempt.granted()) {
      check_answer(index, attempt.answer, attempt.asked, attempt.answered);
      return;
    }
    if ((attempt.marks & kLost) != 0) check_loss(index);
    if (attempt.release_answer != kSuccess && attempt.release_answer != kPending) check_release(index);
    if ((attempt.marks & kStale) != 0) check_stale(index);
    if ((attempt.marks & kOverwrote) != 0)
      add(Oracle::stale, "the resource took an old token after a newer one", {index});
  }

  void check_duration(std::size_t index) {
    const Attempt& attempt = at(index);
    const Nanos timeout = static_cast<Nanos>(attempt.timeout_us) * kMicrosecond,
                took = attempt.answered - attempt.asked;
    const Nanos bound = timeout + history_.bounds.reply;
    const int worker = worker_of(attempt);
    if (took > bound && took > bound + slack_.within(attempt.asked, attempt.answered, worker)) {
      add(Oracle::late, "returned " + milliseconds(took - timeout) + " after its timeout", {index});
    }
    if (attempt.answer == code(errc::timeout) && took < timeout) {
      add(Oracle::early, "timed out " + milliseconds(timeout - took) + " too early", {index});
    }
    if (!attempt.granted()) return;
    const Nanos gave = attempt.released - attempt.left;
    if (gave > history_.bounds.release &&
        gave > history_.bounds.release + slack_.within(attempt.left, attempt.released, worker)) {
      add(Oracle::late, "the release took " + milliseconds(gave), {index});
    }
  }

  void check_answer(std::size_t index, std::uint8_t answer, Nanos from, Nanos to) {
    const Attempt& attempt = at(index);
    const auto excused = [&](int effects) { return excused_by(effects, worker_of(attempt), from, to); };
    bool fits = false;
    switch (static_cast<errc>(answer)) {
      case errc::not_acquired:
        fits = attempt.timeout_us == 0;
        break;
      case errc::timeout:
        fits = attempt.timeout_us != 0;
        break;
      case errc::cancelled:
        fits = (attempt.marks & kStoppable) != 0;
        break;
      case errc::connection_lost:
        fits = excused(kCuts);
        break;
      case errc::backend_failure:
        fits = excused(kFails);
        break;
      case errc::capacity:
        fits = excused(kExhausts);
        break;
      default:
        break;
    }
    if (!fits) add(Oracle::error, std::string("answered ") + name_of(static_cast<errc>(answer)), {index});
  }

  void check_release(std::size_t index) {
    const Attempt& attempt = at(index);
    const int worker = worker_of(attempt);
    bool fits = false;
    switch (static_cast<errc>(attempt.release_answer)) {
      case errc::lock_lost:
        fits = (attempt.marks & kLost) != 0 || unaware(attempt, attempt.answered, attempt.released);
        break;
      case errc::not_released:
        fits = unaware(attempt, attempt.answered, attempt.released);
        break;
      case errc::connection_lost:
        fits = excused_by(kCuts, worker, attempt.left, attempt.released);
        break;
      case errc::backend_failure:
        fits = excused_by(kFails, worker, attempt.left, attempt.released);
        break;
      default:
        break;
    }
    const auto answer = static_cast<errc>(attempt.release_answer);
    if (!fits) add(Oracle::error, std::string("the release answered ") + name_of(answer), {index});
  }

  // A refused token needs a newer one; who was written over without being lost was not alone.
  void check_stale(std::size_t index) {
    const Attempt& attempt = at(index);
    if ((attempt.marks & kLost) != 0) return;
    if (unaware(attempt, attempt.answered, attempt.left)) return;
    add(Oracle::stale, "the resource refused a holder's token " + std::to_string(attempt.token), {index});
  }

  void check_loss(std::size_t index) {
    const Attempt& attempt = at(index);
    const int worker = worker_of(attempt);
    ++verdict_.losses;
    std::size_t cause = kNone;
    Nanos lost = 0;  // The latest moment at which it can have gone.
    for (std::size_t i = 0; i < history_.faults.size(); ++i) {
      const FaultRecord& fault = history_.faults[i];
      if (!unaware(fault, worker, attempt.asked, attempt.left)) continue;
      const Nanos end = std::min(fault.end == 0 ? history_.end : fault.end, attempt.left);
      if (cause == kNone || end > lost) cause = i, lost = end;
    }
    if (cause == kNone) {
      add(Oracle::loss, "lost, and no fault took it away", {index});
      return;
    }
    const Nanos took = attempt.left - lost;
    verdict_.worst_loss = std::max(verdict_.worst_loss, took);
    if (took > history_.bounds.loss + slack_.within(lost, attempt.left, worker)) {
      add(Oracle::loss, "told " + milliseconds(took) + " after the fault", {index}, {cause});
    }
  }

  // After a fault that takes every lock away nobody may go on believing.
  void check_certain_losses() {
    for (std::size_t i = 0; i < history_.faults.size(); ++i) {
      const FaultRecord& fault = history_.faults[i];
      if ((fault.effects & kLosesAll) == 0) continue;
      for (std::size_t key = 0; key < static_cast<std::size_t>(history_.keys); ++key) {
        for (std::size_t slot = 0; slot < static_cast<std::size_t>(history_.slots); ++slot) {
          if (hits(fault, static_cast<int>(slot) / history_.threads)) check_certain_loss(i, key, slot);
        }
      }
    }
  }

  void check_certain_loss(std::size_t cause, std::size_t key, std::size_t slot) {
    const FaultRecord& fault = history_.faults[cause];
    const std::span<const Index> run = run_of(key, slot);
    // The last that was answered before the fault.
    const auto after = from(key, slot, fault.begin);
    if (after.size() == run.size()) return;
    const std::size_t index = run[run.size() - after.size() - 1];
    const Attempt& attempt = at(index);
    if (!attempt.granted() || (attempt.marks & (kLost | kKilled)) != 0) return;
    const Nanos end = fault.end == 0 ? history_.end : fault.end;
    if (attempt.left <= end + history_.bounds.loss + slack_.within(end, attempt.left, worker_of(attempt))) return;
    add(Oracle::loss, "not told of its loss in " + milliseconds(attempt.left - end), {index}, {cause});
  }

  History history_;
  Slack slack_;
  Verdict verdict_;
  std::vector<Index> by_cell_;
  std::vector<std::size_t> starts_;  // Of each cell in by_cell_, and the end.
};

std::string answer_name(std::uint8_t answer) {
  if (answer == kSuccess) return "ok";
  if (answer == kPending) return "-";
  return name_of(static_cast<errc>(answer));
}

std::string describe(const Attempt& attempt, const History& history, Nanos origin) {
  const auto at = [origin](Nanos time) {
    char text[40];
    if (time == 0) return std::string("-");
    std::snprintf(text, sizeof text, "%.3f", static_cast<double>(time - origin) / kMillisecond);
    return std::string(text);
  };
  constexpr const char* kCalls[] = {"lock", "try_lock", "lock_all"};
  std::string line = "  worker " + std::to_string(history.worker_of(attempt)) + "." +
                     std::to_string(attempt.incarnation) + " session " + std::to_string(attempt.slot) + ": " +
                     kCalls[static_cast<std::size_t>(attempt.call)] + " key " + std::to_string(attempt.key) +
                     (attempt.shared() ? " shared" : " exclusive") + " timeout " +
                     std::to_string(attempt.timeout_us / 1000) + " ms, asked " + at(attempt.asked) + ", answered " +
                     at(attempt.answered) + " " + answer_name(attempt.answer);
  if (attempt.granted()) {
    line +=
        ", left " + at(attempt.left) + ", released " + at(attempt.released) + " " + answer_name(attempt.release_answer);
  }
  if (attempt.token != 0) line += ", token " + std::to_string(attempt.token);
  if (attempt.valid_until != 0) line += ", valid until " + at(attempt.valid_until);
  for (const auto& [mark, word] : {std::pair{kLost, "lost"},
                                   {kMet, "met somebody"},
                                   {kStale, "token refused"},
                                   {kOverwrote, "token taken"},
                                   {kKilled, "killed"}}) {
    if ((attempt.marks & mark) != 0) line += std::string(", ") + word;
  }
  return line + "\n";
}

}  // namespace

Nanos now() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<Nanos>(time.tv_sec) * kSecond + time.tv_nsec;
}

std::string_view name_of(Oracle oracle) noexcept {
  constexpr std::string_view kNames[] = {"exclusion", "witness", "fence", "stale", "refusal", "wake_up",   "takeover",
                                         "loss",      "error",   "late",  "early", "leak",    "accounting"};
  return kNames[static_cast<std::size_t>(oracle)];
}

void Verdict::add(Violation violation) {
  if (++counts[violation.oracle] <= kKept) violations.push_back(std::move(violation));
}

Verdict check(History history, History* judged) {
  Checker checker(std::move(history));
  Verdict verdict = checker.run();
  if (judged) *judged = checker.take_history();
  return verdict;
}

std::string describe(const Violation& violation, const History& history, Nanos origin) {
  std::string text = std::string(name_of(violation.oracle)) + ": " + violation.text + "\n";
  Nanos from = 0, to = 0;
  for (const std::size_t index : violation.attempts) {
    const Attempt& attempt = history.attempts[index];
    text += describe(attempt, history, origin);
    from = from == 0 ? attempt.asked : std::min(from, attempt.asked);
    to = std::max({to, attempt.answered, attempt.released});
  }
  // What was going on at the time, or not long before.
  for (std::size_t i = 0; i < history.faults.size(); ++i) {
    const FaultRecord& fault = history.faults[i];
    const Nanos end = fault.end == 0 ? history.end : std::max(fault.end, fault.settled);
    const bool named = std::find(violation.faults.begin(), violation.faults.end(), i) != violation.faults.end();
    if (!named && (from == 0 || fault.effects == 0 || fault.begin > to || end < from - kSecond)) continue;
    char line[200];
    std::snprintf(line, sizeof line, "  fault %s, worker %d.%d: %.3f to %.3f, settled %.3f, effects %d\n",
                  history.fault_names[fault.kind].c_str(), fault.worker, fault.incarnation,
                  static_cast<double>(fault.begin - origin) / kMillisecond,
                  static_cast<double>(fault.end - origin) / kMillisecond,
                  static_cast<double>(fault.settled - origin) / kMillisecond, fault.effects);
    text += line;
  }
  return text;
}

}  // namespace lockr::torture
