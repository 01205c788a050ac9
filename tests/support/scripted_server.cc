#include "tests/support/scripted_server.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace lockr::testing {

using spi::Answer;
using spi::kNever;
using spi::Op;
using spi::Seat;

namespace {

Holder describe(const Key& key, Mode mode, bool waiting, const std::string& label, Time since) {
  return {.key = std::string(key.string()),
          .mode = mode,
          .waiting = waiting,
          .host = spi::host_name(),
          .pid = ::getpid(),
          .label = label,
          .since = std::chrono::system_clock::time_point(
              std::chrono::duration_cast<std::chrono::system_clock::duration>(since))};
}

}  // namespace

// ---- the bell

std::uint64_t Bell::rings() const {
  std::lock_guard lock(mutex_);
  return rings_;
}

void Bell::sleep(std::uint64_t seen, Time until) {
  std::atomic<std::uint32_t> rung{0};
  {
    std::lock_guard lock(mutex_);
    if (rings_ != seen) return;
    sleepers_.push_back(&rung);
  }
  runtime_.park(rung, 0, until);
  std::lock_guard lock(mutex_);
  std::erase(sleepers_, &rung);
}

void Bell::ring() {
  std::vector<std::atomic<std::uint32_t>*> sleepers;
  {
    std::lock_guard lock(mutex_);
    ++rings_;
    sleepers = std::exchange(sleepers_, {});
    for (auto* rung : sleepers) rung->store(1, std::memory_order_release);
  }
  for (auto* rung : sleepers) runtime_.wake(rung);
}

// ---- access

// Locks the server; afterwards rings the bells of the processes that events were posted to.
class ScriptedServer::Access {
 public:
  explicit Access(ScriptedServer& server) : server_(server) { server_.mutex_.lock(); }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
  ~Access() {
    const auto bells = std::exchange(server_.to_ring_, {});
    server_.mutex_.unlock();
    for (const auto& bell : bells) bell->ring();
  }

 private:
  ScriptedServer& server_;
};

ScriptedServer::ScriptedServer(ScriptedOptions options, spi::Runtime& runtime)
    : options_(std::move(options)),
      runtime_(runtime),
      random_(options_.seed),
      chances_(options_.chances),
      wanted_(kWantedSlots) {}

// ---- the script

void ScriptedServer::next(Rule rule) {
  Access access(*this);
  rules_.push_back(std::move(rule));
}

void ScriptedServer::set_chances(const Chances& chances) {
  Access access(*this);
  chances_ = chances;
}

void ScriptedServer::cut(int process, Time keeps) {
  Access access(*this);
  cut_link(process, std::nullopt, keeps);
  post(process, {.kind = Event::Kind::cut, .keeps = keeps});
}

void ScriptedServer::stall(int process, bool stalled) {
  Access access(*this);
  processes_.at(static_cast<std::size_t>(process)).stalled = stalled;
  if (!stalled) post(process, {.kind = Event::Kind::resumed});
}

void ScriptedServer::revoke(const Key& key) {
  Access access(*this);
  for (auto& [name, entry] : entries_) {
    auto gone = std::stable_partition(entry.holds.begin(), entry.holds.end(),
                                      [&](const Hold& hold) { return hold.key != key; });
    if (gone == entry.holds.end()) continue;
    for (auto hold = gone; hold != entry.holds.end(); ++hold) {
      if (!hold->forgotten) post(hold->process, {.kind = Event::Kind::revoked, .seat = hold->seat, .key = hold->key});
    }
    entry.holds.erase(gone, entry.holds.end());
    settle(entry);
  }
}

void ScriptedServer::restart() {
  Access access(*this);
  for (auto& [name, entry] : entries_) {
    entry.holds.clear();
    entry.waits.clear();
  }
  for (std::size_t process = 0; process < processes_.size(); ++process) {
    post(static_cast<int>(process), {.kind = Event::Kind::cut});
  }
}

void ScriptedServer::set_down(bool down) {
  {
    Access access(*this);
    down_ = down;
  }
  if (down) restart();
}

// ---- the witness

