#include "tests/support/scripted_engine.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/locker.h"
#include "core/park_mutex.h"

namespace lockr::testing {

using spi::Answer;
using spi::kNever;
using spi::Op;
using spi::Request;
using spi::Seat;

namespace {

using Reply = ScriptedServer::Reply;
using Ask = ScriptedServer::Ask;
using Event = ScriptedServer::Event;

Time plus(Time moment, Time span) { return moment == kNever || span == kNever ? kNever : moment + span; }

Error broken() { return Error(errc::connection_lost, "the scripted link broke; try again once it is connected"); }

std::string describe(const Request& request) {
  const char* const ops[] = {"take", "give back", "yield"};
  return std::string(ops[static_cast<int>(request.op)]) + (request.mode == Mode::shared ? " shared " : " ") +
         std::string(request.key->string());
}

// An answer on its way.
struct Pending {
  Request* request = nullptr;
  Reply reply{};
  Seat link{};
  Time sent{0};                      // Steady clock.
  Time sent_boot{0};                 // Boot clock.
  Time due{0};                       // Steady clock; kNever while the process is stalled.
  std::size_t* remaining = nullptr;  // Of a submit() that waits for its answers.
};

struct Link {
  Seat seat{};
  bool up = true;
  bool in_use = false;    // A lane: some thread is inside submit() or collect().
  bool told = true;       // A lane: pump() returned for the answers of the last submit().
  bool occupied = false;  // A waiter: waits, or holds what it waited for.
  bool ignores_stop = false;
  Time up_at{0};          // Steady clock.
  Time stop_at = kNever;  // A waiter: when a wait that nobody wants any more ends.
  std::uint64_t ticket = 0;
  Request* waiting = nullptr;
  std::optional<Pending> wait_answer;
  std::deque<Pending> outstanding;
};

class ScriptedBackend final : public spi::Backend {
 public:
  explicit ScriptedBackend(std::shared_ptr<ScriptedServer> server)
      : server_(std::move(server)),
        options_(server_->options()),
        runtime_(server_->runtime()),
        traits_(traits_of(options_)),
        bell_(std::make_shared<Bell>(runtime_)),
        mutex_(runtime_) {}

  Status open(spi::Sink& sink, Time until) noexcept override;
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t link, std::span<Request* const> batch) noexcept override;
  bool collect(std::uint16_t link, Time until) noexcept override;
  bool start_wait(Request& request) noexcept override;
  void stop_wait(Request& request) noexcept override;
  bool wanted_elsewhere(std::uint64_t identity) noexcept override {
    return server_->wanted_elsewhere(process_, identity);
  }
  void pump(Time until) noexcept override;
  void wake() noexcept override;
  Result<std::vector<Holder>> inspect(const Key* key, Time until) noexcept override;
  void close(Time until) noexcept override;
  void forked() noexcept override {}

 private:
  static spi::Traits traits_of(const ScriptedOptions& options);
  Time now() const noexcept { return runtime_.steady_now(); }
  Time believed() const noexcept { return options_.validity == kNever ? kNever : options_.validity - margin(); }
  Time margin() const noexcept { return options_.validity / 10; }
  std::size_t waiters_begin() const noexcept { return std::max<std::size_t>(options_.lanes, 1); }
  std::span<Link> waiters() noexcept { return std::span(links_).subspan(waiters_begin()); }
  Ask ask_of(const Request& request, Seat link) const;
  void check_batch(const Link& link, std::span<Request* const> batch);
  void accept(const Request& request);
  Link& way_of(const Request& request, Link& lane);
  void vacate(Seat seat);
  void send(Link& link, std::span<Request* const> batch, std::size_t* remaining);
  void answer(const Pending& pending, Answer with);
  void finish(Request& request, Answer with);
  bool deliver(Link& link);
  void drop_link(Link& link, Time keeps);
  void hear();
  void hear(const Event& event);
  void answer_wait(Link& link, const Reply& reply);
  bool reachable() const;
  void reconnect(Link& link);
  void advance_lane(Link& link);
  void advance_wait(Link& link);
  void beat();
  bool advance();
  Time next_due() const;

