#include "lockr/spi/polling.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "core/park_mutex.h"
#include "core/thrown.h"

namespace lockr::spi {

namespace {

PollingOptions completed(PollingOptions options) {
  const bool leased = options.validity != kNever;
  if (options.margin == Time{0} && leased) options.margin = options.validity / 10;
  if (options.renew_every == Time{0}) options.renew_every = leased ? options.validity / 3 : kNever;
  return options;
}

Traits with_one_lane(Traits traits) {
  traits.lanes = 1;
  traits.seats = 1;
  return traits;
}

Error expired() {
  return Error(errc::lock_lost, "the lock's validity ran out before it could be renewed; stop, and take it again");
}

// Calls the derived class, whose exception becomes an error.
template <class Call>
Status guarded(const char* name, Call call) {
  try {
    return call();
  } catch (...) {
    return fail(Error(errc::backend_failure, std::string("the backend's ") + name + "() threw an exception")
                    .with_native(core::thrown_text()));
  }
}

// As above, of a batch: what was not answered by then is unknown.
template <class Call>
void answered_by(const char* name, std::span<Request* const> batch, Call call) {
  for (Request* request : batch) request->answer = Answer::unknown;
  const Status done = guarded(name, [&] {
    call(batch);
    return Status();
  });
  if (done) return;
  for (Request* request : batch) {
    if (request->answer == Answer::unknown) request->error = done.error();
  }
}

}  // namespace

class PollingBackend::State {
 public:
  State(PollingBackend& backend, Runtime& runtime, Traits traits, PollingOptions options)
      : backend_(backend),
        runtime_(runtime),
        traits_(with_one_lane(std::move(traits))),
        options_(completed(options)),
        mutex_(runtime) {}

  Status open(Sink& sink, Time until);
  void submit(std::span<Request* const> batch);
  void pump(Time until);
  void wake();
  void close();
  void lose_all(Error reason) { all_lost_ = std::move(reason); }
  const Traits& traits() const { return traits_; }
  Runtime& runtime() const { return runtime_; }

 private:
  // What the engine locks for a key.
  struct Name {
    std::uint64_t identity;
    std::string text;  // Empty where the identity says it all.
    friend auto operator<=>(const Name&, const Name&) = default;
  };
  struct Kept {
    Held held;
    Time valid_until;  // Boot clock.
  };

  Seat seat() const { return {.link = 0, .life = life_}; }
  Name name_of(const Request& request) const;
  Time poll_again();
  void give_back(std::span<Request* const> batch);
  void return_unwanted(std::span<Request* const> batch);
  void take(std::span<Request* const> batch);
  void take_all(std::span<Request* const> group);
  void take_any(std::span<Request* const> group);
  void take_groups(std::span<Request* const> batch);
  void keep(Request& request, Time sent);
  void note(const Request& request);
  void announce_loss();
  void drop_expired();
  void renew_round();
  bool renew_chunk(std::optional<Name>& last, bool& complete);

  PollingBackend& backend_;
  Runtime& runtime_;
  const Traits traits_;
  const PollingOptions options_;
  std::atomic<std::uint32_t> bell_{0};
  std::atomic<bool> woken_{false};