std::vector<Record> ScriptedServer::records() const {
  // The record as of now: what has run out is gone.
  const_cast<ScriptedServer*>(this)->expire();
  std::lock_guard lock(mutex_);
  std::vector<Record> all;
  for (const auto& [name, entry] : entries_) {
    for (const Hold& hold : entry.holds) {
      all.push_back({.process = hold.process,
                     .seat = hold.seat,
                     .mode = hold.mode,
                     .key = std::string(hold.key.string()),
                     .forgotten = hold.forgotten});
    }
    for (const Wait& wait : entry.waits) {
      all.push_back({.process = wait.process,
                     .seat = wait.ask.link,
                     .mode = wait.ask.mode,
                     .key = std::string(wait.ask.key.string()),
                     .waiting = true});
    }
  }
  return all;
}

std::vector<std::string> ScriptedServer::violations() const {
  std::lock_guard lock(mutex_);
  return violations_;
}

int ScriptedServer::processes() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(processes_.size());
}

void ScriptedServer::violation(std::string what) {
  Access access(*this);
  violations_.push_back(std::move(what));
}

// ---- connections

int ScriptedServer::connect(std::shared_ptr<Bell> bell) {
  Access access(*this);
  if (down_) return -1;
  processes_.push_back({.bell = std::move(bell), .events = {}, .connected = true});
  return static_cast<int>(processes_.size()) - 1;
}

void ScriptedServer::disconnect(int process) {
  Access access(*this);
  cut_link(process, std::nullopt, Time{0});
  Process& gone = processes_.at(static_cast<std::size_t>(process));
  gone.connected = false;
  gone.events.clear();
}

bool ScriptedServer::down() const {
  std::lock_guard lock(mutex_);
  return down_;
}

bool ScriptedServer::stalled(int process) const {
  std::lock_guard lock(mutex_);
  return processes_.at(static_cast<std::size_t>(process)).stalled;
}

void ScriptedServer::drop_link(int process, std::uint16_t link, Time keeps) {
  Access access(*this);
  cut_link(process, link, keeps);
}

void ScriptedServer::cut_link(int process, std::optional<std::uint16_t> link, Time keeps) {
  const Time ends = runtime_.boot_now() + keeps;
  for (auto& [name, entry] : entries_) {
    auto theirs = [&](int owner, Seat seat) { return owner == process && (!link || seat.link == *link); };
    if (keeps == Time{0}) {
      std::erase_if(entry.holds, [&](const Hold& hold) { return !hold.forgotten && theirs(hold.process, hold.seat); });
    }
    for (Hold& hold : entry.holds) {
      if (hold.forgotten || !theirs(hold.process, hold.seat)) continue;
      hold.forgotten = true;
      hold.ends = std::min(hold.ends, ends);
      earliest_end_ = std::min(earliest_end_, hold.ends);
    }
    std::erase_if(entry.waits, [&](const Wait& wait) { return theirs(wait.process, wait.ask.link); });
    settle(entry);
  }
}

void ScriptedServer::post(int process, Event event) {
  Process& target = processes_.at(static_cast<std::size_t>(process));
  if (!target.connected) return;
  target.events.push_back(std::move(event));
  to_ring_.push_back(target.bell);
}

std::vector<ScriptedServer::Event> ScriptedServer::take_events(int process) {
  std::lock_guard lock(mutex_);
  return std::exchange(processes_.at(static_cast<std::size_t>(process)).events, {});
}

// ---- fates

bool ScriptedServer::one_of(unsigned chance) { return chance != 0 && random_() % 1000 < chance; }

ScriptedServer::Verdict ScriptedServer::judge(const Ask& ask) {
  auto fits_rule = [&](const Rule& rule) {
    return (!rule.op || *rule.op == ask.op) && (rule.key.empty() || rule.key == ask.key.string());
  };
  auto rule = std::find_if(rules_.begin(), rules_.end(), fits_rule);
  if (rule == rules_.end()) return by_chance(ask);
  Verdict verdict{.fate = rule->fate, .delay = rule->delay, .ignore_stop = rule->ignore_stop};
  rules_.erase(rule);
  return verdict;
}

