// Leases under faults: the whole library over the Redis backend, several processes and one server, where networks hold
// messages back, connections break, processes stand still, and the server is slow, restarts and has a clock of its own.
// What is held must be so at the server, at every step, whatever happens; and nothing is left there at the end.
// With LOCKR_TRACE=1 it tells what happens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/redis/redis_backend.h"
#include "core/locker.h"
#include "tests/simulation/program.h"
#include "tests/simulation/redis_cloud.h"
#include "tests/simulation/seeds.h"
#include "tests/simulation/witness.h"

namespace lockr::spi {
extern const BackendInfo redis_backend;
}

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;

/// What a seed chooses once.
struct Plan {
  redis::Options redis;
  RedisCloud::Options cloud;
  Time reply_timeout{0};
  std::size_t processes = 1;
  std::size_t clients = 1;  // For each process.
  std::size_t operations = 12;
  bool mishaps = false;
  bool abrupt = false;  // The server itself gives away what is held.
};

Plan make_plan(Dice& dice) {
  Plan plan;
  plan.redis.ttl = dice.one_of<Time>({1s, 3s, 60s});
  plan.redis.margin = plan.redis.ttl / 4;
  plan.redis.lock_delay = dice.one_of<Time>({0s, 0s, 700ms});
  plan.redis.lanes = dice.one_of<std::uint16_t>({1, 2});
  plan.redis.fencing = dice.percent(80);
  plan.cloud.latency = dice.one_of<Time>({0ms, 1ms, 40ms});
  plan.cloud.clock_rate = dice.one_of({1.0, 1.0, 1.1, 0.9});
  plan.cloud.clock_ahead = dice.one_of<Time>({0s, 100s});
  // inspect() asks several times within one of these.
  plan.reply_timeout = plan.cloud.latency < 10ms ? dice.one_of<Time>({100ms, 1s}) : Time(1s);
  plan.processes = 1 + dice.below(3);
  plan.clients = 1 + dice.below(4);
  plan.mishaps = dice.percent(80);
  plan.abrupt = plan.mishaps && dice.percent(25);
  return plan;
}

constexpr Time kReleaseTimeout = 2s;

class World {
 public:
  explicit World(SimRuntime& sim)
      : sim_(sim),
        dice_(sim),
        plan_(make_plan(dice_)),
        cloud_(std::make_unique<RedisCloud>(sim, plan_.cloud)),
        witness_(sim, false, plan_.redis.fencing, plan_.abrupt ? plan_.redis.ttl : Time{0}) {
    for (const char* name : {"a", "b", "c"}) keys_.push_back(Key::parse(name).value());
    keys_.resize(1 + dice_.below(keys_.size()), Key::none());
  }

  void run();
  std::size_t grants() const { return witness_.grants(); }

 private:
  friend class Client;
  struct Held {
    std::unique_ptr<Releaser> releaser;
    int process;
  };

  void open(int process);
  void tell(const std::string& what);
  void look();
  void spoil();
  void one_mishap();
  void swizzle();
  void one_abrupt_mishap();
  void check_quiet();
  const Key& random_key() { return keys_[dice_.below(keys_.size())]; }
  Time some_time() { return dice_.one_of<Time>({10ms, plan_.reply_timeout, plan_.redis.ttl, 2 * plan_.redis.ttl}); }

  SimRuntime& sim_;
  Dice dice_;
  const Plan plan_;
  std::unique_ptr<RedisCloud> cloud_;
  Witness witness_;
  std::vector<Key> keys_;
  std::vector<std::unique_ptr<Locker>> processes_;
  std::vector<Held> held_;
  std::size_t busy_clients_ = 0;
  int next_session_ = 0;
};

/// One thread of a process.
class Client {
 public:
  Client(World& world, std::size_t process) : world_(world), process_(process) {}

