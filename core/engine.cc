#include "core/engine.h"

#include <algorithm>
#include <utility>

namespace lockr::core {

constinit thread_local Inbox inbox;

Engine::Engine(spi::Runtime& runtime, std::unique_ptr<spi::Backend> backend, Time reply_timeout, LogHook log)
    : runtime_(runtime), backend_(std::move(backend)), reply_timeout_(reply_timeout), log_(std::move(log)) {
  watch_forks();
}

Engine::~Engine() { ignore_forks(); }

Status Engine::open(Time until) { return backend_ ? backend_->open(*this, until) : Status(); }

Status Engine::attach(Table& table, Notifier& notifier, Time until) {
  table_ = &table;
  notifier_ = &notifier;
  if (!backend_) return {};
  for (std::uint16_t link = 0; link < backend_->traits().lanes; ++link) {
    lanes_.push_back(std::make_unique<Lane>(*this, link, runtime_));
  }
  service_ = runtime_.start("lockr-service", [this] { serve(); });
  if (service_) return {};
  backend_->close(until);
  return fail(errc::capacity,
              "no thread can be started; raise the limit of processes (ulimit -u) or close some lockers");
}

void Engine::carry_out(Effects& effects, Way way) {
  tell(effects);
  while (effects.has_requests()) {
    Effects next;
    next.self = effects.self;
    spi::Request* send = effects.take_send();
    spi::Request* wait = std::exchange(effects.wait, nullptr);
    const std::vector<spi::Request*> stops = std::move(effects.stops);
    effects.stops.clear();
    if (wait) start_waits(wait, next);
    if (!stops.empty()) {
      within(next, [&] {
        for (spi::Request* request : stops) backend_->stop_wait(*request);
      });
    }
    if (send && lanes_.empty()) submit_directly(send, way, next);
    if (send && !lanes_.empty()) submit_to_lanes(send, way, next);
    tell(next);
    if (!next.has_requests()) return;
    effects.send = next.send;
    if (next.send) effects.send_tail = next.send_tail;
    effects.wait = next.wait;
    effects.stops = std::move(next.stops);
    // From here on it is others' business.
    way.follower = nullptr;
    if (!way.serving) bound(way);
    way.pressed = true;
  }
}

// Wakes, tells and rearms; requests stay.
void Engine::tell(Effects& effects) {
  effects.wakes.carry_out(runtime_);
  if (effects.notices) {
    notifier_->post(std::move(*effects.notices));
    effects.notices.reset();
  }
  if (std::exchange(effects.rearm, false)) backend_->wake();
}

template <class Body>
void Engine::within(Effects& next, Body body) {
  const Inbox before = std::exchange(inbox, {this, &next});
  body();
  inbox = before;
}

namespace {

// Takes the first request off the list, with the rest of its group behind it: they are sent as one.
spi::Request* take_group(spi::Request*& requests) {
  spi::Request* const first = std::exchange(requests, requests->next);
  first->next = nullptr;
  spi::Request** end = &first->next;
  for (spi::Request** place = &requests; first->group != 0 && *place;) {
    spi::Request* const request = *place;
    if (request->group != first->group) {
      place = &request->next;
      continue;
    }
    *place = std::exchange(request->next, nullptr);
    *end = request;
    end = &request->next;
  }
  return first;
}

}  // namespace

void Engine::submit_directly(spi::Request* requests, const Way& way, Effects& next) {
  if (!way.serving && way.pressed && runtime_.steady_now() >= way.until) {
    auto left = std::make_unique<Effects>();
    while (requests) left->add_send(*std::exchange(requests, requests->next));
    return leave_to_service(std::move(left));
  }
  std::vector<spi::Request*> group;
  within(next, [&] {
    while (requests) {
      // All read before submit(): a request may be asked again by another thread as soon as it is answered.
      spi::Request* const first = take_group(requests);
      if (!first->next) {
        backend_->submit(0, {&first, 1});
        continue;
      }
      group.clear();
      for (spi::Request* each = first; each; each = each->next) group.push_back(each);
      backend_->submit(0, group);
    }
  });
}

// Nobody waits for others for longer than an answer may take.
void Engine::bound(Way& way) {
  if (!std::exchange(way.bounded, true)) way.until = std::min(way.until, runtime_.steady_now() + reply_timeout_);
}

void Engine::submit_to_lanes(spi::Request* requests, Way& way, Effects& next) {
  std::vector<std::pair<Lane*, std::uint64_t>> tickets;
  while (requests) {
    spi::Request* const group = take_group(requests);
    spi::Request* last = group;
    while (last->next) last = last->next;
    Lane& lane = lane_for(*group);
    const std::uint64_t ticket = lane.add(*group, *last);
    auto found = tickets.begin();
    while (found != tickets.end() && found->first != &lane) ++found;
    if (found == tickets.end()) {
      tickets.emplace_back(&lane, ticket);
    } else {
      found->second = ticket;
    }
  }
  for (auto& [lane, ticket] : tickets) {
    if (way.serving) {
      lane->serve(next);
    } else if (way.follower && !way.follower->lane.load(std::memory_order_acquire)) {
      lane->advance(ticket, *way.follower, next);
    } else {
      bound(way);
      await_sent(*lane, ticket, way.until, next);
    }
  }
}

void Engine::await_sent(Lane& lane, std::uint64_t ticket, Time until, Effects& next) {
  Sleeper sleeper;
  Follower own{.sleeper = &sleeper, .until_sent = true, .until = until};
  if (lane.advance(ticket, own, next)) return;
  while (own.lane.load(std::memory_order_acquire)) {
    if (runtime_.steady_now() >= own.until) return lane.unfollow(own);
    sleeper.park_together(runtime_, own.until);
    sleeper.heed();
    lane.follow_up(own, next);
  }
}

// The lane for a request and those linked behind it.
Lane& Engine::lane_for(const spi::Request& group) {
  // Also of a waiter's seat, which is no lane: a give_back and the take behind it go one way.
  for (const spi::Request* each = &group; each; each = each->next) {
    if (each->seat.life != 0) return *lanes_[each->seat.link % lanes_.size()];
  }
  // Threads of one processor share a lane: they, and the server's end of it, wake each other without crossing over.
  return *lanes_[runtime_.processor() % lanes_.size()];
}

void Engine::submit(std::uint16_t link, std::span<spi::Request* const> batch, Effects& next) {
  within(next, [&] { backend_->submit(link, batch); });
  tell(next);
}

bool Engine::collect(std::uint16_t link, Time until, Effects& next) {
  bool all = false;
  within(next, [&] { all = backend_->collect(link, until); });
  tell(next);
  return all;
}

void Engine::follow_up(Follower& follower) {
  Lane* const lane = follower.lane.load(std::memory_order_acquire);
  if (!lane) return;
  Effects next;
  next.self = follower.self;
  lane->follow_up(follower, next);
  run(next, follower.until);
}

void Engine::start_waits(spi::Request* requests, Effects& next) {
  while (requests) {
    spi::Request& request = *std::exchange(requests, requests->next);
    Entry& entry = *static_cast<Entry*>(request.owner);
    bool begun = false;
    within(next, [&] { begun = backend_->start_wait(request); });
    if (begun) {
      table_->wait_begun(entry, next);
    } else {
      table_->wait_refused(entry, next);
    }
  }
}

// ---- Sink

template <class Event>
void Engine::on_event(Event event) {
  if (inbox.engine == this) {
    event(*inbox.effects);
    return;
  }
  auto effects = std::make_unique<Effects>();
  event(*effects);
  tell(*effects);
  if (effects->has_requests()) leave_to_service(std::move(effects));
}

void Engine::leave_to_service(std::unique_ptr<Effects> effects) {
  {
    std::lock_guard lock(deferred_mutex_);
    deferred_.push_back(std::move(effects));
  }
  backend_->wake();
}

void Engine::done(spi::Request& request) noexcept {
  on_event([&](Effects& effects) { table_->done(request, effects); });
  if (closing_.load()) {
    answers_.fetch_add(1);
    runtime_.wake(&answers_);
  }
}

void Engine::hint(std::uint64_t identity) noexcept {
  on_event([&](Effects& effects) { table_->hint(identity, effects); });
}

void Engine::alive(spi::Seat seat, Time valid_until) noexcept { table_->alive(seat, valid_until); }

void Engine::lost(spi::Seat seat, const Key* key, const Error& error) noexcept {
  log(LogLevel::warning,
      "lost " + (key ? "a lock" : std::string("every lock of a connection")) + ": " + error.to_string());
  on_event([&](Effects& effects) { table_->lost(seat, key, error, effects); });
}

void Engine::reconnected() noexcept {
  log(LogLevel::info, "the engine can be reached again");
  on_event([&](Effects& effects) { table_->reconnected(effects); });
}

void Engine::lapse(const TableGrant& grant) noexcept {
  on_event([&](Effects& effects) { table_->lapse(grant, effects); });
}

std::vector<Holder> Engine::describe() noexcept {
  std::vector<Holder> out;
  table_->describe(out, nullptr);
  return out;
}

// ---- the service thread

void Engine::serve() {
  while (!stopping_) {
    Effects effects;
    const Time next_due = table_->run_timers(effects);
    carry_out(effects, {.serving = true});
    notifier_->start_if_owed();
    std::vector<std::unique_ptr<Effects>> deferred;
    {
      std::lock_guard lock(deferred_mutex_);
      deferred.swap(deferred_);
    }
    for (const auto& each : deferred) carry_out(*each, {.serving = true});
    Effects next;
    for (const auto& lane : lanes_) lane->serve(next);
    carry_out(next, {.serving = true});
    within(next, [&] { backend_->pump(next_due); });
    carry_out(next, {.serving = true});
  }
}

bool Engine::close(Time until) {
  if (!backend_) return true;
  closing_ = true;
  bool answered = true;
  for (;;) {
    const std::uint32_t seen = answers_.load();
    if (!table_->owed_by_engine()) break;
    if (runtime_.steady_now() >= until) {
      answered = false;
      break;
    }
    runtime_.park(answers_, seen, until);
  }
  stopping_ = true;
  backend_->wake();
  service_.reset();
  backend_->close(until);
  return answered;
}

void Engine::before_fork() noexcept {
  if (backend_) backend_->before_fork();
}

void Engine::after_fork() noexcept {
  if (backend_) backend_->after_fork();
}

void Engine::forked() noexcept {
  if (backend_) backend_->forked();
  if (service_) service_->abandon();
}

std::uint64_t Engine::batches() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& lane : lanes_) sum += lane->batches();
  return sum;
}

}  // namespace lockr::core