ScriptedServer::Verdict ScriptedServer::by_chance(const Ask& ask) {
  Verdict verdict;
  if (one_of(chances_.delay) && chances_.longest_delay > Time{0}) {
    verdict.delay =
        Time(1 + static_cast<Time::rep>(random_() % static_cast<std::uint64_t>(chances_.longest_delay.count())));
  }
  verdict.ignore_stop = one_of(chances_.ignore_stop);
  if (one_of(chances_.cut)) {
    verdict.fate = Fate::cut;
  } else if (one_of(chances_.lose_request)) {
    verdict.fate = Fate::lose_request;
  } else if (one_of(chances_.lose_answer)) {
    verdict.fate = Fate::lose_answer;
  } else if (one_of(chances_.fail)) {
    verdict.fate = Fate::fail;
  } else if (ask.op == Op::give_back ? one_of(chances_.forget) : one_of(chances_.refuse)) {
    verdict.fate = ask.op == Op::give_back ? Fate::forget : Fate::refuse;
  }
  return verdict;
}

// ---- the locks

std::string ScriptedServer::name_of(const Ask& ask) const {
  return options_.identity_is_hash ? std::to_string(ask.identity) : std::string(ask.key.string());
}

bool ScriptedServer::fits(const Entry& entry, Mode mode) {
  return std::all_of(entry.holds.begin(), entry.holds.end(),
                     [&](const Hold& hold) { return mode == Mode::shared && hold.mode == Mode::shared; });
}

void ScriptedServer::hold(Entry& entry, int process, const Ask& ask, Seat seat, bool forgotten) {
  const Time now = runtime_.boot_now();
  Time ends = options_.validity == kNever ? kNever : now + options_.validity;
  if (forgotten) ends = std::min(ends, now + options_.forgets_after);
  entry.holds.push_back({.process = process,
                         .seat = seat,
                         .mode = ask.mode,
                         .key = ask.key,
                         .identity = ask.identity,
                         .label = ask.label,
                         .since = runtime_.wall_now(),
                         .ends = ends,
                         .forgotten = forgotten});
  entry.refused.erase(process);
  ++entry.token;
  earliest_end_ = std::min(earliest_end_, ends);
}

bool ScriptedServer::give_back(Entry& entry, int process, const Ask& ask) {
  auto mine = std::find_if(entry.holds.begin(), entry.holds.end(), [&](const Hold& hold) {
    return hold.process == process && hold.seat == ask.seat && !hold.forgotten;
  });
  if (mine == entry.holds.end()) return false;
  entry.holds.erase(mine);
  settle(entry);
  return true;
}

void ScriptedServer::forget_later(Entry& entry, int process, const Ask& ask, Time after) {
  for (Hold& hold : entry.holds) {
    if (hold.process != process || hold.seat != ask.seat || hold.forgotten) continue;
    hold.forgotten = true;
    hold.ends = std::min(hold.ends, runtime_.boot_now() + after);
    earliest_end_ = std::min(earliest_end_, hold.ends);
  }
}

// Grants what can be granted now, in order of arrival; then tells those who were refused that they may ask again.
void ScriptedServer::settle(Entry& entry) {
  while (!entry.waits.empty() && fits(entry, entry.waits.front().ask.mode)) {
    Wait wait = std::move(entry.waits.front());
    entry.waits.pop_front();
    hold(entry, wait.process, wait.ask, wait.ask.link, false);
    post(wait.process,
         {.kind = Event::Kind::granted, .ticket = wait.ticket, .token = options_.fencing ? entry.token : 0});
  }
  if (entry.waits.empty() && fits(entry, Mode::shared)) {
    for (const auto& [process, identity] : std::exchange(entry.refused, {})) {
      wanted_[identity % kWantedSlots].store(0, std::memory_order_relaxed);
      if (options_.hints) post(process, {.kind = Event::Kind::hint, .identity = identity});
    }
  }
}

void ScriptedServer::want(std::uint64_t identity, std::uint32_t who) {
  auto& slot = wanted_[identity % kWantedSlots];
  const std::uint32_t before = slot.load(std::memory_order_relaxed);
  slot.store(before == 0 || before == who ? who : kMany, std::memory_order_relaxed);
}

bool ScriptedServer::wanted_elsewhere(int process, std::uint64_t identity) const noexcept {
  const std::uint32_t who = wanted_[identity % kWantedSlots].load(std::memory_order_relaxed);
  return who != 0 && who != static_cast<std::uint32_t>(process) + 1;
}

void ScriptedServer::refuse(Entry& entry, int process, const Ask& ask) {
  entry.refused[process] = ask.identity;
  want(ask.identity, static_cast<std::uint32_t>(process) + 1);
  if (one_of(chances_.idle_hint)) post(process, {.kind = Event::Kind::hint, .identity = ask.identity});
}