  void run() {
    auto opened = world_.processes_[process_]->open_session({.label = "client"});
    ASSERT_TRUE(opened) << opened.error().to_string();
    session_ = *std::move(opened);
    number_ = world_.next_session_++;
    for (std::size_t i = 0; i < world_.plan_.operations; ++i) {
      act();
      world_.look();
      // Long enough for leases to run out, were they not renewed.
      world_.sim_.sleep(dice().up_to(dice().percent(20) ? 2 * world_.plan_.redis.ttl : Time(5ms)));
      rest();
    }
    while (!mine_.empty()) let_go();
  }

 private:
  Dice& dice() { return world_.dice_; }
  // A process that is stopped does nothing.
  void rest() {
    for (;;) {
      const Time until = world_.cloud_->paused_until(static_cast<int>(process_));
      if (until <= world_.sim_.steady_now()) return;
      world_.sim_.sleep(until - world_.sim_.steady_now());
    }
  }

  void act() {
    const std::uint64_t choice = dice().below(100);
    if (mine_.size() > 2 || (choice < 35 && !mine_.empty())) return let_go();
    if (choice < 75) return lock();
    if (choice < 90) return keep(session_->try_lock(world_.random_key(), mode()));
    lock_all();
  }
  Mode mode() { return dice().percent(65) ? Mode::exclusive : Mode::shared; }

  void tell(const std::string& what) { world_.tell("process " + std::to_string(process_) + ": " + what); }
  void lock() {
    LockOptions how{.mode = mode(), .timeout = dice().one_of<Time>({0ms, 5ms, 300ms, 5s, 100s})};
    if (how.mode == Mode::exclusive && dice().percent(10)) how.hold_at_least = 500ms;
    const Time started = world_.sim_.steady_now();
    auto got = session_->lock(world_.random_key(), how);
    in_time(started, *how.timeout);
    keep(std::move(got));
  }
  void lock_all() {
    const std::vector<Key> keys{world_.random_key(), world_.random_key()};
    auto all = session_->lock_all(keys, {.mode = mode(), .timeout = dice().one_of<Time>({0ms, 300ms, 5s})});
    if (!all) return explain(all.error());
    for (Releaser& each : *all) add(std::move(each));
  }

  void in_time(Time started, Time allowed) {
    const Time until = std::max(started, world_.cloud_->paused_until(static_cast<int>(process_))) + allowed;
    EXPECT_LE(world_.sim_.steady_now(), until + world_.plan_.reply_timeout + 2 * world_.plan_.cloud.latency + 10ms);
  }

  void keep(Result<Releaser> got) {
    if (!got) return explain(got.error());
    add(*std::move(got));
  }
  void add(Releaser releaser) {
    tell("has " + std::string(releaser.key().string()) + (releaser.mode() == Mode::shared ? " shared" : ""));
    const int process = static_cast<int>(process_);
    world_.held_.push_back({std::make_unique<Releaser>(std::move(releaser)), process});
    mine_.push_back(world_.held_.back().releaser.get());
    world_.witness_.granted(*mine_.back(), {.session = number_, .process = process});
  }
  void explain(const Error& error) {
    tell(error.to_string());
    const errc code = error.code();
    EXPECT_TRUE(code == errc::not_acquired || code == errc::timeout || code == errc::deadlock ||
                (code == errc::connection_lost && world_.plan_.mishaps))
        << error.to_string();
  }

  void let_go() {
    const std::size_t place = dice().below(mine_.size());
    Releaser* const releaser = mine_[place];
    mine_.erase(mine_.begin() + static_cast<std::ptrdiff_t>(place));
    world_.witness_.leaves(*releaser);
    Releaser taken = std::move(*releaser);
    std::erase_if(world_.held_, [&](const World::Held& each) { return each.releaser.get() == releaser; });
    tell("lets go of " + std::string(taken.key().string()));
    if (!dice().percent(50)) return;
    const Status status = taken.release();
    if (status) return;
    tell(status.error().to_string());
    const errc code = status.error().code();
    EXPECT_TRUE(code == errc::lock_lost || code == errc::not_released || code == errc::connection_lost)
        << status.error().to_string();
    EXPECT_TRUE(world_.plan_.mishaps) << status.error().to_string();
  }

