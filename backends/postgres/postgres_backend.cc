#include "backends/postgres/postgres_backend.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "backends/postgres/errors.h"

namespace lockr::postgres {
namespace {

constexpr std::size_t kHeldLimit = 1000;
// So many connections of one locker are made at a time.
constexpr std::size_t kConnectAtOnce = 8;
// A server notices within so long that a process died, as long as its host lives; and we that a server closed.
constexpr Time kPromptly = std::chrono::seconds(1);

std::string application_name() {
  // The server keeps 63 bytes.
  return "lockr/" + spi::host_name().substr(0, 45) + ":" + std::to_string(::getpid());
}

spi::Traits traits_of(const Options& options) {
  spi::Traits traits;
  traits.capabilities = {.backend = "postgres",
                         .shared = true,
                         .fencing = options.fencing,
                         .cross_process = true,
                         .cross_host = true,
                         .fair = false,
                         .dedicated = true,
                         .takeover = kPromptly,
                         .loss = kPromptly,
                         .facts = {}};
  traits.identity_is_hash = true;
  traits.lanes = options.lanes;
  traits.held_limit = kHeldLimit;
  traits.seats = static_cast<std::size_t>(options.lanes) + options.waiters;
  return traits;
}

timespec timespec_of(Time span) {
  return {.tv_sec = static_cast<time_t>(span.count() / 1'000'000'000),
          .tv_nsec = static_cast<long>(span.count() % 1'000'000'000)};
}

}  // namespace

PostgresBackend::PostgresBackend(Options options, const spi::OpenContext& context)
    : options_(std::move(options)),
      connect_timeout_(context.connect_timeout),
      traits_(traits_of(options_)),
      site_{.runtime = context.runtime, .reply_timeout = context.reply_timeout},
      wake_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  target_ = {.dsn = options_.dsn,
             .application_name = application_name(),
             .accept_clear_text = context.accepts_risk("clear_text_password")};
  demands_ = {.fencing = options_.fencing,
              .session_ttl = options_.session_ttl,
              .pooler = context.accepts_risk("transaction_pooler") ? Pooler::accept : Pooler::check};
  site_.fencing = options_.fencing;
  site_.alone = options_.alone;
  site_.log = context.log;
  for (std::size_t i = 0; i < traits_.seats; ++i) {
    const bool waits = options_.alone || i >= options_.lanes;
    links_.push_back(std::make_unique<Link>(static_cast<std::uint16_t>(i), waits, site_));
  }
  const std::span<const std::unique_ptr<Link>> all(links_);
  waiters_.emplace(options_.alone ? all : all.subspan(options_.lanes), site_.runtime);
  connector_.emplace(site_.runtime, [this](std::uint16_t link, int stop_fd) { return reconnect(link, stop_fd); });
  site_.down = [this](std::uint16_t link) {
    server_pids_[link] = 0;
    if (!options_.alone) connector_->want(link);
    wake();
  };
  census_.emplace(site_.runtime, [this] { return site_.sink->describe(); });
  site_.notified = [this](std::string_view payload) { return census_->hear(payload, server_sessions()); };
  site_.slice_over = [this](Request& request, std::int64_t holder) { waiters_->slice_over(request, holder); };
}

PostgresBackend::~PostgresBackend() { close(Time{0}); }

// ---- connecting

Status PostgresBackend::open(spi::Sink& sink, Time until) noexcept {
  if (wake_event_.get() < 0) return fail(errc::capacity, "this process has no descriptors left; raise `ulimit -n`");
  site_.sink = &sink;
  const Patience patience{site_.runtime, until};
  auto first = connect(0, patience);
  if (!first) return fail(first.error());
  // It has told what is between us and the server.
  if (demands_.pooler == Pooler::check) {
    demands_.pooler = first->pooled ? Pooler::keeps_sessions : Pooler::refuse;
  }
  describe(*first);
  links_[0]->attach(*std::move(first));
  return connect_others(patience);
}

// Side by side: each is a dozen round trips, most of whose time is the server's.
Status PostgresBackend::connect_others(const Patience& patience) {
  std::vector<std::optional<Error>> errors(links_.size());
  std::atomic<std::size_t> next{1};
  const auto work = [&] {
    for (std::size_t link = next++; link < links_.size(); link = next++) {
      auto session = connect(link, patience);
      if (session) {
        links_[link]->attach(*std::move(session));
      } else {
        errors[link] = session.error();
        next = links_.size();
      }
    }
  };
  {
    std::vector<std::unique_ptr<spi::Runtime::Thread>> helpers;
    while (helpers.size() + 1 < std::min(kConnectAtOnce, links_.size() - 1)) {
      helpers.push_back(site_.runtime.start("lockr-connect", work));
      if (!helpers.back()) break;  // This thread does it alone, then.
    }
    work();
  }
  const auto failed = std::find_if(errors.begin(), errors.end(), [](const auto& each) { return each.has_value(); });
  return failed == errors.end() ? Status() : fail(**failed);
}

Result<Session> PostgresBackend::connect(std::size_t link, const Patience& patience) {
  auto session = make_session(target_, demands_for(link), sockets_, patience);
  if (!session) return session;
  server_pids_[link] = session->server_pid;  // First: of two that are made at once, one at least sees the other.
  for (std::size_t i = 0; session->pooled && session->kept && i < links_.size(); ++i) {
    if (i == link || server_pids_[i] != session->server_pid) continue;
    server_pids_[link] = 0;
    return fail(pooler_refused("transaction"));
  }
  return session;
}

// The first lane hears who asks for holders.
Demands PostgresBackend::demands_for(std::size_t link) const {
  Demands demands = demands_;
  if (link == 0) demands.channel = kChannel;
  return demands;
}

std::vector<int> PostgresBackend::server_sessions() {
  std::vector<int> pids;
  for (std::size_t i = 0; i < links_.size(); ++i) pids.push_back(server_pids_[i]);
  return pids;
}

bool PostgresBackend::holds(std::int64_t identity) {
  const std::vector<Holder> rows = site_.sink->describe();
  return std::any_of(rows.begin(), rows.end(), [&](const Holder& row) {
    const auto key = row.waiting ? fail(Error(errc::invalid_key)) : Key::parse(row.key);
    return key && static_cast<std::int64_t>(key->hash()) == identity;
  });
}

std::string PostgresBackend::way_of(const Connection& connection) {
  if (!connection.over_network()) return "a unix socket";
  return PQsslInUse(connection.raw()) != 0 ? "TCP, with TLS" : "TCP, in clear text";
}

void PostgresBackend::describe(const Session& session) {
  Capabilities& has = traits_.capabilities;
  const Bounds& bounds = session.bounds;
  if (bounds.server != spi::kNever) {
    has.takeover = bounds.server + kPromptly;
    has.loss = std::min(bounds.heartbeat + site_.reply_timeout, bounds.validity) + kPromptly;
  }
  has.facts = {{"server", "PostgreSQL " + session.version},
               {"database", session.database},
               {"connections", std::to_string(options_.lanes) + " lanes, " + std::to_string(options_.waiters) +
                                   " waiters, over " + way_of(*session.connection)},
               {"pooler", !session.pooled ? "none"
                          : session.kept  ? "session pooling"
                                          : "accepted, in whatever mode"}};
}

namespace {

// What the server has against a connection in the making, other than for good, is to those who wait what a lost one is:
// it comes back.
Error reason_of(const Error& error) {
  const bool full = error.native() == "53300";
  if (!full && (error.code() != errc::backend_failure || !error.retryable())) return error;
  return Error(errc::connection_lost, error.message()).with_native(std::string(error.native()));
}

}  // namespace

bool PostgresBackend::reconnect(std::uint16_t link, int stop_fd) {
  const Patience patience{site_.runtime, site_.runtime.steady_now() + connect_timeout_, stop_fd};
  auto session = connect(link, patience);
  if (!session) {
    links_[link]->set_reason(reason_of(session.error()));
    return false;
  }
  links_[link]->attach(*std::move(session));
  wake();
  site_.sink->reconnected();
  return true;
}

// ---- requests

void PostgresBackend::submit(std::uint16_t link, std::span<Request* const> batch) noexcept {
  // What a waiter holds goes back on the waiter; all else, a take behind such a release included, on the lane.
  std::size_t start = 0;
  for (std::size_t i = 0; i <= batch.size(); ++i) {
    const bool elsewhere = i < batch.size() && batch[i]->op != spi::Op::take && batch[i]->seat.link >= options_.lanes;
    if (i < batch.size() && !elsewhere) continue;
    if (i > start) links_[link]->submit(batch.subspan(start, i - start));
    if (elsewhere) links_[batch[i]->seat.link]->submit(batch.subspan(i, 1));
    start = i + 1;
  }
}

bool PostgresBackend::collect(std::uint16_t link, Time until) noexcept { return links_[link]->collect(until); }

bool PostgresBackend::start_wait(Request& request) noexcept { return waiters_->start(request); }

void PostgresBackend::stop_wait(Request& request) noexcept { waiters_->stop(request); }

// ---- the service thread

void PostgresBackend::pump(Time until) noexcept {
  site_.service.store(std::this_thread::get_id(), std::memory_order_relaxed);
  if (!std::exchange(known_, true)) add_process_sessions(*this);  // Not before: the sink can't tell yet.
  connector_->start();
  poll_links(until);
  const Time now = site_.runtime.steady_now();
  for (const auto& link : links_) link->tend(now);
}

void PostgresBackend::poll_links(Time until) {
  const Time now = site_.runtime.steady_now();
  watches_.clear();
  polls_.assign(1, {wake_event_.get(), POLLIN, 0});
  for (const auto& link : links_) {
    watches_.push_back(link->watch(now));
    const Link::Watch& watch = watches_.back();
    until = std::min(until, watch.due);
    polls_.push_back({watch.connection ? watch.connection->fd() : -1, watch.events, 0});
  }
  const timespec timeout = timespec_of(std::max(Time{0}, until - now));
  const int ready = ::ppoll(polls_.data(), polls_.size(), until == spi::kNever ? nullptr : &timeout, nullptr);
  if (ready > 0 && polls_[0].revents != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wake_event_.get(), &count, sizeof count);
  }
  for (std::size_t i = 0; ready > 0 && i < links_.size(); ++i) {
    if (polls_[i + 1].revents != 0) links_[i]->ready(watches_[i], polls_[i + 1].revents);
  }
  watches_.clear();
}

void PostgresBackend::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_event_.get(), &one, sizeof one);
}

