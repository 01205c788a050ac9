// A run: stretches of work under faults, each followed by a rest in which everything is looked at.
#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <utility>

#include "lockr/result.h"
#include "tests/torture/arena.h"
#include "tests/torture/crew.h"
#include "tests/torture/injector.h"
#include "tests/torture/process_faults.h"
#include "tests/torture/run.h"
#include "tests/torture/slack.h"

namespace lockr::torture {
namespace {

using std::chrono::microseconds;

/// Writes down when a thread that only sleeps wakes up late.
class Heart {
 public:
  Heart() : thread_([this](const std::stop_token& over) { beat(over); }) {}
  std::vector<Stall> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(stalls_, {});
  }

 private:
  void beat(const std::stop_token& over) {
    for (Nanos due = now() + kMillisecond; !over.stop_requested();) {
      const timespec until{.tv_sec = due / kSecond, .tv_nsec = due % kSecond};
      ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
      const Nanos woke = now();
      if (woke - due > kMillisecond) {
        const std::lock_guard lock(mutex_);
        stalls_.push_back({kEveryone, due, woke});
      }
      due = woke + kMillisecond;
    }
  }

  std::mutex mutex_;
  std::vector<Stall> stalls_;  // Guarded by mutex_.
  std::jthread thread_;
};

Settings settings_of(const Run& run) {
  if (run.workers < 1 || run.threads < 1 || run.workers * run.threads > kMaxSlots) {
    throw std::runtime_error("there can be 1 to " + std::to_string(kMaxSlots) + " sessions in all");
  }
  if (run.keys < 1 || run.keys > kMaxKeys) {
    throw std::runtime_error("there can be 1 to " + std::to_string(kMaxKeys) + " keys");
  }
  return {.seed = run.seed,
          .workers = run.workers,
          .threads = run.threads,
          .keys = run.keys,
          .hot_percent = run.hot_percent,
          .shared_percent = run.shared_percent,
          .hold_one_in = run.hold_one_in,
          .careless_resource = run.careless_resource,
          .hold_us = run.hold.count(),
          .long_hold_us = run.long_hold.count(),
          .timeout_us = microseconds(run.timeout).count(),
          .long_timeout_us = microseconds(std::max(run.timeout, run.long_timeout)).count(),
          .attempts_per_slot = run.attempts_per_slot};
}

class Torture {
 public:
  Torture(Rig& rig, const Run& run)
      : rig_(rig),
        run_(run),
        arena_(settings_of(run)),
        crew_(arena_, rig),
        injector_(arena_, crew_, run, rig.faults()) {
    outcome_.not_possible = injector_.not_possible();
  }

  Outcome go() {
    origin_ = now();
    crew_.start();
    await_engine();
    const Nanos begin = now();
    for (Nanos worked = 0, left = nanos(run_.seconds); left > 0; left = still_to_work(worked)) {
      const Nanos started = now();
      stretch(std::min(nanos(run_.stretch_seconds), left));
      worked += now() - started;
      look();
      judge();
      tell_progress(worked);
    }
    outcome_.seconds = static_cast<double>(now() - begin) / kSecond;
    finish();
    return std::move(outcome_);
  }

 private:
  static Nanos nanos(double seconds) { return static_cast<Nanos>(seconds * kSecond); }

  // Beyond its time a run whose outcome is not enough goes on by whole stretches.
  Nanos still_to_work(Nanos worked) const {
    if (worked < nanos(run_.seconds)) return nanos(run_.seconds) - worked;
    const bool over = worked >= nanos(run_.at_most_seconds) || !run_.enough || run_.enough(outcome_);
    return over ? 0 : nanos(run_.stretch_seconds);
  }

  void await_engine() {
    const Nanos deadline = now() + 30 * kSecond;
    while (!arena_.learned().known) {
      if (const std::string wrong = crew_.trouble(); !wrong.empty()) throw std::runtime_error(wrong);
      if (now() > deadline) throw std::runtime_error("no worker could open its engine in 30 s");
      std::this_thread::sleep_for(microseconds(500));
    }
    if (!arena_.learned().cross_process && run_.workers > 1) {
      throw std::runtime_error(arena_.learned().backend.get() +
                               " holds locks inside one process: there can be one worker, with many sessions");
    }
    bounds_ = arena_.learned().bounds;
    const Bounds known = rig_.bounds();
    const auto prefer = [](Nanos& bound, Nanos better, Nanos otherwise) {
      if (better != 0) bound = better;
      if (bound == 0) bound = otherwise;
    };
    prefer(bounds_.takeover, known.takeover, kSecond);
    prefer(bounds_.loss, known.loss, 0);
    prefer(bounds_.wake, known.wake, bounds_.takeover);
    prefer(bounds_.reserve, known.reserve, kSecond);
    prefer(bounds_.reply, known.reply, 3 * kSecond);
    prefer(bounds_.release, known.release, 5 * kSecond);
  }