  World& world_;
  const std::size_t process_;
  std::unique_ptr<Session> session_;
  int number_ = 0;
  std::vector<Releaser*> mine_;
};

void World::open(int process) {
  const std::string json = R"({"backend": "redis", "connect_timeout": "5s", "reply_timeout": ")" +
                           format_duration(plan_.reply_timeout) + R"(", "release_timeout": ")" +
                           format_duration(kReleaseTimeout) + "\"}";
  const auto config = LockerConfig::from_json(json).value();
  const spi::OpenContext context{.section = config.section(),
                                 .runtime = sim_,
                                 .connect_timeout = config.connect_timeout(),
                                 .reply_timeout = config.reply_timeout(),
                                 .label = {},
                                 .accepts_risk = [](std::string_view) { return false; },
                                 .log = {}};
  auto backend = std::make_unique<redis::RedisBackend>(plan_.redis, context, cloud_->network(process));
  auto locker = core::open_locker(config, spi::redis_backend, std::move(backend), {.runtime = &sim_});
  ASSERT_TRUE(locker) << locker.error().to_string();
  processes_.push_back(*std::move(locker));
}

void World::tell(const std::string& what) {
  static const bool told = std::getenv("LOCKR_TRACE") != nullptr;
  if (told) std::fprintf(stderr, "%.6f %s\n", static_cast<double>(sim_.steady_now().count()) / 1e9, what.c_str());
}

void World::run() {
  tell("ttl " + format_duration(plan_.redis.ttl) + ", reply_timeout " + format_duration(plan_.reply_timeout) +
       ", latency " + format_duration(plan_.cloud.latency) + ", lanes " + std::to_string(plan_.redis.lanes) +
       ", processes " + std::to_string(plan_.processes) + ", clients " + std::to_string(plan_.clients) +
       (plan_.abrupt ? ", abrupt" : ""));
  for (std::size_t i = 0; i < plan_.processes; ++i) ASSERT_NO_FATAL_FAILURE(open(static_cast<int>(i)));
  std::deque<Client> clients;
  for (std::size_t i = 0; i < plan_.processes * plan_.clients; ++i) clients.emplace_back(*this, i % plan_.processes);
  run_clients(sim_, clients, busy_clients_, [this] { spoil(); });
  check_quiet();
  clients.clear();
  processes_.clear();
  cloud_.reset();
  EXPECT_EQ(sim_.fibers(), 1u) << "a thread of the library outlives its locker";
}

// Whoever says that it holds a lock has it at the server, at this moment.
void World::look() {
  witness_.look();
  if (plan_.abrupt) return;
  for (const Held& each : held_) {
    if (!each.releaser->held()) continue;
    const auto owners = cloud_->server().owners("lockr:l:" + std::string(each.releaser->key().string()));
    EXPECT_TRUE(owners.contains(each.process))
        << "process " << each.process << " believes in a lock that the server does not have for it";
  }
}

// ---- mishaps

void World::spoil() {
  while (busy_clients_ != 0) {
    sim_.sleep(dice_.up_to(dice_.percent(50) ? Time(20ms) : plan_.redis.ttl / 2));
    if (plan_.mishaps) one_mishap();
    if (plan_.abrupt && dice_.percent(30)) one_abrupt_mishap();
    look();
  }
}

