#include "tests/simulation/redis_cloud.h"

#include <hiredis/hiredis.h>
#include <poll.h>

#include <algorithm>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::testing {

using redis::Patience;
using redis::Stream;
using spi::kNever;

// As TCP_USER_TIMEOUT is set.
constexpr Time kUndelivered = std::chrono::seconds(9);

/// The client's end of a wire.
class SimStream final : public Stream {
 public:
  SimStream(RedisCloud& cloud, std::shared_ptr<RedisCloud::Wire> wire) : cloud_(cloud), wire_(std::move(wire)) {}
  ~SimStream() override { cloud_.hang_up(*wire_); }

  int fd() const noexcept override { return -1; }
  bool is_exposed() const noexcept override { return false; }
  void set_patience(Time time) noexcept override { patience_ = time; }
  bool send(std::string_view bytes) override {
    if (over()) return false;
    cloud_.send(*wire_, bytes);
    return true;
  }
  bool flush() override { return !over(); }
  bool has_unsent() const noexcept override { return false; }

  Got receive(std::string& into, bool block) override {
    if (block) wait({cloud_.sim_, cloud_.sim_.steady_now() + patience_});
    if (!arrived()) return ended() ? Got::end : Got::nothing;
    // As much of it as one packet has: replies are cut anywhere.
    std::string& bytes = wire_->inbox.front().bytes;
    const std::size_t part = cloud_.sim_.random() % 4 == 0 ? 1 + cloud_.sim_.random() % bytes.size() : bytes.size();
    into.append(bytes, 0, part);
    bytes.erase(0, part);
    if (bytes.empty()) wire_->inbox.pop_front();
    return Got::bytes;
  }
  bool wait(const Patience& patience) override {
    for (;;) {
      const std::uint32_t seen = wire_->changes;
      const Time now = cloud_.sim_.steady_now();
      const Time paused = wire_->host->paused_until;
      if (now >= paused && (arrived() || ended())) return true;
      if (now >= patience.until && now >= paused) return false;
      cloud_.sim_.park(wire_->changes, seen, now < paused ? paused : std::min(patience.until, next()));
    }
  }
  void shut_down() noexcept override { cloud_.hang_up(*wire_); }

  bool arrived() const { return !over() && !wire_->inbox.empty() && next() <= cloud_.sim_.steady_now(); }
  bool ended() const { return over() || (wire_->server_ended && wire_->inbox.empty()); }
  /// When something may have arrived.
  Time next() const {
    return wire_->inbox.empty() ? kNever : std::max(wire_->inbox.front().at, wire_->host->incoming_held_until);
  }

 private:
  bool over() const { return wire_->client_ended; }

  RedisCloud& cloud_;
  const std::shared_ptr<RedisCloud::Wire> wire_;
  Time patience_{0};
};

class SimNetwork final : public redis::Network {
 public:
  SimNetwork(RedisCloud& cloud, RedisCloud::Host& host) : cloud_(cloud), host_(host) {}

  Result<std::unique_ptr<Stream>> connect(const redis::Options&, const Patience& patience) override {
    SimRuntime& sim = cloud_.sim_;
    const Time held = std::max({host_.outgoing_held_until, host_.incoming_held_until, host_.paused_until});
    const Time made = std::max(sim.steady_now(), held) + 2 * cloud_.latency();
    sim.sleep(std::min(made, patience.until) - sim.steady_now());
    if (sim.steady_now() < made) return fail(redis::connection_ended("no answer within connect_timeout"));
    if (sim.steady_now() < cloud_.down_until_) return fail(redis::connection_ended("connection refused"));
    return std::make_unique<SimStream>(cloud_, cloud_.open(host_));
  }