  // Once a minute.
  void tell_progress(Nanos worked) {
    if (worked / (60 * kSecond) == std::exchange(told_, worked / (60 * kSecond))) return;
    std::uint64_t violations = 0;
    for (const auto& [oracle, count] : outcome_.verdict.counts) violations += count;
    std::fprintf(stderr, "%s: %.0f of %.0f minutes, %llu acquisitions, %llu violations\n", rig_.name().c_str(),
                 static_cast<double>(worked) / kSecond / 60, run_.seconds / 60,
                 static_cast<unsigned long long>(outcome_.verdict.grants), static_cast<unsigned long long>(violations));
  }

  void stretch(Nanos length) {
    crew_.command(Order::Kind::work, 0);
    injector_.resume();
    const Nanos deadline = now() + length;
    while (now() < deadline && !arena_.full()) {
      if (const std::string wrong = crew_.trouble(); !wrong.empty()) throw std::runtime_error(wrong);
      if (const auto thrown = injector_.trouble()) std::rethrow_exception(thrown);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    injector_.pause();
    if (const auto thrown = injector_.trouble()) std::rethrow_exception(thrown);
    arena_.moods() = 0;
    crew_.command(Order::Kind::rest, patience());
  }

  // For calls that are under way, and for a worker that has to wait for its engine first.
  Nanos patience() const {
    return std::max(run_.timeout, run_.long_timeout).count() * kMillisecond + bounds_.reply + bounds_.release +
           40 * kSecond;
  }

  void look() {
    crew_.command(Order::Kind::look, patience() + bounds_.takeover);
    complain(Oracle::leak, rig_.leftovers(true));
    const WorkerArea& first = arena_.worker(0);
    outcome_.readings.push_back({static_cast<double>(now() - origin_) / kSecond, first.resident, first.descriptors});
  }

  void complain(Oracle oracle, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) violate({oracle, line}, nullptr);
  }

  void violate(Violation violation, const History* history) {
    outcome_.explanations += describe(violation, history ? *history : History{}, origin_);
    outcome_.verdict.add(std::move(violation));
  }

  History collect() {
    History history;
    history.threads = run_.threads;
    history.slots = arena_.slots();
    history.keys = run_.keys;
    history.bounds = bounds_;
    history.fault_names = injector_.names();
    history.last_tokens = outcome_.verdict.last_tokens;
    history.last_writer_tokens = outcome_.verdict.last_writer_tokens;
    for (int slot = 0; slot < arena_.slots(); ++slot) {
      const Attempt* const first = arena_.attempts(slot);
      history.attempts.insert(history.attempts.end(), first, first + arena_.count(slot));
      arena_.count(slot) = 0;
    }
    history.faults = injector_.take_records();
    history.stalls = heart_.take();
    for (int worker = 0; worker < run_.workers; ++worker) {
      WorkerArea& area = arena_.worker(worker);
      history.stalls.insert(history.stalls.end(), area.stalls.all().begin(), area.stalls.all().end());
      area.stalls.count = 0;
    }
    arena_.full() = false;
    history.end = now();
    return history;
  }

  void judge() {
    History history = collect();
    count_answers(history);
    const Slack slack(history);
    outcome_.stalled += slack.stalled();
    outcome_.longest_stall = std::max(outcome_.longest_stall, slack.longest_stall());
    const auto count = static_cast<double>(history.attempts.size());
    const Nanos before = now();
    History judged;
    Verdict verdict = check(std::move(history), &judged);
    checked_ += count, checking_ += static_cast<double>(now() - before) / kSecond;
    check_counters(verdict, judged);
    take_complaints();
    merge(verdict, judged);
    count_faults();
  }