  const std::shared_ptr<ScriptedServer> server_;
  const ScriptedOptions& options_;
  spi::Runtime& runtime_;
  const spi::Traits traits_;
  const std::shared_ptr<Bell> bell_;
  spi::Sink* sink_ = nullptr;
  int process_ = -1;
  std::atomic<bool> woken_{false};

  core::ParkMutex mutex_;
  // Guarded by mutex_, which is held across calls of the sink so that what they say stays in order.
  std::vector<Link> links_;  // Lanes, then waiters.
  std::set<const Request*> asked_;
  std::uint64_t tickets_ = 0;
  Time next_beat_ = kNever;    // Steady clock.
  Time alive_until_ = kNever;  // Boot clock.
  Time next_expiry_ = kNever;  // Boot clock.
  bool handled_ = false;       // pump() has something to return for.
  bool closed_ = false;
};

spi::Traits ScriptedBackend::traits_of(const ScriptedOptions& options) {
  spi::Traits traits;
  traits.capabilities = {.backend = "scripted",
                         .shared = options.shared,
                         .fencing = options.fencing,
                         .cross_process = true,
                         .cross_host = true,
                         .fair = false,
                         .takeover = options.validity == kNever ? Time{0} : options.validity,
                         .loss = std::chrono::seconds(1)};
  traits.identity_is_hash = options.identity_is_hash;
  traits.lanes = options.lanes;
  traits.batch = options.batch;
  traits.seats = std::max<std::size_t>(options.lanes, 1) + options.waiters;
  return traits;
}

Status ScriptedBackend::open(spi::Sink& sink, Time /*until*/) noexcept {
  std::lock_guard lock(mutex_);
  process_ = server_->connect(bell_);
  if (process_ < 0) return fail(errc::connection_lost, "the scripted server is down; bring it up first");
  sink_ = &sink;
  const std::size_t links = waiters_begin() + options_.waiters;
  for (std::size_t link = 0; link < links; ++link) {
    links_.emplace_back().seat = {.link = static_cast<std::uint16_t>(link), .life = 1};
  }
  alive_until_ = plus(runtime_.boot_now(), believed());
  if (options_.validity != kNever) next_beat_ = now() + options_.validity / 3;
  return {};
}

// ---- requests

Ask ScriptedBackend::ask_of(const Request& request, Seat link) const {
  return {.op = request.op,
          .mode = request.mode,
          .group = request.group,
          .group_rule = request.group_rule,
          .identity = request.identity,
          .key = *request.key,
          .label = std::string(request.label),
          .seat = request.seat,
          .link = link};
}

void ScriptedBackend::check_batch(const Link& link, std::span<Request* const> batch) {
  if (link.in_use) server_->violation("two threads on one lane");
  if (traits_.lanes != 0 && batch.size() > traits_.batch) {
    // Only the end of a group may go over the limit.
    const std::uint32_t last = batch.back()->group;
    if (last == 0 || batch[traits_.batch - 1u]->group != last) server_->violation("a batch over the limit");
  }
  std::set<std::uint32_t> groups;
  std::uint32_t before = 0;
  for (const Request* request : batch) {
    if (request->group != 0 && request->group != before && !groups.insert(request->group).second) {
      server_->violation("the members of a group do not stand together");
    }
    before = request->group;
  }
}

void ScriptedBackend::accept(const Request& request) {
  if (!asked_.insert(&request).second)
    server_->violation("a request was sent again before it was answered: " + describe(request));
  if (!request.key || request.key->empty()) server_->violation("a request without a key");
  if (request.answer != Answer::pending) server_->violation("a request was sent with an answer in it");
}

// Where the request goes out: what gives a waiter's lock back, on that waiter's link.
Link& ScriptedBackend::way_of(const Request& request, Link& lane) {
  if (request.op == Op::take || request.seat.link < waiters_begin() || request.seat.link >= links_.size()) return lane;
  Link& own = links_[request.seat.link];
  return own.seat == request.seat ? own : lane;
}

void ScriptedBackend::send(Link& link, std::span<Request* const> batch, std::size_t* remaining) {
  std::vector<Ask> asks;
  for (Request* request : batch) {
    accept(*request);
    const Link& way = way_of(*request, link);
    if (way.up) asks.push_back(ask_of(*request, way.seat));
  }
  const Time sent = now();
  const Time sent_boot = runtime_.boot_now();
  const std::vector<Reply> replies = server_->serve(process_, asks);
  const bool stalled = server_->stalled(process_);
  std::vector<Link*> cut;
  auto reply = replies.begin();
  for (Request* request : batch) {
    Link& way = way_of(*request, link);
    Pending pending{.request = request, .link = way.seat, .sent = sent, .sent_boot = sent_boot, .remaining = remaining};
    pending.reply = way.up ? *reply++ : Reply{.answer = Answer::failed};
    pending.due = stalled && way.up ? kNever : sent + options_.latency + pending.reply.delay;
    if (pending.reply.cut) {
      pending.reply.answer = Answer::failed;
      cut.push_back(&way);
    }
    link.outstanding.push_back(pending);
  }
  link.told = false;
  for (Link* gone : cut) drop_link(*gone, Time{0});
}

void ScriptedBackend::submit(std::uint16_t number, std::span<Request* const> batch) noexcept {
  std::size_t remaining = batch.size();
  {
    std::lock_guard lock(mutex_);
    hear();
    Link& link = links_.at(number);
    check_batch(link, batch);
    link.in_use = traits_.lanes != 0;
    send(link, batch, traits_.lanes == 0 ? &remaining : nullptr);
    link.in_use = false;
  }
  if (traits_.lanes != 0) return bell_->ring();
  for (;;) {
    const std::uint64_t seen = bell_->rings();
    Time until = kNever;
    {
      std::lock_guard lock(mutex_);
      hear();
      Link& link = links_.at(number);
      if (deliver(link)) bell_->ring();
      if (remaining == 0) return;
      until = std::min(link.outstanding.front().due, link.outstanding.front().sent + options_.reply_timeout);
    }
    bell_->sleep(seen, until);
  }
}

bool ScriptedBackend::collect(std::uint16_t number, Time until) noexcept {
  for (bool first = true;; first = false) {
    const std::uint64_t seen = bell_->rings();
    Time next = until;
    {
      std::lock_guard lock(mutex_);
      hear();
      Link& link = links_.at(number);
      if (first && link.in_use) server_->violation("two threads on one lane");
      deliver(link);
      link.in_use = !link.outstanding.empty() && now() < until;
      if (link.outstanding.empty()) return true;
      if (!link.in_use) return false;
      const Pending& front = link.outstanding.front();
      next = std::min({until, front.due, front.sent + options_.reply_timeout});
    }
    bell_->sleep(seen, next);
  }
}

// ---- answers

void ScriptedBackend::finish(Request& request, Answer with) {
  request.answer = with;
  asked_.erase(&request);
  sink_->done(request);
}

void ScriptedBackend::answer(const Pending& pending, Answer with) {
  Request& request = *pending.request;
  if (request.op != Op::take) vacate(request.seat);
  request.ask_again = Time{0};
  if (with == Answer::refused && options_.poll != Time{0}) request.ask_again = now() + options_.poll;
  if (with == Answer::granted) {
    request.seat = pending.link;
    request.valid_until = plus(pending.sent_boot, believed());
    request.token = pending.reply.token;
    if (pending.link.link >= waiters_begin()) links_[pending.link.link].occupied = true;
  }
  if (with == Answer::failed) request.error = broken();
  if (with == Answer::unknown) {
    request.ask_again = now() + options_.forgets_after;
    request.error = Error(errc::connection_lost, "the scripted server's answer was lost; try again later")
                        .with_may_hold_until(runtime_.boot_now() + options_.forgets_after);
  }
  std::size_t* remaining = pending.remaining;
  finish(request, with);
  if (remaining) --*remaining;
}

// Hands out the answers that have arrived, in order. True: there were some.
bool ScriptedBackend::deliver(Link& link) {
  bool any = false;
  while (!link.outstanding.empty()) {
    const Time moment = now();
    const Pending front = link.outstanding.front();
    if (front.due <= moment) {
      link.outstanding.pop_front();
      answer(front, front.reply.answer);
    } else if (front.sent + options_.reply_timeout <= moment) {
      drop_link(link, options_.forgets_after);
    } else {
      break;
    }
    any = true;
  }
  return any;
}

// A waiter that holds nothing any more can wait again.
void ScriptedBackend::vacate(Seat seat) {
  if (seat.link < waiters_begin() || seat.link >= links_.size() || links_[seat.link].seat != seat) return;
  Link& link = links_[seat.link];
  link.occupied = link.waiting || server_->holds(process_, seat);
}

// The link is gone; the server drops what it held after `keeps`.
void ScriptedBackend::drop_link(Link& link, Time keeps) {
  const Seat gone = link.seat;
  const bool was_up = std::exchange(link.up, false);
  if (was_up) {
    server_->drop_link(process_, link.seat.link, keeps);
    link.up_at = now() + options_.reconnect_after;
    ++link.seat.life;
  }
  const bool unknown = keeps != Time{0};
  while (!link.outstanding.empty()) {
    const Pending pending = link.outstanding.front();
    link.outstanding.pop_front();
    answer(pending, unknown ? Answer::unknown : Answer::failed);
    // What it did on another link is as unknown.
    if (Link& way = links_[pending.link.link]; &way != &link && way.seat == pending.link) drop_link(way, keeps);
  }
  if (!was_up) return;
  if (link.waiting) {
    Request& request = *std::exchange(link.waiting, nullptr);
    request.error = broken();
    request.ask_again = unknown ? now() + keeps : Time{0};
    finish(request, Answer::failed);
  }
  link.occupied = false;
  link.wait_answer.reset();
  link.stop_at = kNever;
  sink_->lost(gone, nullptr, broken());
  handled_ = true;
  bell_->ring();
}

// ---- waits

bool ScriptedBackend::start_wait(Request& request) noexcept {
  std::lock_guard lock(mutex_);
  hear();
  if (server_->stalled(process_)) return false;
  const std::span<Link> all = waiters();
  auto free = std::find_if(all.begin(), all.end(), [](const Link& link) { return link.up && !link.occupied; });
  if (free == all.end()) return false;
  accept(request);
  free->occupied = true;
  free->waiting = &request;
  free->ticket = (++tickets_ << 16) + static_cast<std::uint64_t>(process_);
  free->stop_at = kNever;
  const Reply reply = server_->wait(process_, ask_of(request, free->seat), free->ticket, free->ignores_stop);
  if (reply.cut || reply.answer != Answer::pending) answer_wait(*free, reply);
  bell_->ring();
  return true;
}

void ScriptedBackend::stop_wait(Request& request) noexcept {
  std::lock_guard lock(mutex_);
  hear();
  for (Link& link : waiters()) {
    if (link.waiting != &request || link.wait_answer) continue;
    link.stop_at = now() + (link.ignores_stop ? options_.stop_delay : Time{0});
    bell_->ring();
  }
}

// The answer to a wait is under way; pump() hands it out.
void ScriptedBackend::answer_wait(Link& link, const Reply& reply) {
  const Time due = server_->stalled(process_) ? kNever : now() + options_.latency + reply.delay;
  link.wait_answer = Pending{.request = link.waiting, .reply = reply, .link = link.seat, .due = due};
}

void ScriptedBackend::advance_wait(Link& link) {
  if (link.waiting && !link.wait_answer && link.stop_at <= now()) {
    if (server_->stalled(process_)) {
      if (link.stop_at + options_.reply_timeout <= now()) drop_link(link, options_.forgets_after);
      return;
    }
    // A wait that was granted in the meantime stands: its event is on the way.
    if (server_->cancel(link.ticket)) answer_wait(link, {.answer = Answer::refused});
    link.stop_at = kNever;
  }
  if (!link.wait_answer || link.wait_answer->due > now()) return;
  const Pending pending = *std::exchange(link.wait_answer, std::nullopt);
  handled_ = true;
  if (pending.reply.cut) return drop_link(link, Time{0});
  Request& request = *std::exchange(link.waiting, nullptr);
  const bool granted = pending.reply.answer == Answer::granted;
  link.occupied = granted;
  request.ask_again = Time{0};
  if (granted) {
    request.seat = link.seat;
    request.valid_until = alive_until_;
    request.token = pending.reply.token;
  } else if (pending.reply.answer == Answer::failed) {
    request.error = broken();
  }
  finish(request, pending.reply.answer);
}

// ---- the service thread

void ScriptedBackend::hear() {
  for (const Event& event : server_->take_events(process_)) hear(event);
}

void ScriptedBackend::hear(const Event& event) {
  switch (event.kind) {
    case Event::Kind::cut:
      for (Link& link : links_) drop_link(link, event.keeps);
      break;
    case Event::Kind::granted:
      for (Link& link : waiters()) {
        if (link.waiting && link.ticket == event.ticket) {
          answer_wait(link, {.answer = Answer::granted, .token = event.token});
        }
      }
      break;
    case Event::Kind::hint:
      sink_->hint(event.identity);
      break;
    case Event::Kind::revoked:
      // Unless it has been given back and granted again since.
      if (server_->holds(process_, event.seat, &*event.key) || links_.at(event.seat.link).seat != event.seat) break;
      vacate(event.seat);
      sink_->lost(event.seat, &*event.key, Error(errc::lock_lost, "the scripted server took the lock away"));
      break;
    case Event::Kind::resumed:
      for (Link& link : links_) {
        const Time due = now() + options_.latency;
        for (Pending& pending : link.outstanding) pending.due = std::min(pending.due, due);
        if (link.wait_answer) link.wait_answer->due = std::min(link.wait_answer->due, due);
      }
      break;
  }
  handled_ = true;
  bell_->ring();
}

bool ScriptedBackend::reachable() const { return !server_->down() && !server_->stalled(process_); }

void ScriptedBackend::reconnect(Link& link) {
  if (link.up || now() < link.up_at || !reachable()) return;
  link.up = true;
  if (options_.validity != kNever && alive_until_ == kNever) {
    alive_until_ = runtime_.boot_now() + believed();
    next_beat_ = now() + options_.validity / 3;
  }
  sink_->reconnected();
  handled_ = true;
}

void ScriptedBackend::advance_lane(Link& link) {
  if (link.outstanding.empty()) return;
  const Time moment = now();
  if (link.outstanding.front().sent + options_.reply_timeout <= moment && link.outstanding.front().due > moment) {
    return drop_link(link, options_.forgets_after);
  }
  const bool arrived = std::all_of(link.outstanding.begin(), link.outstanding.end(),
                                   [&](const Pending& pending) { return pending.due <= moment; });
  if (arrived && !std::exchange(link.told, true)) handled_ = true;
}

// Heartbeats; and what their absence means.
void ScriptedBackend::beat() {
  if (runtime_.boot_now() >= alive_until_) {
    alive_until_ = next_beat_ = kNever;
    for (Link& link : links_) drop_link(link, options_.validity);
    return;
  }
  if (now() < next_beat_) return;
  next_beat_ = now() + options_.validity / 3;
  if (!reachable()) return;
  const Time sent = runtime_.boot_now();
  server_->renew(process_);
  alive_until_ = sent + believed();
  for (Link& link : links_) {
    if (link.up) sink_->alive(link.seat, alive_until_);
  }
  handled_ = true;
}

// Does what is due. True: it did something.
bool ScriptedBackend::advance() {
  next_expiry_ = server_->expire();
  hear();
  for (Link& link : links_) {
    reconnect(link);
    if (traits_.lanes != 0) advance_lane(link);
  }
  for (Link& link : waiters()) advance_wait(link);
  beat();
  return std::exchange(handled_, false);
}

Time ScriptedBackend::next_due() const {
  const Time moment = now();
  auto steady = [&](Time boot) {
    return boot == kNever ? kNever : moment + std::max(Time{0}, boot - runtime_.boot_now());
  };
  Time next = std::min({next_beat_, steady(alive_until_), steady(next_expiry_)});
  for (const Link& link : links_) {
    if (!link.up) next = std::min(next, std::max(link.up_at, moment + options_.reconnect_after));
    if (link.wait_answer) next = std::min(next, link.wait_answer->due);
    if (link.waiting && !link.wait_answer && link.stop_at != kNever) {
      next = std::min(next, link.stop_at <= moment ? link.stop_at + options_.reply_timeout : link.stop_at);
    }
    if (traits_.lanes == 0) continue;
    for (const Pending& pending : link.outstanding) {
      next = std::min(next, pending.sent + options_.reply_timeout);
      if (!link.told) next = std::min(next, std::max(moment, pending.due));
    }
  }
  return next;
}

void ScriptedBackend::pump(Time until) noexcept {
  for (;;) {
    const std::uint64_t seen = bell_->rings();
    Time next = until;
    {
      std::lock_guard lock(mutex_);
      if (woken_.exchange(false) || closed_) return;
      if (advance() || now() >= until) return;
      next = std::min(until, next_due());
    }
    bell_->sleep(seen, next);
  }
}

void ScriptedBackend::wake() noexcept {
  woken_ = true;
  bell_->ring();
}

Result<std::vector<Holder>> ScriptedBackend::inspect(const Key* key, Time /*until*/) noexcept {
  if (!reachable()) return fail(broken());
  return server_->list(key);
}

void ScriptedBackend::close(Time /*until*/) noexcept {
  std::lock_guard lock(mutex_);
  closed_ = true;
  if (process_ >= 0) server_->disconnect(process_);
}

// Registry and config know the engine by this; it is connected by hand, not made from a section.
const spi::BackendInfo kInfo{
    .name = "scripted",
    .schemes = "",
    .summary = "a server in memory that follows a script; for tests",
    .schema = R"({"type":"object","additionalProperties":false})",
    .create = [](const spi::OpenContext&) -> Result<std::unique_ptr<spi::Backend>> {
      return fail(errc::unsupported, "the scripted engine is connected with connect_to()");
    },
};

}  // namespace

std::unique_ptr<spi::Backend> connect_to(std::shared_ptr<ScriptedServer> server) {
  return std::make_unique<ScriptedBackend>(std::move(server));
}

Result<std::unique_ptr<Locker>> open_scripted(std::shared_ptr<ScriptedServer> server, std::string_view fields,
                                              OpenOptions options) {
  std::string json = R"({"backend": "scripted")";
  if (!fields.empty()) json.append(", ").append(fields);
  auto config = LockerConfig::from_json(json + "}");
  if (!config) return fail(config.error());
  options.runtime = &server->runtime();
  return core::open_locker(*config, kInfo, connect_to(std::move(server)), options);
}

}  // namespace lockr::testing
