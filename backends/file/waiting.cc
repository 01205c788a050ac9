#include "backends/file/waiting.h"

#include <sched.h>

#include <algorithm>

#include "backends/file/ofd_lock.h"

namespace lockr::file {

using spi::Answer;
using spi::Request;
using spi::Time;

namespace {

constexpr Time kBetweenBellSearches = std::chrono::seconds(1);
// While waits come and go the service thread looks every kFirstLook anyway, so that a new wait need not wake it.
constexpr Time kStayAwake = std::chrono::milliseconds(20);

// How long a caller tries by itself before it is put to sleep.
constexpr unsigned kGlances = 2;
constexpr unsigned kPauses = 20;
constexpr unsigned kYields = 16;
constexpr Time kBriefly = std::chrono::microseconds(200);

}  // namespace

// A holder that runs is done in a microsecond, and one that does not run gets the processor that we give up. Either is
// far cheaper than to sleep, and to hold the key from when the service thread was woken until the caller is.
bool Waiting::try_briefly(Request& request) noexcept {
  const Time end = runtime_.steady_now() + kBriefly;
  for (unsigned round = 0; round < kGlances + kYields; ++round) {
    if (round >= kGlances) sched_yield();
    bool held = request.mode == Mode::exclusive;
    for (unsigned pause = 0; held && pause < kPauses; ++pause) {
      spi::pause_briefly();
      held = records_.seems_held(request.identity);
    }
    if (!held) {
      locks_.take(request);
      if (request.answer != Answer::refused) return true;
    }
    if (round >= kGlances && runtime_.steady_now() >= end) return false;
  }
  return false;
}

bool Waiting::start(Request& request) noexcept {
  if (try_briefly(request)) {
    sink_->done(request);
    return true;
  }
  {
    const std::lock_guard lock(mutex_);
    if (!ready_to_ring()) return false;
    bells_.announce(request.identity);
    const Time now = runtime_.steady_now();
    waits_.push_back({.request = &request, .identity = request.identity, .next_look = now + kFirstLook});
    last_wait_ = now;
    if (!try_again(waits_.back(), Why::first, now)) {
      locks_.record_wait(request);
      if (planned_ > now + 2 * kFirstLook) rouse();
      return true;
    }
    remove(waits_.size() - 1);
  }
  sink_->done(request);
  return true;
}

// Has a bell, or takes one.
bool Waiting::ready_to_ring() noexcept {
  if (file_.bell() >= 0) return true;
  const Time now = runtime_.steady_now();
  if (now < full_until_) return false;
  if (!file_.claim_bell()) {
    full_until_ = now + kBetweenBellSearches;
    return false;
  }
  word_.store(&file_.state().bells[file_.bell()].word);
  own_word_.fetch_add(1);
  futex_wake(own_word_);
  return true;
}

void Waiting::stop(Request& request) noexcept {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(waits_.begin(), waits_.end(), [&](const Wait& w) { return w.request == &request; });
    if (found == waits_.end()) return;
    remove(static_cast<std::size_t>(found - waits_.begin()));
  }
  request.answer = Answer::refused;
  sink_->done(request);
}

void Waiting::remove(std::size_t at) noexcept {
  const Wait wait = waits_[at];
  waits_[at] = waits_.back();
  waits_.pop_back();
  locks_.forget_wait(*wait.request);
  const unsigned bucket = bucket_of(wait.identity);
  const bool others =
      std::any_of(waits_.begin(), waits_.end(), [&](const Wait& other) { return bucket_of(other.identity) == bucket; });
  bells_.leave(wait.identity, !others);
}

// True when the wait is over and its request answered.
bool Waiting::try_again(Wait& wait, Why why, Time now) noexcept {
  Request& request = *wait.request;
  locks_.take(request);
  if (request.answer == Answer::refused) {
    refused(wait, why, now);
    return false;
  }
  // Others may share it as well; each that gets it tells the next.
  if (why != Why::first && request.answer == Answer::granted && request.mode == Mode::shared) {
    bells_.freed(wait.identity);
  }
  return true;
}

void Waiting::refused(Wait& wait, Why why, Time now) noexcept {
  if (why != Why::look) {
    if (wait.aged) bells_.grow_old(wait.identity);
    return;
  }
  if (wait.aged) {
    for (const int pid : records_.holders(wait.identity)) deaths_.watch(pid);
    if (wait.request->mode == Mode::exclusive && locks_.foreign(wait.identity) == F_RDLCK) {
      bells_.keep_while_shared(wait.identity, 3 * kLook);
    }
  }
  wait.aged = true;
  bells_.grow_old(wait.identity);
  // Spread, so that processes do not look in step.
  wait.next_look = now + kLook + Time(static_cast<std::int64_t>(runtime_.random() % (kLook.count() / 4)));
}

void Waiting::note_rings() noexcept {
  for (Wait& wait : waits_) wait.rung = bells_.rung(wait.identity);
  for (const Wait& wait : waits_) {
    if (!wait.rung) continue;
    const std::uint64_t freed = bells_.answer(wait.identity);
    if (freed != 0 && !waits_for(freed)) bells_.pass_on_to_all(wait.identity);
  }
}

bool Waiting::waits_for(std::uint64_t identity) const noexcept {
  return std::any_of(waits_.begin(), waits_.end(), [&](const Wait& wait) { return wait.identity == identity; });
}

// True when something was answered.
bool Waiting::serve(Time now) noexcept {
  {
    const std::lock_guard lock(mutex_);
    const bool all = look_at_all_.exchange(false);
    note_rings();
    for (std::size_t at = 0; at < waits_.size();) {
      Wait& wait = waits_[at];
      const bool look = now >= wait.next_look;
      if ((all || look || wait.rung) && try_again(wait, look ? Why::look : Why::ring, now)) {
        answered_.push_back(wait.request);
        remove(at);
      } else {
        ++at;
      }
    }
  }
  for (Request* request : answered_) sink_->done(*request);
  const bool any = !answered_.empty();
  answered_.clear();
  return any;
}

// Until when to sleep.
Time Waiting::plan(Time now, Time until) noexcept {
  const std::lock_guard lock(mutex_);
  planned_ = until;
  if (now < last_wait_ + kStayAwake) planned_ = std::min(planned_, now + kFirstLook);
  for (const Wait& wait : waits_) planned_ = std::min(planned_, wait.next_look);
  return planned_;
}

void Waiting::pump(Time until) noexcept {
  for (;;) {
    FutexWord& word = *word_.load();
    const std::uint32_t seen = word.load();
    if (woken_.exchange(false)) return;
    const Time now = runtime_.steady_now();
    if (serve(now) || now >= until) return;
    sleep(word, seen, plan(now, until));
  }
}

// Whoever rings adds to the word first and then looks whether we sleep.
void Waiting::sleep(FutexWord& word, std::uint32_t seen, Time until) noexcept {
  FutexWord* sleeping = file_.bell() >= 0 ? &file_.state().bells[file_.bell()].sleeping : nullptr;
  if (sleeping) sleeping->store(1);
  if (word.load() == seen) futex_sleep(word, seen, until);
  if (sleeping) sleeping->store(0);
}

void Waiting::rouse() noexcept {
  FutexWord& word = *word_.load();
  word.fetch_add(1);
  futex_wake(word);
}

void Waiting::wake() noexcept {
  woken_.store(true);
  rouse();
}

void Waiting::look_at_all() noexcept {
  look_at_all_.store(true);
  rouse();
}

}  // namespace lockr::file