Time ScriptedServer::expire() {
  Access access(*this);
  expire_due();
  return earliest_end_;
}

void ScriptedServer::expire_due() {
  const Time now = runtime_.boot_now();
  if (now < earliest_end_) return;
  earliest_end_ = kNever;
  for (auto& [name, entry] : entries_) {
    if (std::erase_if(entry.holds, [&](const Hold& hold) { return hold.ends <= now; }) != 0) settle(entry);
    for (const Hold& hold : entry.holds) earliest_end_ = std::min(earliest_end_, hold.ends);
  }
}

void ScriptedServer::renew(int process) {
  Access access(*this);
  expire_due();
  const Time ends = runtime_.boot_now() + options_.validity;
  for (auto& [name, entry] : entries_) {
    for (Hold& hold : entry.holds) {
      if (hold.process == process && !hold.forgotten) hold.ends = ends;
    }
  }
}

bool ScriptedServer::holds(int process, Seat seat, const Key* key) const {
  std::lock_guard lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    for (const Hold& hold : entry.holds) {
      if (hold.process == process && hold.seat == seat && (!key || hold.key == *key) && !hold.forgotten) return true;
    }
  }
  return false;
}

std::vector<Holder> ScriptedServer::list(const Key* key) const {
  std::lock_guard lock(mutex_);
  std::vector<Holder> all;
  for (const auto& [name, entry] : entries_) {
    for (const Hold& hold : entry.holds) {
      if (!key || hold.key == *key) all.push_back(describe(hold.key, hold.mode, false, hold.label, hold.since));
    }
    for (const Wait& wait : entry.waits) {
      if (key && wait.ask.key != *key) continue;
      all.push_back(describe(wait.ask.key, wait.ask.mode, true, wait.ask.label, wait.since));
    }
  }
  return all;
}

// ---- service

std::vector<ScriptedServer::Reply> ScriptedServer::serve(int process, std::span<const Ask> asks) {
  Access access(*this);
  expire_due();
  std::vector<Reply> replies;
  std::vector<Seat> broken;
  replies.reserve(asks.size());
  for (std::size_t first = 0; first < asks.size();) {
    std::size_t last = first + 1;
    while (asks[first].group != 0 && last < asks.size() && asks[last].group == asks[first].group) ++last;
    const Seat link = asks[first].link;
    if (std::find(broken.begin(), broken.end(), link) != broken.end()) {
      replies.resize(last, {.cut = true});  // Nor does what was sent behind.
    } else {
      for (const Reply& reply : serve_group(process, asks.subspan(first, last - first))) replies.push_back(reply);
      if (replies.back().cut) broken.push_back(link);  // Before the request arrived.
    }
    first = last;
  }
  return replies;
}

std::vector<ScriptedServer::Reply> ScriptedServer::serve_group(int process, std::span<const Ask> asks) {
  // The worst fate of a member is that of the group.
  Verdict verdict;
  for (const Ask& ask : asks) {
    const Verdict one = judge(ask);
    verdict.fate = std::max(verdict.fate, one.fate);
    verdict.delay = std::max(verdict.delay, one.delay);
  }
  std::vector<Reply> replies(asks.size());
  const bool any = asks.size() > 1 && asks.front().group_rule == spi::Group::any;
  const bool all = asks.size() > 1 && !any;
  Fate fate = verdict.fate;
  if (all && fate == Fate::serve) {
    const bool free = std::all_of(asks.begin(), asks.end(), [&](const Ask& ask) {
      const Entry& entry = entry_of(ask);
      return entry.waits.empty() && fits(entry, ask.mode);
    });
    if (!free) fate = Fate::refuse;
  }
  bool done = false;
  for (std::size_t i = 0; i < asks.size(); ++i) {
    replies[i] = serve_one(process, asks[i], any && done && fate == Fate::serve ? Fate::refuse : fate);
    replies[i].delay = verdict.delay;
    done = done || replies[i].answer == Answer::granted;
  }
  return replies;
}

ScriptedServer::Reply ScriptedServer::serve_one(int process, const Ask& ask, Fate fate) {
  if (fate == Fate::cut) return {.cut = true};
  switch (ask.op) {
    case Op::take:
      return serve_take(process, ask, fate);
    case Op::give_back:
      return serve_give_back(process, ask, fate);
    case Op::yield:
      return serve_yield(process, ask, fate);
  }
  return {};
}