  core::ParkMutex mutex_;
  // Guarded by mutex_, which is held across the engine's calls and the sink's: so they stay in order.
  Sink* sink_ = nullptr;
  std::map<Name, Kept> kept_;
  std::uint32_t life_ = 1;
  Time next_renewal_ = kNever;  // Steady clock.
  bool unreachable_ = false;
  std::optional<Error> all_lost_;
};

Status PollingBackend::State::open(Sink& sink, Time until) {
  std::lock_guard lock(mutex_);
  sink_ = &sink;
  return guarded("connect", [&] { return backend_.connect(until); });
}

void PollingBackend::State::close() {
  std::lock_guard lock(mutex_);
  sink_ = nullptr;
  // Nobody is left to be told.
  static_cast<void>(guarded("disconnect", [&] {
    backend_.disconnect();
    return Status();
  }));
}

PollingBackend::State::Name PollingBackend::State::name_of(const Request& request) const {
  return {request.identity, traits_.identity_is_hash ? std::string() : std::string(request.key->string())};
}

// The poll interval, give or take a quarter, so that processes do not keep meeting.
Time PollingBackend::State::poll_again() {
  const auto half = static_cast<std::uint64_t>(std::max<Time::rep>(1, options_.poll_interval.count() / 2));
  return runtime_.steady_now() + options_.poll_interval * 3 / 4 +
         Time(static_cast<Time::rep>(runtime_.random() % half));
}

// ---- requests

void PollingBackend::State::submit(std::span<Request* const> batch) {
  std::lock_guard lock(mutex_);
  std::vector<Request*> back;
  std::vector<Request*> alone;
  for (Request* request : batch) {
    if (request->op != Op::take) {
      back.push_back(request);
    } else if (request->group == 0) {
      alone.push_back(request);
    }
  }
  give_back(back);
  take(alone);
  take_groups(batch);
  for (Request* request : batch) {
    note(*request);
    sink_->done(*request);
  }
}

void PollingBackend::State::give_back(std::span<Request* const> batch) {
  std::vector<Request*> held;
  for (Request* request : batch) {
    request->answer = Answer::not_held;
    // Whatever was lost meanwhile is not the engine's business: the name may be someone else's by now, or ours anew.
    if (request->seat == seat() && kept_.erase(name_of(*request)) != 0) held.push_back(request);
  }
  return_unwanted(held);
  for (Request* request : batch) {
    if (request->op != Op::yield) continue;
    if (request->answer == Answer::unknown || request->answer == Answer::failed) continue;
    // Others can only go first if they find the key free when they look.
    request->answer = Answer::refused;
    request->ask_again = runtime_.steady_now() + options_.poll_interval / 4;
  }
}

void PollingBackend::State::return_unwanted(std::span<Request* const> batch) {
  if (batch.empty()) return;
  answered_by("give_back", batch, [this](auto requests) { backend_.give_back(requests); });
  for (Request* request : batch) {
    if (request->answer != Answer::unknown || request->ask_again != Time{0}) continue;
    request->ask_again = options_.validity == kNever ? poll_again() : runtime_.steady_now() + options_.validity;
  }
  announce_loss();
}

void PollingBackend::State::take(std::span<Request* const> batch) {
  if (batch.empty()) return;
  for (Request* request : batch) request->ask_again = Time{0};
  const Time sent = runtime_.boot_now();
  answered_by("take", batch, [this](auto requests) { backend_.take(requests); });
  for (Request* request : batch) {
    if (request->answer == Answer::granted && all_lost_) {
      request->answer = Answer::failed;
      request->error = *all_lost_;
    } else if (request->answer == Answer::granted) {
      keep(*request, sent);
    } else if (request->answer == Answer::unknown && request->ask_again == Time{0} && options_.validity != kNever) {
      request->ask_again = runtime_.steady_now() + options_.validity;
    } else if (request->ask_again == Time{0}) {
      request->ask_again = poll_again();
    }
  }
  announce_loss();
}

void PollingBackend::State::keep(Request& request, Time sent) {
  request.seat = seat();
  request.valid_until = options_.validity == kNever ? kNever : sent + options_.validity - options_.margin;
  if (kept_.empty() && options_.renew_every != kNever) {
    next_renewal_ = runtime_.steady_now() + options_.renew_every;
    bell_.fetch_add(1, std::memory_order_release);
    runtime_.wake(&bell_);
  }
  Held held{.key = *request.key, .identity = request.identity, .mode = request.mode, .token = request.token};
  kept_.insert_or_assign(name_of(request), Kept{std::move(held), request.valid_until});
}

void PollingBackend::State::take_groups(std::span<Request* const> batch) {
  for (std::size_t first = 0; first < batch.size();) {
    std::size_t last = first + 1;
    while (last < batch.size() && batch[last]->group == batch[first]->group) ++last;
    const auto group = batch.subspan(first, last - first);
    first = last;
    if (group.front()->group == 0) continue;
    if (group.front()->group_rule == Group::all) {
      take_all(group);
    } else {
      take_any(group);
    }
  }
}

void PollingBackend::State::take_all(std::span<Request* const> group) {
  take(group);
  std::vector<Request*> unwanted;
  for (Request* request : group) {
    if (request->answer == Answer::granted) unwanted.push_back(request);
  }
  if (unwanted.size() == group.size()) return;
  for (Request* request : unwanted) kept_.erase(name_of(*request));
  return_unwanted(unwanted);
  for (Request* request : unwanted) {
    if (request->answer != Answer::unknown && request->answer != Answer::failed) request->answer = Answer::refused;
  }
}

// One after the other: to take several and return all but one would hide the others from everybody else.
void PollingBackend::State::take_any(std::span<Request* const> group) {
  bool done = false;
  for (Request* request : group) {
    request->answer = Answer::refused;
    if (done) continue;
    take({&request, 1});
    done = request->answer == Answer::granted;
  }
}

void PollingBackend::State::note(const Request& request) {
  if (request.answer == Answer::failed || request.answer == Answer::unknown) {
    unreachable_ = unreachable_ || request.error.code() == errc::connection_lost;
  } else if (std::exchange(unreachable_, false)) {
    sink_->reconnected();
  }
}

// ---- losses and renewal

void PollingBackend::State::announce_loss() {
  if (!all_lost_) return;
  const Error reason = *std::exchange(all_lost_, std::nullopt);
  const Seat gone = seat();
  ++life_;
  kept_.clear();
  unreachable_ = true;
  sink_->lost(gone, nullptr, reason);
}

void PollingBackend::State::drop_expired() {
  const Time now = runtime_.boot_now();
  std::erase_if(kept_, [&](const auto& one) {
    if (one.second.valid_until > now) return false;
    sink_->lost(seat(), &one.second.held.key, expired());
    return true;
  });
}

// Renews one batch of what is held after `last`, and moves `last` on. False: that was the last batch.
bool PollingBackend::State::renew_chunk(std::optional<Name>& last, bool& complete) {
  std::vector<Held> batch;
  std::vector<Name> names;
  auto one = last ? kept_.upper_bound(*last) : kept_.begin();
  for (; one != kept_.end() && batch.size() < traits_.batch; ++one) {
    names.push_back(one->first);
    batch.push_back(one->second.held);
  }
  if (batch.empty()) return false;
  last = names.back();
  complete = guarded("renew", [&] { return backend_.renew(batch); }).has_value() && complete;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (!batch[i].lost || all_lost_) continue;
    kept_.erase(names[i]);
    sink_->lost(seat(), &batch[i].key,
                Error(errc::lock_lost, "the engine says that we no longer hold the lock; stop, and take it again"));
  }
  announce_loss();
  return true;
}

