#include "backends/redis/redis_backend.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "backends/redis/census.h"
#include "backends/redis/errors.h"

namespace lockr::redis {
namespace {

constexpr std::size_t kHeldLimit = 100'000;
// So many keys in one script: the server serves nobody else meanwhile.
constexpr std::uint16_t kBatch = 250;
// An answer that nobody waits for is fetched after so long at most.
constexpr Time kFetch = std::chrono::milliseconds(5);
// Beside the lease: until a waiter looks again.
constexpr Time kNoticed = std::chrono::seconds(2);

spi::Traits traits_of(const Options& options, Time reply_timeout) {
  spi::Traits traits;
  traits.capabilities = {.backend = "redis",
                         .shared = true,
                         .fencing = options.fencing,
                         .cross_process = true,
                         .cross_host = true,
                         .fair = false,
                         .hold_at_least = true,
                         .takeover = options.ttl + options.lock_delay + kNoticed,
                         // The next renewal tells; if it can't be answered, the end of the validity does.
                         .loss = std::max(options.ttl / 3 + reply_timeout, options.ttl - options.margin),
                         .facts = {}};
  traits.lanes = options.lanes;
  traits.batch = kBatch;
  traits.held_limit = kHeldLimit;
  traits.seats = options.lanes;
  return traits;
}

}  // namespace

RedisBackend::RedisBackend(Options options, const spi::OpenContext& context, std::unique_ptr<Network> network)
    : options_(std::move(options)),
      connect_timeout_(context.connect_timeout),
      traits_(traits_of(options_, context.reply_timeout)),
      network_(std::move(network)),
      names_(options_.prefix, context.runtime),
      leases_(context.runtime),
      site_{.runtime = context.runtime, .options = options_, .names = names_, .leases = leases_} {
  greeting_ = {.client_name = names_.client(),
               .reply_timeout = context.reply_timeout,
               .accept_clear_text = context.accepts_risk("clear_text_password"),
               .accept_eviction = context.accepts_risk("eviction")};
  site_.log = context.log;
  site_.wake = [this] { wake(); };
  const auto went_down = [this](std::size_t place) {
    return [this, place] {
      connector_->want(place);
      wake();
    };
  };
  for (std::size_t place = 0; place <= options_.lanes; ++place) {
    links_.push_back(std::make_unique<Link>(context.runtime, context.reply_timeout, went_down(place)));
  }
  upkeep_.emplace(site_, service());
  for (std::uint16_t lane = 0; lane < options_.lanes; ++lane) lanes_.emplace_back(lane, site_, *links_[lane], *upkeep_);
  waiting_.emplace(site_, service(), *upkeep_);
  ear_.emplace([this](std::string_view key) { waiting_->named(key); }, went_down(ear_place()));
  connector_.emplace(context.runtime, [this](std::size_t place, int stop_fd) { return reconnect(place, stop_fd); });
}

RedisBackend::~RedisBackend() { close(Time{0}); }

// ---- connecting

Status RedisBackend::open(spi::Sink& sink, Time until) noexcept {
  const Patience patience{site_.runtime, until};
  for (std::size_t place = 0; place <= ear_place(); ++place) {
    if (auto up = bring_up(place, patience); !up) return up;
  }
  site_.sink = &sink;
  return {};
}

Status RedisBackend::bring_up(std::size_t place, const Patience& patience) {
  auto session = make_session(options_, greeting_, *network_, patience);
  if (!session) return fail(session.error());
  meet(*session);
  if (traits_.capabilities.facts.empty()) describe(*session);
  if (place == ear_place()) return ear_->attach(std::move(session->connection), names_.channel(), patience);
  links_[place]->attach(std::move(session->connection));
  return {};
}

// Another process of the server than before does not have our locks, whatever it says: what it knows of them it read
// from a disk or had from its primary.
void RedisBackend::meet(const Session& session) {
  const std::lock_guard lock(meeting_);
  if (run_id_ == session.run_id) return;
  site_.least_token = session.microseconds;
  if (std::exchange(run_id_, session.run_id).empty()) return;
  const std::uint32_t before = site_.epoch.fetch_add(1);
  leases_.abandon(site_.held_until());
  upkeep_->hurry();
  if (!site_.sink) return;  // It was started anew while the backend opened, which holds nothing yet.
  for (std::uint16_t lane = 0; lane < options_.lanes; ++lane)
    site_.sink->lost({lane, before}, nullptr, server_changed());
}

void RedisBackend::describe(const Session& session) {
  const std::string where = !options_.socket.empty()           ? "a unix socket"
                            : session.connection->is_exposed() ? "a network, in clear text"
                            : options_.tls                     ? "TLS"
                                                               : "loopback";
  traits_.capabilities.facts = {{"server", "Redis " + session.version},
                                {"connections", std::to_string(options_.lanes) + " lanes and 2 more, over " + where},
                                {"prefix", options_.prefix},
                                {"lease", std::to_string(in_milliseconds(options_.ttl)) + " ms, given up " +
                                              std::to_string(in_milliseconds(options_.margin)) + " ms before its end"}};
}

bool RedisBackend::reconnect(std::size_t place, int stop_fd) {
  const Patience patience{site_.runtime, site_.runtime.steady_now() + connect_timeout_, stop_fd};
  if (auto up = bring_up(place, patience); !up) {
    if (place < links_.size()) links_[place]->set_reason(up.error());
    return false;
  }
  if (place >= options_.lanes) waiting_->look_again();
  if (place == options_.lanes) upkeep_->hurry();
  wake();
  if (place < options_.lanes) site_.sink->reconnected();
  return true;
}

// ---- requests

void RedisBackend::submit(std::uint16_t link, std::span<Request* const> batch) noexcept {
  const bool awaited = std::any_of(batch.begin(), batch.end(), [](const Request* each) { return !each->quiet; });
  lanes_[link].submit(batch);
  if (!awaited && !watched_.exchange(true)) wake();
}

bool RedisBackend::collect(std::uint16_t link, Time until) noexcept { return links_[link]->collect(until); }

bool RedisBackend::start_wait(Request& request) noexcept {
  waiting_->start(request);
  return true;
}

void RedisBackend::stop_wait(Request& request) noexcept { waiting_->stop(request); }

// ---- the service thread

void RedisBackend::pump(Time until) noexcept {
  connector_->start();
  Time now = site_.runtime.steady_now();
  until = std::min(until, waiting_->run(now));
  upkeep_->run(now);
  sleep(std::min(until, upkeep_->due()));
  now = site_.runtime.steady_now();
  for (const auto& link : links_) link->tend(now);
}

void RedisBackend::sleep(Time until) {
  const Time now = site_.runtime.steady_now();
  watches_.clear();
  std::vector<std::shared_ptr<Connection>> kept;  // Their streams stay there meanwhile.
  bool owed = false;
  for (std::size_t i = 0; i < links_.size(); ++i) {
    const Link::Watch watch = links_[i]->watch();
    kept.push_back(watch.connection);
    short events = POLLRDHUP;
    if (i == options_.lanes) events |= POLLIN;
    if (watch.unsent && !watch.collecting) events |= POLLOUT;
    // A lane's answers are its driver's to receive. Those that it left are fetched, but not each as it comes.
    if (i < options_.lanes && watch.oldest != spi::kNever && !watch.collecting) {
      owed = true;
      if (now >= watch.oldest + kFetch) events |= POLLIN;
      until = std::min(until, now >= watch.oldest + kFetch ? until : watch.oldest + kFetch);
    }
    if (!watch.collecting) until = std::min(until, watch.overdue_at);
    watches_.push_back({watch.connection ? &watch.connection->stream() : nullptr, events});
  }
  const std::shared_ptr<Connection> ear = ear_->connection();
  watches_.push_back({ear ? &ear->stream() : nullptr, POLLIN});
  if (!owed && watched_.exchange(false)) until = std::min(until, now + kFetch);
  network_->sleep(watches_, until);
  for (std::size_t i = 0; i < links_.size(); ++i) {
    const short events = watches_[i].happened;
    if (i == options_.lanes ? events != 0 : (events & (POLLRDHUP | POLLHUP | POLLERR | POLLOUT)) != 0) {
      links_[i]->receive();
    }
  }
  if (watches_.back().happened != 0) ear_->receive();
}

void RedisBackend::wake() noexcept { network_->wake(); }

// ---- the rest

Result<std::vector<Holder>> RedisBackend::inspect(const Key* key, Time until) noexcept {
  return take_census(site_, service(), key, until);
}

// What was left behind is given back, as far as there is time.
void RedisBackend::drain(Time until) {
  for (;;) {
    const Time now = site_.runtime.steady_now();
    const Link::Watch watch = service().watch();
    if (now >= until || !watch.connection || (upkeep_->is_clean() && watch.oldest == spi::kNever)) return;
    upkeep_->run(now);
    watch.connection->wait({site_.runtime, std::min(until, now + kFetch)});
    service().receive();
  }
}

void RedisBackend::close(Time until) noexcept {
  if (std::exchange(closed_, true) || network_->in_child()) return;
  connector_->stop();
  drain(until);
  for (const auto& link : links_) link->close();
  ear_->close();
}

void RedisBackend::forked() noexcept {
  network_->forked();
  connector_->forked();
}

}  // namespace lockr::redis

namespace lockr::spi {
namespace {

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  auto options = redis::read_options(context.section);
  if (!options) return fail(options.error());
  return std::make_unique<redis::RedisBackend>(std::move(*options), context,
                                               std::make_unique<redis::SocketNetwork>(context.runtime));
}

}  // namespace

extern const BackendInfo redis_backend{
    .name = "redis",
    .schemes = "redis rediss redis+unix",
    .summary = "leases in Redis 6.2 or later, renewed while they are held: services on many hosts",
    .schema = redis::kSchema,
    .risks = "clear_text_password eviction",
    .create = create,
};

}  // namespace lockr::spi