  void count_answers(const History& history) {
    std::array<std::uint64_t, 256> counts{};
    for (const Attempt& attempt : history.attempts) ++counts[attempt.answer];
    for (std::size_t answer = 0; answer < counts.size(); ++answer) {
      if (counts[answer] == 0) continue;
      const char* const name = answer == kSuccess   ? "granted"
                               : answer == kPending ? "killed"
                                                    : name_of(static_cast<errc>(answer));
      outcome_.answers[name] += counts[answer];
    }
  }

  void count_faults() {
    outcome_.tried = injector_.tried();
    outcome_.struck = injector_.struck();
    for (const auto& [name, mood] : {std::pair{"timeouts of 1 ms", Mood::impatient}, std::pair{"cancels", Mood::fickle},
                                     std::pair{"forks", Mood::forking}}) {
      outcome_.struck[name] = injector_.count(mood);
    }
  }

  // Writers count in two ways, one of which does not bear two at a time. Who was killed may have counted in one alone;
  // a stale holder, of whom the rest of the history tells, may have spoiled it.
  void check_counters(const Verdict& verdict, const History& history) {
    const bool spoiled = verdict.losses != 0 || verdict.excused != 0 ||
                         std::any_of(history.attempts.begin(), history.attempts.end(), [](const Attempt& attempt) {
                           return attempt.granted() && attempt.valid_until != 0 && attempt.left > attempt.valid_until;
                         });
    for (int key = 0; key < run_.keys; ++key) {
      Witness& witness = arena_.witness(key);
      const std::uint64_t entries = witness.entries.exchange(0), counter = std::exchange(witness.counter, 0);
      if (spoiled || (counter <= entries && entries - counter <= verdict.killed_holders)) continue;
      complain(Oracle::witness, {"key " + std::to_string(key) + ": " + std::to_string(entries) +
                                 " writers counted to " + std::to_string(counter)});
    }
  }

  void take_complaints() {
    for (int worker = 0; worker < run_.workers; ++worker) {
      WorkerArea& area = arena_.worker(worker);
      for (const Complaint& complaint : area.complaints.all()) {
        complain(complaint.oracle, {"worker " + std::to_string(worker) + ": " + complaint.text.get()});
      }
      area.complaints.count = 0;
    }
  }

  void merge(Verdict& verdict, const History& history) {
    Verdict& all = outcome_.verdict;
    for (const auto& [oracle, count] : verdict.counts) {
      const std::uint64_t before = all.counts[oracle];
      all.counts[oracle] = before + count;
      std::uint64_t shown = before;
      for (Violation& violation : verdict.violations) {
        if (violation.oracle != oracle || ++shown > Verdict::kKept) continue;
        outcome_.explanations += describe(violation, history, origin_);
        all.violations.push_back(std::move(violation));
      }
    }
    all.attempts += verdict.attempts;
    all.grants += verdict.grants;
    all.excused += verdict.excused;
    all.killed_holders += verdict.killed_holders;
    all.killed_waiters += verdict.killed_waiters;
    all.losses += verdict.losses;
    all.takeovers += verdict.takeovers;
    all.worst_takeover = std::max(all.worst_takeover, verdict.worst_takeover);
    all.worst_loss = std::max(all.worst_loss, verdict.worst_loss);
    all.worst_wake = std::max(all.worst_wake, verdict.worst_wake);
    all.last_tokens = std::move(verdict.last_tokens);
    all.last_writer_tokens = std::move(verdict.last_writer_tokens);
  }

  void finish() {
    crew_.command(Order::Kind::leave, patience());
    crew_.join();
    take_complaints();
    complain(Oracle::leak, rig_.leftovers(false));
    outcome_.checker_rate = checking_ > 0 ? checked_ / checking_ : 0;
    outcome_.backend = arena_.learned().backend.get();
  }

  Rig& rig_;
  const Run run_;
  Arena arena_;
  Crew crew_;
  Heart heart_;
  Injector injector_;
  Bounds bounds_;
  Nanos origin_ = 0;
  Nanos told_ = 0;  // Minutes.
  Outcome outcome_;
  double checked_ = 0, checking_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Fault>> Rig::faults() { return process_faults(lease()); }

Outcome torture(Rig& rig, const Run& run) { return Torture(rig, run).go(); }

}  // namespace lockr::torture