// What is taken during the round was sent after its start, so the round's validity is no later than its own. The mutex
// is let go between batches: nobody waits for more than one call.
void PollingBackend::State::renew_round() {
  const Time started = runtime_.boot_now();
  std::uint32_t life = 0;
  {
    std::lock_guard lock(mutex_);
    drop_expired();
    life = life_;
  }
  bool complete = true;
  for (std::optional<Name> last;;) {
    std::lock_guard lock(mutex_);
    if (!renew_chunk(last, complete)) break;
  }
  std::lock_guard lock(mutex_);
  if (complete && life == life_ && options_.validity != kNever) {
    const Time valid_until = started + options_.validity - options_.margin;
    for (auto& [name, kept] : kept_) kept.valid_until = std::max(kept.valid_until, valid_until);
    if (!kept_.empty()) sink_->alive(seat(), valid_until);
  }
  next_renewal_ = kNever;
  if (!kept_.empty()) next_renewal_ = runtime_.steady_now() + options_.renew_every / (complete ? 1 : 4);
}

void PollingBackend::State::pump(Time until) {
  for (;;) {
    const std::uint32_t seen = bell_.load(std::memory_order_acquire);
    if (woken_.exchange(false)) return;
    Time next = kNever;
    {
      std::lock_guard lock(mutex_);
      next = next_renewal_;
    }
    const Time now = runtime_.steady_now();
    if (now >= next) return renew_round();
    if (now >= until) return;
    runtime_.park(bell_, seen, std::min(until, next));
  }
}

void PollingBackend::State::wake() {
  woken_ = true;
  bell_.fetch_add(1, std::memory_order_release);
  runtime_.wake(&bell_);
}

// ---- the interface

PollingBackend::PollingBackend(Runtime& runtime, Traits traits, PollingOptions options)
    : state_(std::make_unique<State>(*this, runtime, std::move(traits), options)) {}
PollingBackend::~PollingBackend() = default;

Status PollingBackend::open(Sink& sink, Time until) noexcept { return state_->open(sink, until); }
const Traits& PollingBackend::traits() const noexcept { return state_->traits(); }
void PollingBackend::submit(std::uint16_t /*link*/, std::span<Request* const> batch) noexcept { state_->submit(batch); }
bool PollingBackend::collect(std::uint16_t /*link*/, Time /*until*/) noexcept { return true; }
void PollingBackend::pump(Time until) noexcept { state_->pump(until); }
void PollingBackend::wake() noexcept { state_->wake(); }
void PollingBackend::close(Time /*until*/) noexcept { state_->close(); }
Result<std::vector<Holder>> PollingBackend::inspect(const Key* /*key*/, Time /*until*/) {
  return std::vector<Holder>();
}
void PollingBackend::forked() noexcept {}
Status PollingBackend::connect(Time /*until*/) { return {}; }
void PollingBackend::disconnect() {}
void PollingBackend::lose_all(Error reason) noexcept { state_->lose_all(std::move(reason)); }
Runtime& PollingBackend::runtime() const noexcept { return state_->runtime(); }

}  // namespace lockr::spi
