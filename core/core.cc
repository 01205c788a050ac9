#include "core/core.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

namespace lockr::core {
namespace {

constexpr Time kLongWait = std::chrono::seconds(10);

Time after(Time now, Time span) { return span >= kNever - now ? kNever : now + span; }

Error forked() {
  return Error(errc::forked_process, "this was opened before fork(); the child holds nothing and must open its own");
}

Capabilities memory_capabilities() {
  Capabilities table_alone;
  table_alone.shared = true;
  table_alone.fencing = true;
  table_alone.fair = true;
  return table_alone;
}

Status check_required(const LockerConfig& config, const Capabilities& has) {
  const std::array<std::pair<std::string_view, bool>, 6> known{{{"shared", has.shared},
                                                                {"fencing", has.fencing},
                                                                {"cross_process", has.cross_process},
                                                                {"cross_host", has.cross_host},
                                                                {"fair", has.fair},
                                                                {"hold_at_least", has.hold_at_least}}};
  for (const std::string& wanted : config.require()) {
    const auto found = std::find_if(known.begin(), known.end(), [&](const auto& each) { return each.first == wanted; });
    if (found != known.end() && found->second) continue;
    return fail(errc::unsupported,
                "the config requires \"" + wanted + "\", which the backend \"" + has.backend +
                    "\" does not have as configured; choose another backend or drop the requirement");
  }
  return {};
}

// Whether `other`, which the engine recorded for this process, is among what the table lists; its time is taken over.
bool owns(std::vector<Holder>& mine, const Holder& other) {
  bool found = false;
  for (Holder& holder : mine) {
    if (holder.key != other.key || holder.waiting != other.waiting) continue;
    if (!holder.since) holder.since = other.since;
    found = true;
  }
  return found;
}

}  // namespace

Core::Core(const LockerConfig& config, std::unique_ptr<spi::Backend> backend, const OpenOptions& options,
           spi::Runtime& runtime)
    : config_(config),
      runtime_(runtime),
      observer_(options.observer),
      engine_(runtime, std::move(backend), config.reply_timeout(), options.log),
      host_(spi::host_name()) {}

Core::~Core() = default;

Result<std::shared_ptr<Core>> Core::open(const LockerConfig& config, const spi::BackendInfo& info,
                                         std::unique_ptr<spi::Backend> backend, const OpenOptions& options) {
  spi::Runtime& runtime = options.runtime ? *options.runtime : spi::system_runtime();
  std::shared_ptr<Core> core(new Core(config, std::move(backend), options, runtime));
  const Time until = after(runtime.steady_now(), config.connect_timeout());
  if (auto opened = core->engine_.open(until); !opened) return fail(opened.error());
  spi::Backend* engine = core->engine_.backend();
  core->capabilities_ = engine ? engine->traits().capabilities : memory_capabilities();
  core->capabilities_.backend = info.name;
  if (auto enough = check_required(config, core->capabilities_); !enough) {
    if (engine) engine->close(until);
    return fail(enough.error());
  }
  TableSetup setup;
  setup.runtime = &runtime;
  setup.backend = engine;
  setup.identity_is_hash = engine && engine->traits().identity_is_hash;
  setup.fencing = core->capabilities_.fencing;
  setup.held_limit = config.limits().held != 0 ? config.limits().held : engine ? engine->traits().held_limit : 0;
  setup.waiter_limit = config.limits().waiters;
  setup.handoff = config.limits().handoff;
  setup.observed = core->observer_ != nullptr;
  setup.held_times = core->observer_ && core->observer_->wants_held_times();
  setup.seats = engine ? engine->traits().seats : 0;
  setup.core = core.get();
  core->quick_ = !engine && config.key_namespace().empty() && !setup.held_times && setup.held_limit == 0;
  core->table_ = std::make_unique<Table>(setup);
  core->notifier_ = std::make_unique<Notifier>(runtime, core->observer_, [raw = core.get()](Entry& entry) {
    Effects effects;
    raw->table_->mourned(entry, effects);
    raw->engine_.run(effects);
  });
  if (auto attached = core->engine_.attach(*core->table_, *core->notifier_, until); !attached) {
    return fail(attached.error());
  }
  return core;
}

// ---- one key

Status Core::check(const Key& key, Mode mode) const {
  if (in_child()) return fail(forked());
  if (key.empty()) return fail(errc::invalid_key, "the key is empty: it was moved from");
  if (mode == Mode::shared && !capabilities_.shared) {
    return fail(errc::unsupported, "the backend \"" + capabilities_.backend + "\" has no shared locks");
  }
  return {};
}

Status Core::check_window(const LockOptions& options) const {
  if (!has_window(options)) return {};
  if (options.hold_at_least > Time{0} && !capabilities_.hold_at_least) {
    return fail(errc::unsupported, "the backend \"" + capabilities_.backend +
                                       "\" can't keep a key after its release (hold_at_least); redis can");
  }
  if (!engine_.backend()) {
    return fail(errc::unsupported, "the backend \"" + capabilities_.backend + "\" has no hold_at_most");
  }
  if (options.mode != Mode::exclusive) {
    return fail(errc::unsupported, "hold_at_least and hold_at_most are for exclusive locks");
  }
  if (options.hold_at_most <= Time{0} || options.hold_at_most < options.hold_at_least) {
    return fail(errc::unsupported, "hold_at_most has to be more than 0, and not less than hold_at_least");
  }
  return {};
}

void Core::set_window(TableGrant& grant, const LockOptions& options) {
  const Time granted = runtime_.boot_now();
  Effects effects;
  table_->set_window(grant, options.hold_at_least > Time{0} ? after(granted, options.hold_at_least) : Time{0},
                     after(granted, options.hold_at_most), effects);
  finish(effects);
}

bool Core::Patience::tries_only() const noexcept {
  return !options || (options->timeout && *options->timeout <= Time{0});
}

Time Core::Patience::deadline(Time from) {
  if (tries_only()) return answer_deadline(from);
  if (until == Time{0}) {
    const Time span = options->timeout ? *options->timeout : options->deadline ? kNever : config.acquire_timeout();
    until = after(from, span);
    if (options->deadline) until = std::min(until, std::chrono::nanoseconds(options->deadline->time_since_epoch()));
  }
  return until;
}

Time Core::Patience::answer_deadline(Time from) {
  if (answered == Time{0}) answered = after(from, config.reply_timeout());
  return answered;
}

Result<TableGrant*> Core::lock(SessionCore& session, const Key& key, const LockOptions& options) {
  if (auto good = check_window(options); !good) return fail(good.error());
  Patience patience{config_, &options};
  auto grant = acquire(session, key, options.mode, patience);
  if (grant && has_window(options)) set_window(**grant, options);
  return grant;
}

Result<TableGrant*> Core::try_lock(SessionCore& session, const Key& key, Mode mode) {
  Patience patience{config_};
  return acquire(session, key, mode, patience);
}

Result<TableGrant*> Core::acquire(SessionCore& session, const Key& key, Mode mode, Patience& patience) {
  if (in_child() || key.empty() || (mode == Mode::shared && !capabilities_.shared))
    return fail(check(key, mode).error());
  const bool is_try = patience.tries_only();
  if (!is_try && patience.stopped()) return fail(Error(errc::cancelled));
  Waiter waiter;
  Effects effects;
  effects.self = &waiter;
  const Entered entered = table_->enter(session, key, {.mode = mode, .is_try = is_try}, waiter, effects);
  if (entered == Entered::queued) {
    Follower follower{.sleeper = &waiter.sleeper, .self = &waiter, .until = patience.deadline(waiter.arrived)};
    engine_.run(effects, follower);
    await(waiter, follower, is_try ? std::stop_token() : patience.options->stop);
  } else {
    finish(effects);
  }
  if (waiter.error) return fail(*std::move(waiter.error));
  return waiter.grant;
}

// Waits until the waiter is decided: granted, or failed because its time is over, it was stopped or nothing can be had.
void Core::await(Waiter& waiter, Follower& follower, const std::stop_token& stop) {
  const Time until = follower.until;
  if (!waiter.sleeper.decided()) {
    if (!waiter.is_try) {
      Effects effects;
      table_->leave_if_deadlocked(waiter, effects);
      finish(effects, until);
    }
    const auto nudge = [&] { waiter.sleeper.nudge().carry_out(runtime_); };
    std::optional<std::stop_callback<decltype(nudge)>> on_stop;
    if (stop.stop_possible()) on_stop.emplace(stop, nudge);
    Time overdue = after(waiter.arrived, kBarging);
    Time report = observer_ && !waiter.is_try ? after(waiter.arrived, kLongWait) : kNever;
    while (!waiter.sleeper.decided()) {
      Effects effects;
      const Time now = runtime_.steady_now();
      if (on_stop && stop.stop_requested()) {
        table_->leave(waiter, errc::cancelled, effects);
      } else if (now >= until) {
        table_->leave(waiter, errc::timeout, effects);
      } else if (now >= overdue || waiter.sleeper.state() == Sleeper::kNudged) {
        if (now >= overdue) overdue = kNever;
        table_->poll(waiter, effects);
        engine_.follow_up(follower);
      } else {
        if (now >= report) {
          notifier_->post(table_->long_wait(waiter, now - waiter.arrived));
          report = after(report, kLongWait);
        }
        const Time wake_up = std::min({until, report, overdue});
        // Who is still not granted when it is overdue waits for another holder: it is woken alone.
        if (overdue != kNever) {
          waiter.sleeper.park_together(runtime_, wake_up);
        } else {
          waiter.sleeper.park(runtime_, wake_up);
        }
      }
      finish(effects, until);
    }
  }
  engine_.unfollow(follower);
}

// Carries out effects on a path that waits for nobody; `until` as in Engine::run().
void Core::finish(Effects& effects, Time until) {
  if (!effects.empty()) engine_.run(effects, until);
  delete effects.dead;
  // The last access: the one who takes away the last count ends *this.
  if (effects.orphan && table_->orphans.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    const std::shared_ptr<Core> last = std::move(self_);
  }
}

Status Core::release(TableGrant& grant) {
  if (in_child()) return fail(forked());
  ReleaseWait wait;
  Effects effects;
  effects.self = &wait;
  const std::optional<Status> done = table_->release(grant, wait, effects);
  if (done) {
    finish(effects);
    return *done;
  }
  Entry& entry = table_->entry_of(grant);
  Follower follower{.sleeper = &wait.sleeper, .self = &wait, .until = release_deadline()};
  engine_.run(effects, follower);
  return await_release(entry, wait, follower);
}

Status Core::await_release(Entry& entry, ReleaseWait& wait, Follower& follower) {
  const Time until = follower.until;
  while (!wait.sleeper.decided()) {
    if (runtime_.steady_now() >= until) {
      if (!table_->forget(entry, wait)) continue;
      wait.error = Error(errc::connection_lost, "the engine did not confirm the release within release_timeout");
      break;
    }
    wait.sleeper.park_together(runtime_, until);
    wait.sleeper.heed();
    engine_.follow_up(follower);
  }
  engine_.unfollow(follower);
  if (wait.error) return fail(*std::move(wait.error));
  return {};
}

void Core::dispose(TableGrant& grant) {
  if (in_child()) return;  // Its memory is the child's to keep; the lock is the parent's.
  Effects effects;
  table_->dispose(grant, effects);
  finish(effects);
}

Result<std::vector<Descriptor>> Core::descriptors(const TableGrant& grant) {
  if (in_child()) return fail(forked());
  if (!engine_.backend()) return std::vector<Descriptor>();
  const std::optional<spi::Seat> seat = table_->seat_of(grant);
  if (!seat) return fail(Error(grant.lost() ? errc::lock_lost : errc::session_closed));
  return engine_.backend()->descriptors(*seat, grant.key());
}

// ---- many keys

namespace {

// Keys in canonical order, each once.
std::vector<const Key*> canonical(std::span<const Key> keys) {
  std::vector<const Key*> order;
  order.reserve(keys.size());
  for (const Key& key : keys) order.push_back(&key);
  const auto before = [](const Key* a, const Key* b) { return *a < *b; };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
  order.erase(std::unique(order.begin(), order.end(), [](const Key* a, const Key* b) { return *a == *b; }),
              order.end());
  return order;
}

}  // namespace

// Asks for several keys in one batch without waiting for a holder. grants[i] is key i's, or null. all: stops at the
// first key that somebody here holds or waits for. Returns the first error other than not_acquired.
std::optional<Error> Core::ask_group(SessionCore& session, std::span<const Key* const> keys, Mode mode, spi::Group rule,
                                     Patience& patience, std::vector<TableGrant*>& grants) {
  std::uint32_t group = next_group_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (group == 0) group = next_group_.fetch_add(1, std::memory_order_relaxed) + 1;
  const auto waiters = std::make_unique<Waiter[]>(keys.size());
  std::vector<Entered> entered;
  entered.reserve(keys.size());
  Effects effects;
  effects.self = waiters.get();
  const Table::Intent intent{
      .mode = mode, .is_try = true, .group = group, .rule = rule, .asked = runtime_.steady_now()};
  for (std::size_t i = 0; i < keys.size(); ++i) {
    waiters[i].caller = waiters.get();
    entered.push_back(table_->enter(session, *keys[i], intent, waiters[i], effects));
    if (rule == spi::Group::all && entered[i] == Entered::failed) break;
    if (rule == spi::Group::any && entered[i] == Entered::granted) break;
  }
  Follower follower{.sleeper = &waiters[0].sleeper, .self = waiters.get()};
  for (std::size_t i = 0; i < entered.size(); ++i) {
    if (entered[i] == Entered::queued) {
      follower.sleeper = &waiters[i].sleeper;
      follower.until = patience.answer_deadline(waiters[i].arrived);
      break;
    }
  }
  engine_.run(effects, follower);
  std::optional<Error> error;
  for (std::size_t i = 0; i < entered.size(); ++i) {
    if (entered[i] == Entered::queued) await(waiters[i], follower, {});
    grants.push_back(waiters[i].error ? nullptr : waiters[i].grant);
    if (waiters[i].error && waiters[i].error->code() != errc::not_acquired && !error) error = waiters[i].error;
  }
  engine_.unfollow(follower);  // Linked for what was given back on the way, though nothing was queued.
  return error;
}

// The same in as few batches as the engine allows. Stops where going on can't help.
std::optional<Error> Core::ask_groups(SessionCore& session, std::span<const Key* const> keys, Mode mode,
                                      spi::Group rule, Patience& patience, std::vector<TableGrant*>& grants) {
  const spi::Backend* engine = engine_.backend();
  const std::size_t most = engine && engine->traits().lanes != 0 ? engine->traits().batch : keys.size();
  std::optional<Error> error;
  for (std::size_t first = 0; first < keys.size(); first += most) {
    const std::size_t size = std::min(most, keys.size() - first);
    std::vector<TableGrant*> some;
    auto failed = ask_group(session, keys.subspan(first, size), mode, rule, patience, some);
    if (!error) error = std::move(failed);
    grants.insert(grants.end(), some.begin(), some.end());
    const std::size_t none = static_cast<std::size_t>(std::count(some.begin(), some.end(), nullptr));
    if (rule == spi::Group::all ? none != 0 || some.size() < size : none != some.size()) break;
  }
  return error;
}

// Each of the keys, which are in canonical order: what is free in one batch, then one after the other.
Result<std::vector<Releaser>> Core::take_in_order(SessionCore& session, std::span<const Key* const> order,
                                                  Patience& patience) {
  const Mode mode = patience.options->mode;
  std::vector<TableGrant*> asked;
  ask_groups(session, order, mode, spi::Group::all, patience, asked);
  // Only an unbroken run from the start is kept: later keys must not be held while an earlier one is waited for.
  std::vector<Releaser> held;
  std::vector<TableGrant*> grants;
  held.reserve(order.size());
  grants.reserve(order.size());
  bool broken = false;
  for (TableGrant* grant : asked) {
    Releaser one(grant);
    broken |= grant == nullptr;
    if (broken) continue;
    held.push_back(std::move(one));
    grants.push_back(grant);
  }
  for (std::size_t i = held.size(); i < order.size(); ++i) {
    auto grant = acquire(session, *order[i], mode, patience);
    if (!grant) return fail(Error(grant.error()).with_key(order[i]->string()));
    held.emplace_back(*grant);
    grants.push_back(*grant);
  }
  if (has_window(*patience.options)) {
    for (TableGrant* grant : grants) set_window(*grant, *patience.options);
  }
  return held;
}

Result<std::vector<Releaser>> Core::lock_all(SessionCore& session, std::span<const Key> keys,
                                             const LockOptions& options) {
  if (keys.empty()) return fail(errc::invalid_key, "lock_all needs at least one key");
  for (const Key& key : keys) {
    if (auto good = check(key, options.mode); !good) return fail(good.error());
  }
  if (auto good = check_window(options); !good) return fail(good.error());
  Patience patience{config_, &options};
  if (options.stop.stop_requested()) return fail(Error(errc::cancelled));
  const std::vector<const Key*> order = canonical(keys);
  auto taken = take_in_order(session, order, patience);
  // What was lost while a later key was waited for makes it less than all: once more from the start.
  while (taken && std::any_of(taken->begin(), taken->end(), [](const Releaser& one) { return !one.held(); })) {
    taken->clear();
    if (patience.tries_only() || runtime_.steady_now() >= patience.deadline(runtime_.steady_now())) {
      return fail(errc::connection_lost, "a key was lost again before the others were taken");
    }
    patience.answered = Time{0};
    taken = take_in_order(session, order, patience);
  }
  if (!taken) return taken;
  if (std::ranges::equal(keys, order, {}, [](const Key& key) { return &key; })) return taken;
  std::vector<Releaser> result;
  for (const Key& key : keys) {
    const auto place =
        std::lower_bound(order.begin(), order.end(), &key, [](const Key* a, const Key* b) { return *a < *b; });
    Releaser& first = (*taken)[static_cast<std::size_t>(place - order.begin())];
    if (first) {
      result.push_back(std::move(first));
      continue;
    }
    // A key given twice: held already and so granted at once, unless it has been lost since.
    auto again = acquire(session, key, options.mode, patience);
    if (!again) return fail(Error(again.error()).with_key(key.string()));
    result.emplace_back(*again);
  }
  return result;
}

Result<Releaser> Core::try_lock_any(SessionCore& session, std::span<const Key> keys, Mode mode) {
  if (keys.empty()) return fail(errc::invalid_key, "try_lock_any needs at least one key");
  std::vector<const Key*> order;
  for (const Key& key : keys) {
    if (auto good = check(key, mode); !good) return fail(good.error());
    order.push_back(&key);
  }
  std::vector<TableGrant*> grants;
  Patience patience{config_};
  const std::optional<Error> error = ask_groups(session, order, mode, spi::Group::any, patience, grants);
  Releaser first;
  for (TableGrant* grant : grants) {
    Releaser one(grant);
    if (!first && one) first = std::move(one);
  }
  if (first) return first;
  return fail(error ? *error : Error(errc::not_acquired));
}

// ---- sessions and locker

Status Core::close_session(SessionCore& session) {
  if (in_child()) return fail(forked());
  if (session.closed) return {};
  Effects effects;
  effects.self = &effects;
  std::deque<PendingRelease> pending;
  table_->close_session(session, effects, pending);
  const Time until = release_deadline();
  finish(effects, until);
  Status result;
  for (PendingRelease& each : pending) {
    Follower nobody{.sleeper = &each.wait.sleeper, .self = &effects, .until = until};
    if (auto status = await_release(*each.entry, each.wait, nobody); !status && result) result = status;
  }
  return result;
}

Result<std::vector<Holder>> Core::inspect(const Key* key) {
  if (in_child()) return fail(forked());
  if (closed()) return fail(Error(errc::session_closed));
  std::vector<Holder> mine;
  table_->describe(mine, key);
  for (Holder& holder : mine) {
    holder.host = host_;
    holder.pid = getpid();
  }
  if (!engine_.backend()) return mine;
  auto recorded = engine_.backend()->inspect(key, after(runtime_.steady_now(), config_.reply_timeout()));
  if (!recorded) return recorded;
  // The engine knows this process as one holder; the table knows its sessions. The time is the engine's.
  std::vector<Holder> all;
  for (Holder& other : *recorded) {
    if (other.pid != getpid() || other.host != host_ || !owns(mine, other)) all.push_back(std::move(other));
  }
  for (Holder& holder : mine) all.push_back(std::move(holder));
  return all;
}

Stats Core::stats() {
  if (in_child()) return {};
  Stats all = table_->count();
  all.engine_batches =
      engine_.backend() && engine_.backend()->traits().lanes == 0 ? all.engine_requests : engine_.batches();
  return all;
}

Time Core::release_deadline() noexcept { return after(runtime_.steady_now(), config_.release_timeout()); }

bool Core::keeps_out(const Key& key, Mode mode) {
  std::vector<Holder> here;
  table_->describe(here, &key);
  return std::any_of(here.begin(), here.end(), [&](const Holder& holder) {
    return !holder.waiting && (mode == Mode::exclusive || holder.mode == Mode::exclusive);
  });
}

Status Core::close(Time until) {
  if (in_child()) return fail(forked());
  if (closed_.exchange(true)) return {};
  Effects effects;
  table_->close(effects);
  engine_.run(effects, until);
  const bool answered = engine_.close(until);
  notifier_->stop();
  self_ = shared_from_this();
  if (table_->orphans.fetch_sub(1, std::memory_order_acq_rel) == 1) self_.reset();
  if (answered) return {};
  return fail(errc::connection_lost, "the engine did not answer within release_timeout while the locker closed");
}

}  // namespace lockr::core