  void sleep(std::span<Watch> watches, Time until) override {
    for (;;) {
      const std::uint32_t seen = host_.changes;
      const Time now = cloud_.sim_.steady_now();
      const Time paused = host_.paused_until;
      if (now < paused) {
        cloud_.sim_.park(host_.changes, seen, paused);
        continue;
      }
      bool any = std::exchange(host_.woken, false);
      Time next = until;
      for (Watch& each : watches) {
        const auto* const stream = static_cast<const SimStream*>(each.stream);
        if (!stream) continue;
        const int arrived = stream->arrived() ? POLLIN : 0;
        const int ended = stream->ended() ? POLLIN | POLLRDHUP | POLLHUP : 0;
        each.happened = static_cast<short>((arrived | ended) & (each.events | POLLHUP));
        any = any || each.happened != 0;
        if ((each.events & POLLIN) != 0) next = std::min(next, stream->next());
      }
      if (any || now >= until) return count_rounds(now, watches);
      cloud_.sim_.park(host_.changes, seen, next);
    }
  }
  void wake() noexcept override {
    host_.woken = true;
    cloud_.tell(host_);
  }

 private:
  // The service thread is to sleep until there is something to do.
  void count_rounds(Time now, std::span<const Watch> watches) {
    rounds_ = now == last_ ? rounds_ + 1 : 0;
    last_ = now;
    // Others run beside it: who collects hears of the same end.
    std::atomic<std::uint32_t> word{0};
    if (rounds_ != 0) cloud_.sim_.park(word, 0, now);
    if (rounds_ < 10'000) return;
    std::string what = "the service thread goes round without end";
    for (const Watch& each : watches) {
      const auto* const stream = static_cast<const SimStream*>(each.stream);
      what += ", " + std::to_string(each.events) + (stream && stream->arrived() ? " arrived " : " ") +
              (stream && stream->ended() ? "ended " : "") + std::to_string(each.happened);
    }
    cloud_.sim_.fail(what);
  }

  RedisCloud& cloud_;
  RedisCloud::Host& host_;
  Time last_{0};
  std::size_t rounds_ = 0;
};

RedisCloud::RedisCloud(SimRuntime& sim, Options options)
    : sim_(sim), options_(options), server_([this] { return server_clock(); }) {
  servant_ = sim_.start("redis-server", [this] { serve(); });
}

RedisCloud::~RedisCloud() {
  over_ = true;
  ++posted_;
  sim_.wake(&posted_);
  servant_.reset();
}

std::unique_ptr<redis::Network> RedisCloud::network(int process) {
  auto& host = hosts_[process] = std::make_unique<Host>();
  host->number = process;
  return std::make_unique<SimNetwork>(*this, *host);
}

Time RedisCloud::server_clock() const {
  const auto since = static_cast<double>(sim_.boot_now().count());
  return sim_.wall_now() - sim_.boot_now() + options_.clock_ahead +
         Time(static_cast<Time::rep>(since * options_.clock_rate));
}

Time RedisCloud::latency() {
  if (options_.latency == Time{0}) return Time{0};
  return Time(static_cast<Time::rep>(sim_.random() % static_cast<std::uint64_t>(options_.latency.count())));
}

void RedisCloud::tell(Host& host) {
  ++host.changes;
  sim_.wake(&host.changes);
}

void RedisCloud::tell(Wire& wire) {
  ++wire.changes;
  sim_.wake(&wire.changes);
  tell(*wire.host);
}

// ---- a connection

std::shared_ptr<RedisCloud::Wire> RedisCloud::open(Host& host) {
  auto wire = std::make_shared<Wire>();
  wire->host = &host;
  wire->client.process = host.number;
  wire->client.say = [this, raw = wire.get()](std::string bytes) { say(*raw, std::move(bytes)); };
  wires_.push_back(wire);
  return wire;
}

void RedisCloud::send(Wire& wire, std::string_view bytes) {
  if (wire.server_ended) return;
  redisReaderFeed(wire.reader.get(), bytes.data(), bytes.size());
  for (void* object = nullptr;;) {
    if (redisReaderGetReply(wire.reader.get(), &object) != REDIS_OK || !object) return;
    const std::unique_ptr<redisReply, void (*)(void*)> reply(static_cast<redisReply*>(object), freeReplyObject);
    RedisCommand command;
    for (std::size_t i = 0; i < reply->elements; ++i) {
      command.emplace_back(reply->element[i]->str, reply->element[i]->len);
    }
    post(wire, std::move(command));
  }
}

// What is on its way arrives all the same; then the server hears of the end.
void RedisCloud::hang_up(Wire& wire) {
  if (std::exchange(wire.client_ended, true)) return;
  post(wire, {});
  tell(wire);
}

void RedisCloud::post(Wire& wire, RedisCommand command) {
  wire.last_sent = std::max(wire.last_sent, sim_.steady_now() + latency());
  wire.outbox.push_back({wire.last_sent, std::move(command)});
  ++posted_;
  sim_.wake(&posted_);
}

void RedisCloud::say(Wire& wire, std::string bytes) {
  wire.last_said = std::max(wire.last_said, sim_.steady_now() + latency());
  wire.inbox.push_back({wire.last_said, std::move(bytes)});
  tell(wire);
}

void RedisCloud::end(Wire& wire) {
  wire.server_ended = true;
  server_.gone(wire.client);
  tell(wire);
}

// ---- the server

Time RedisCloud::due(const Wire& wire) const {
  if (wire.outbox.empty()) return kNever;
  return std::max({wire.outbox.front().at, stalled_until_, down_until_, wire.host->outgoing_held_until});
}

void RedisCloud::serve() {
  while (!over_) {
    const std::uint32_t seen = posted_;
    std::size_t first = wires_.size();
    Time at = kNever;
    for (std::size_t i = 0; i < wires_.size(); ++i) {
      if (const Time due = this->due(*wires_[i]); due < at) {
        at = due;
        first = i;
      }
    }
    if (sim_.steady_now() < at) {
      sim_.park(posted_, seen, at);
    } else {
      serve(first);
    }
  }
}

void RedisCloud::serve(std::size_t number) {
  const std::shared_ptr<Wire> wire = wires_[number];
  const Sent sent = std::move(wire->outbox.front());
  wire->outbox.pop_front();
  // Of a connection that was closed the system gives up what it can't deliver.
  const bool undelivered = wire->client_ended && sim_.steady_now() > sent.at + kUndelivered;
  if (sent.command.empty()) {
    end(*wire);
    wires_.erase(wires_.begin() + static_cast<std::ptrdiff_t>(number));
  } else if (!wire->server_ended && !undelivered) {
    if (wire->client_ended) served_the_gone_ = sim_.steady_now();
    server_.execute(wire->client, sent.command);
  }
}

// ---- mishaps

void RedisCloud::clog(int process, bool outgoing, Time until) {
  Host& host = *hosts_[process];
  prolong(outgoing ? host.outgoing_held_until : host.incoming_held_until, until);
}

void RedisCloud::unclog(int process) {
  Host& host = *hosts_[process];
  host.outgoing_held_until = host.incoming_held_until = Time{0};
  ++posted_;
  sim_.wake(&posted_);
  tell(host);
  for (const auto& wire : wires_) {
    if (wire->host == &host) tell(*wire);
  }
}

void RedisCloud::recover() {
  stalled_until_ = Time{0};
  for (const auto& [process, host] : hosts_) {
    host->paused_until = Time{0};
    unclog(process);
  }
}

void RedisCloud::cut(int process) {
  for (const auto& wire : wires_) {
    if (wire->host != hosts_[process].get() || wire->client_ended) continue;
    std::erase_if(wire->outbox, [&](const Sent&) { return sim_.random() % 2 == 0; });
    wire->inbox.clear();
    hang_up(*wire);
  }
}

void RedisCloud::restart(bool keeps, Time down) {
  for (const auto& wire : wires_) end(*wire);
  server_.restart(keeps);
  down_until_ = sim_.steady_now() + down;
}

}  // namespace lockr::testing