void ScriptedServer::check_take(const Entry& entry, int process, const Ask& ask) {
  if (ask.mode == Mode::shared && !options_.shared) {
    violations_.push_back("shared mode was asked of an engine without it: " + std::string(ask.key.string()));
  }
  for (const Hold& hold : entry.holds) {
    if (hold.process != process || hold.forgotten) continue;
    if (hold.mode == Mode::shared && ask.mode == Mode::shared && hold.seat.link != ask.link.link) continue;
    violations_.push_back("a take of what the process holds: " + std::string(ask.key.string()));
  }
}

ScriptedServer::Reply ScriptedServer::serve_take(int process, const Ask& ask, Fate fate) {
  Entry& entry = entry_of(ask);
  check_take(entry, process, ask);
  const bool free = entry.waits.empty() && fits(entry, ask.mode);
  switch (fate) {
    case Fate::fail:
      return {.answer = Answer::failed};
    case Fate::lose_request:
      return {.answer = Answer::unknown};
    case Fate::lose_answer:
      if (free) hold(entry, process, ask, ask.link, true);
      return {.answer = Answer::unknown};
    default:
      break;
  }
  if (!free || fate == Fate::refuse) {
    refuse(entry, process, ask);
    return {.answer = Answer::refused};
  }
  hold(entry, process, ask, ask.link, false);
  return {.answer = Answer::granted, .token = options_.fencing ? entry.token : 0};
}

ScriptedServer::Reply ScriptedServer::serve_give_back(int process, const Ask& ask, Fate fate) {
  Entry& entry = entry_of(ask);
  if (fate == Fate::lose_request) {
    forget_later(entry, process, ask, options_.forgets_after);
    return {.answer = Answer::unknown};
  }
  const bool held = give_back(entry, process, ask);
  switch (fate) {
    case Fate::fail:
      return {.answer = Answer::failed};
    case Fate::lose_answer:
      return {.answer = Answer::unknown};
    case Fate::forget:
      return {.answer = Answer::not_held};
    default:
      return {.answer = held ? Answer::released : Answer::not_held};
  }
}

ScriptedServer::Reply ScriptedServer::serve_yield(int process, const Ask& ask, Fate fate) {
  Entry& entry = entry_of(ask);
  if (fate == Fate::lose_request) {
    forget_later(entry, process, ask, options_.forgets_after);
    return {.answer = Answer::unknown};
  }
  // Others go first: who waits is granted by settle(), who polls is told and finds the key free.
  const bool polled_elsewhere = std::any_of(entry.refused.begin(), entry.refused.end(),
                                            [&](const auto& refused) { return refused.first != process; });
  give_back(entry, process, ask);
  if (polled_elsewhere && fate == Fate::serve) fate = Fate::refuse;
  return serve_take(process, ask, fate);
}

ScriptedServer::Reply ScriptedServer::wait(int process, const Ask& ask, std::uint64_t ticket, bool& ignore_stop) {
  Access access(*this);
  expire_due();
  const Verdict verdict = judge(ask);
  ignore_stop = verdict.ignore_stop;
  Entry& entry = entry_of(ask);
  check_take(entry, process, ask);
  switch (verdict.fate) {
    case Fate::cut:
      return {.cut = true};
    case Fate::fail:
      return {.answer = Answer::failed, .delay = verdict.delay};
    case Fate::refuse:
      refuse(entry, process, ask);
      return {.answer = Answer::refused, .delay = verdict.delay};
    default:
      break;
  }
  entry.waits.push_back({.process = process, .ticket = ticket, .ask = ask, .since = runtime_.wall_now()});
  entry.refused.erase(process);
  want(ask.identity, static_cast<std::uint32_t>(process) + 1);
  settle(entry);
  return {.delay = verdict.delay};
}

bool ScriptedServer::cancel(std::uint64_t ticket) {
  Access access(*this);
  for (auto& [name, entry] : entries_) {
    auto wait =
        std::find_if(entry.waits.begin(), entry.waits.end(), [&](const Wait& one) { return one.ticket == ticket; });
    if (wait == entry.waits.end()) continue;
    entry.waits.erase(wait);
    settle(entry);
    return true;
  }
  return false;
}

}  // namespace lockr::testing