void World::one_mishap() {
  const int process = static_cast<int>(dice_.below(plan_.processes));
  const Time span = dice_.up_to(some_time());
  const Time until = sim_.steady_now() + span;
  const auto told = [&](const std::string& what) {
    tell(what + " of process " + std::to_string(process) + ", for " + format_duration(span));
  };
  switch (dice_.below(9)) {
    case 0:
      told("nothing leaves the network");
      return cloud_->clog(process, true, until);
    case 1:
      told("nothing enters the network");
      return cloud_->clog(process, false, until);
    case 2:
      told("a stop");
      return cloud_->pause(process, until);
    case 3:
      told("a cut of the connections");
      return cloud_->cut(process);
    case 4:
      // A server that stood still for longer would take, when it goes on, what nobody waits for any more.
      tell("the server stalls for at most " + format_duration(plan_.redis.ttl / 2));
      return cloud_->stall(std::min(until, sim_.steady_now() + plan_.redis.ttl / 2));
    case 5:
      tell("the server forgets the scripts");
      return cloud_->server().flush_scripts();
    case 6:
      return swizzle();
    case 7:
      tell("the server restarts");
      return cloud_->restart(true, dice_.up_to(1s));
    default:
      tell("the machine sleeps for " + format_duration(span));
      sim_.suspend(span);
  }
}

// Networks are held back one after the other, and let go in another order.
void World::swizzle() {
  std::vector<int> order;
  for (std::size_t i = 0; i < plan_.processes; ++i) order.push_back(static_cast<int>(i));
  const auto shuffle = [&] {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[dice_.below(i)]);
  };
  shuffle();
  tell("networks are held back in turn");
  for (const int process : order) {
    for (const bool outgoing : {true, false}) cloud_->clog(process, outgoing, sim_.steady_now() + 10 * plan_.redis.ttl);
    sim_.sleep(dice_.up_to(plan_.redis.ttl / 2));
    look();
  }
  shuffle();
  for (const int process : order) {
    tell("process " + std::to_string(process) + " is let go");
    cloud_->unclog(process);
    sim_.sleep(dice_.up_to(plan_.redis.ttl / 2));
    look();
  }
}

void World::one_abrupt_mishap() {
  tell("the server gives away what is held");
  switch (dice_.below(3)) {
    case 0:
      return cloud_->restart(false, dice_.up_to(1s));
    case 1:
      return cloud_->server().remove("lockr:l:" + std::string(random_key().string()));
    default:
      // Set back, it may have numbers grow no more.
      cloud_->set_clock(plan_.redis.fencing ? 2 * plan_.redis.ttl : dice_.one_of<Time>({2 * plan_.redis.ttl, -5s}));
  }
}

// ---- the end

// All is well again, and nobody asks for anything.
void World::check_quiet() {
  tell("quiet");
  cloud_->recover();
  sim_.sleep(25s);
  EXPECT_EQ(witness_.held(), 0u);
  for (const auto& process : processes_) {
    const Stats stats = process->stats();
    EXPECT_EQ(stats.held, 0u) << "a lock that no caller was told of";
    EXPECT_EQ(stats.waiting, 0u);
    EXPECT_EQ(stats.acquired, stats.released + stats.lost);
  }
  // What was carried out late may stay for as long as a lease lasts.
  if (cloud_->served_the_gone() < sim_.steady_now() - 2 * plan_.redis.ttl) {
    for (const std::string& name : cloud_->server().names("lockr:l:")) ADD_FAILURE() << "left at the server: " << name;
  }
  sim_.sleep(65s);  // A place in a queue that could not be given up is forgotten after a minute.
  for (const std::string& name : cloud_->server().names("lockr:")) {
    if (name != "lockr:token") ADD_FAILURE() << "left at the server: " << name;
  }
  const auto listed = processes_.front()->inspect();
  ASSERT_TRUE(listed) << listed.error().to_string();
  for (const Holder& each : *listed) ADD_FAILURE() << "listed: " << each.key << (each.waiting ? " waits" : " holds");
}

TEST(Leases, keep_the_rules_under_every_seed) {
  std::size_t grants = 0;
  for_each_seed(1200, [&](std::uint64_t seed) {
    SimRuntime sim(seed);
    sim.run([&] {
      World world(sim);
      world.run();
      grants += world.grants();
    });
  });
  EXPECT_GT(grants, 0u);
}

}  // namespace
}  // namespace lockr::testing