// ---- the rest

Result<std::vector<Holder>> PostgresBackend::inspect(const Key* key, Time until) noexcept {
  return census_->ask(*links_[0], key, until);
}

Result<std::vector<Descriptor>> PostgresBackend::descriptors(spi::Seat seat, const Key& key) noexcept {
  auto copy = seat.link < links_.size() ? links_[seat.link]->descriptor(seat.life) : std::nullopt;
  if (!copy) return fail(Error(errc::lock_lost).with_key(key.string()));
  if (copy->get() < 0) {
    return fail(Error(errc::capacity, "can't duplicate the connection's descriptor; raise `ulimit -n`"));
  }
  std::vector<Descriptor> copies;
  copies.push_back(*std::move(copy));
  return copies;
}

void PostgresBackend::close(Time) noexcept {
  if (std::exchange(closed_, true)) return;
  if (sockets_.in_child()) return;
  remove_process_sessions(*this);
  connector_->stop();
  for (const auto& link : links_) link->close();
}

void PostgresBackend::forked() noexcept {
  sockets_.forked();
  connector_->forked();
}

}  // namespace lockr::postgres

namespace lockr::spi {
namespace {

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  auto options = postgres::read_options(context.section);
  if (!options) return fail(options.error());
  if (context.dedicated) {
    options->alone = true;
    options->lanes = 1;
    options->waiters = 0;
  }
  return std::make_unique<postgres::PostgresBackend>(std::move(*options), context);
}

}  // namespace

extern const BackendInfo postgres_backend{
    .name = "postgres",
    .schemes = "postgresql postgres",
    .summary = "advisory locks of PostgreSQL 14 or later: services on many hosts that share a database",
    .schema = postgres::kSchema,
    .risks = "transaction_pooler clear_text_password",
    .create = create,
};

}  // namespace lockr::spi
