// Whole programs under faults: several processes (lockers) over one scripted server, many threads in each, in an order
// and with mishaps that a seed chooses. What must hold whatever happens is checked at every step and at the end.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "tests/simulation/program.h"
#include "tests/simulation/seeds.h"
#include "tests/simulation/witness.h"
#include "tests/support/same_hash.h"
#include "tests/support/scripted_engine.h"

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;
using spi::kNever;

/// What a seed chooses once.
struct Plan {
  ScriptedOptions server;
  Chances chances;
  Time reply_timeout{0};
  Time release_timeout = 400ms;
  unsigned handoff = 32;
  std::size_t lockers = 1;
  std::size_t clients = 1;  // For each locker.
  std::size_t operations = 25;
  bool mishaps = false;  // Stalls, broken connections, suspends, closings: nothing is given away early by them.
  bool abrupt = false;   // The server gives away what is held: revocations, restarts.
  bool observed = false;
};

Plan make_plan(SimRuntime& sim, std::uint64_t seed) {
  Dice dice(sim);
  Plan plan;
  plan.server.seed = seed;
  plan.server.lanes = dice.one_of<std::uint16_t>({0, 1, 2});
  plan.server.waiters = dice.one_of<std::uint16_t>({0, 1, 3});
  plan.server.batch = dice.one_of<std::uint16_t>({2, 64});
  plan.server.identity_is_hash = dice.percent(50);
  plan.server.fencing = dice.percent(80);
  plan.server.hints = dice.percent(70);
  plan.server.validity = dice.one_of<Time>({kNever, kNever, 60ms, 300ms});
  plan.server.latency = dice.one_of<Time>({0us, 50us, 2ms});
  plan.server.poll = dice.one_of<Time>({0ms, 3ms});
  plan.reply_timeout = plan.server.reply_timeout = dice.one_of<Time>({20ms, 100ms});
  plan.handoff = static_cast<unsigned>(dice.one_of<int>({0, 2, 32}));
  plan.lockers = 1 + dice.below(3);
  plan.clients = 1 + dice.below(5);
  plan.mishaps = dice.percent(70);
  plan.abrupt = plan.mishaps && dice.percent(40);
  plan.observed = dice.percent(50);
  if (plan.mishaps) {
    plan.chances = {.refuse = 20,
                    .forget = 10,
                    .fail = 10,
                    .lose_request = 10,
                    .lose_answer = 10,
                    .delay = 30,
                    .ignore_stop = 200,
                    .idle_hint = 20,
                    .longest_delay = 2 * plan.reply_timeout};
    if (plan.abrupt) plan.chances.cut = 10;
  }
  return plan;
}

class CountingObserver final : public Observer {
 public:
  void on_event(const Event& event) noexcept override {
    if (event.kind == Event::Kind::lost) ++lost;
    if (event.kind == Event::Kind::not_released) ++not_released;
  }
  std::size_t lost = 0;
  std::size_t not_released = 0;
};

struct Process {
  std::unique_ptr<Locker> locker;
  std::shared_ptr<CountingObserver> observer;
  bool closed = false;
};

class World {
 public:
  World(SimRuntime& sim, std::uint64_t seed)
      : sim_(sim),
        dice_(sim),
        plan_(make_plan(sim, seed)),
        server_(std::make_shared<ScriptedServer>(plan_.server, sim)),
        witness_(sim, plan_.server.identity_is_hash, plan_.server.fencing, plan_.abrupt ? Time(1s) : Time{0}) {
    const auto [first, second] = keys_of_one_hash();
    keys_ = {first, second, Key::parse("a").value(), Key::parse("b").value()};
    keys_.resize(1 + dice_.below(keys_.size()), Key::none());
  }

  void run();
  std::size_t grants() const { return witness_.grants(); }

 private:
  friend class Client;
  /// A session that someone may close while it is used.
  struct Shared {
    std::unique_ptr<Session> session;
    int number = 0;
    bool closed = false;
  };

  void open_lockers();
  void spoil();
  void one_mishap();
  void one_abrupt_mishap();
  void close_something();
  void calm_down();
  void check_quiet();
  void check_closed();
  Process& process(std::size_t number) { return processes_[number]; }
  Key random_key() { return keys_[dice_.below(keys_.size())]; }
  Time call_bound() const { return plan_.reply_timeout + 2 * plan_.server.latency + 2ms; }

  SimRuntime& sim_;
  Dice dice_;
  const Plan plan_;
  const std::shared_ptr<ScriptedServer> server_;
  Witness witness_;
  std::vector<Key> keys_;
  std::deque<Process> processes_;
  std::vector<std::weak_ptr<Shared>> sessions_;
  std::vector<std::shared_ptr<std::stop_source>> waiting_;
  int next_session_ = 0;
  std::size_t busy_clients_ = 0;
};

/// One thread of a process: takes and releases at random, and checks what each call says.
class Client {
 public:
  Client(World& world, std::size_t process) : world_(world), process_(process) {}

  void run() {
    for (std::size_t i = 0; i < world_.plan_.operations; ++i) {
      if (!session_ && !open()) break;
      act();
      world_.witness_.look();
      if (world_.dice_.percent(30)) world_.sim_.sleep(world_.dice_.less_than(4ms));
    }
    while (!held_.empty()) let_go(held_.begin());
    // Kept until all is quiet: a lock that nobody was told of stays in its session, and is seen.
    if (session_) kept_ = std::move(session_);
  }

 private:
  struct Held {
    std::unique_ptr<Releaser> releaser;
    std::shared_ptr<World::Shared> session;  // Null: its own.
  };
  struct Call {
    Time started{0};
    Time allowed{0};
    std::shared_ptr<std::stop_source> stop;
    bool is_try = false;
    bool many = false;
  };

  Dice& dice() { return world_.dice_; }
  bool open() {
    auto session = world_.process(process_).locker->open_session({.label = "client"});
    if (!session) {
      EXPECT_EQ(session.error().code(), errc::session_closed);
      return false;
    }
    session_ = std::make_shared<World::Shared>();
    session_->session = *std::move(session);
    session_->number = world_.next_session_++;
    world_.sessions_.push_back(session_);
    return true;
  }

  void act() {
    const std::uint64_t choice = dice().below(100);
    if (held_.size() > 3 || (choice < 25 && !held_.empty())) return let_go(held_.begin() + place());
    if (choice < 60) return lock();
    if (choice < 72) return try_lock();
    if (choice < 82) return lock_all();
    if (choice < 90) return try_lock_any();
    if (choice < 95) return lock_alone();
    if (choice < 97) return close();
    if (!held_.empty()) held_[place()].releaser->lost_token();
  }
  std::ptrdiff_t place() { return static_cast<std::ptrdiff_t>(dice().below(held_.size())); }

  Mode mode() { return dice().percent(60) ? Mode::exclusive : Mode::shared; }
  LockOptions options(Call& call) {
    LockOptions options{.mode = mode()};
    const std::optional<Time> timeout =
        dice().one_of<std::optional<Time>>({std::nullopt, 0ms, 200us, 5ms, 80ms, 80ms, 2s});
    call.started = world_.sim_.steady_now();
    call.is_try = timeout == Time{0};
    call.allowed = timeout.value_or(1s);
    if (timeout && dice().percent(30)) {
      options.deadline.emplace(call.started + *timeout);
      call.is_try = false;
    } else {
      options.timeout = timeout;
    }
    if (dice().percent(30)) {
      call.stop = std::make_shared<std::stop_source>();
      options.stop = call.stop->get_token();
      world_.waiting_.push_back(call.stop);
    }
    return options;
  }
  Call plain_call() { return {.started = world_.sim_.steady_now(), .is_try = true}; }

  void lock() {
    Call call;
    const LockOptions how = options(call);
    keep(call, session_->session->lock(world_.random_key(), how), session_);
  }
  void try_lock() {
    const Call call = plain_call();
    keep(call, session_->session->try_lock(world_.random_key(), mode()), session_);
  }
  void lock_alone() {
    Call call;
    const LockOptions how = options(call);
    keep(call, world_.process(process_).locker->lock(world_.random_key(), how), nullptr);
  }
  void try_lock_any() {
    const Call call = plain_call();
    const std::vector<Key> keys{world_.random_key(), world_.random_key(), world_.random_key()};
    keep(call, session_->session->try_lock_any(keys, mode()), session_);
  }
  void lock_all() {
    Call call;
    const LockOptions how = options(call);
    std::vector<Key> keys{world_.random_key(), world_.random_key()};
    if (dice().percent(50)) keys.push_back(world_.random_key());
    // It first asks for all at once, which is a try; then it waits for one after the other.
    call.allowed += world_.call_bound();
    call.many = true;
    auto all = session_->session->lock_all(keys, how);
    if (!all) return failed(call, all.error(), session_.get());
    ASSERT_EQ(all->size(), keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      EXPECT_EQ((*all)[i].key(), keys[i]);
      add(std::move((*all)[i]), session_);
    }
    in_time(call);
  }

  void keep(const Call& call, Result<Releaser> result, const std::shared_ptr<World::Shared>& session) {
    if (!result) return failed(call, result.error(), session.get());
    in_time(call);
    add(*std::move(result), session);
  }
  void add(Releaser releaser, const std::shared_ptr<World::Shared>& session) {
    held_.push_back({std::make_unique<Releaser>(std::move(releaser)), session});
    const int number = session ? session->number : world_.next_session_++;
    world_.witness_.granted(*held_.back().releaser, {.session = number, .process = static_cast<int>(process_)});
  }

  void in_time(const Call& call) {
    EXPECT_LE(world_.sim_.steady_now() - call.started, call.allowed + world_.call_bound());
  }

  // Whether the error is one that can be, and came in time.
  void failed(const Call& call, const Error& error, const World::Shared* session) {
    in_time(call);
    const Plan& plan = world_.plan_;
    switch (error.code()) {
      case errc::not_acquired:
        EXPECT_TRUE(call.is_try) << error.to_string();
        break;
      case errc::timeout:
        EXPECT_FALSE(call.is_try);
        EXPECT_GE(world_.sim_.steady_now() - call.started, call.allowed - world_.call_bound());
        break;
      case errc::cancelled:
        EXPECT_TRUE(call.stop && call.stop->stop_requested());
        break;
      case errc::session_closed:
        EXPECT_TRUE((session && session->closed) || world_.process(process_).closed);
        session_.reset();
        break;
      case errc::deadlock:
        EXPECT_TRUE(!held_.empty() || call.many);
        break;
      case errc::connection_lost:
        EXPECT_TRUE(plan.mishaps) << error.to_string();
        break;
      default:
        ADD_FAILURE() << error.to_string();
    }
  }

  void let_go(std::vector<Held>::iterator which) {
    Held held = std::move(*which);
    held_.erase(which);
    Releaser& releaser = *held.releaser;
    const Time started = world_.sim_.steady_now();
    world_.witness_.leaves(releaser);
    if (dice().percent(50)) {
      const bool lost = releaser.lost();
      const Status status = releaser.release();
      EXPECT_TRUE(!lost || (!status && status.error().code() == errc::lock_lost));
      if (!status) explain(status.error(), held.session.get());
      EXPECT_TRUE(releaser.release()) << "how it ended is told once";
      EXPECT_FALSE(releaser.held());
    }
    held.releaser.reset();
    EXPECT_LE(world_.sim_.steady_now() - started, world_.plan_.release_timeout + world_.call_bound());
  }

  void explain(const Error& error, const World::Shared* session) {
    const Plan& plan = world_.plan_;
    const bool closed = (session && session->closed) || world_.process(process_).closed;
    EXPECT_TRUE(plan.mishaps || closed || plan.server.validity != kNever) << error.to_string();
    EXPECT_TRUE(error.code() == errc::lock_lost || error.code() == errc::not_released ||
                error.code() == errc::connection_lost || (closed && error.code() == errc::session_closed))
        << error.to_string();
  }

  void close() {
    const Time started = world_.sim_.steady_now();
    session_->closed = true;
    const Status closed = session_->session->close();
    if (!closed) explain(closed.error(), session_.get());
    EXPECT_LE(world_.sim_.steady_now() - started, world_.plan_.release_timeout + world_.call_bound());
    session_.reset();
  }

  World& world_;
  const std::size_t process_;
  std::shared_ptr<World::Shared> session_;
  std::shared_ptr<World::Shared> kept_;
  std::vector<Held> held_;
};

void World::open_lockers() {
  const std::string fields = R"("acquire_timeout": "1s", "reply_timeout": ")" + format_duration(plan_.reply_timeout) +
                             R"(", "release_timeout": ")" + format_duration(plan_.release_timeout) +
                             R"(", "limits": {"handoff": )" + std::to_string(plan_.handoff) + "}";
  for (std::size_t i = 0; i < plan_.lockers; ++i) {
    Process process;
    if (plan_.observed) process.observer = std::make_shared<CountingObserver>();
    auto locker = open_scripted(server_, fields, {.observer = process.observer});
    ASSERT_TRUE(locker) << locker.error().to_string();
    process.locker = *std::move(locker);
    processes_.push_back(std::move(process));
  }
}

void World::run() {
  ASSERT_NO_FATAL_FAILURE(open_lockers());
  server_->set_chances(plan_.chances);
  std::deque<Client> clients;
  for (std::size_t i = 0; i < plan_.lockers * plan_.clients; ++i) clients.emplace_back(*this, i % plan_.lockers);
  run_clients(sim_, clients, busy_clients_, [this] { spoil(); });
  calm_down();
  check_quiet();
  clients.clear();
  check_closed();
}

// ---- mishaps

void World::spoil() {
  while (busy_clients_ != 0) {
    sim_.sleep(dice_.less_than(30ms));
    if (!waiting_.empty() && dice_.percent(60)) {
      const auto stop = waiting_[dice_.below(waiting_.size())];
      stop->request_stop();
      std::erase(waiting_, stop);
    }
    if (plan_.mishaps && dice_.percent(40)) one_mishap();
    if (plan_.abrupt && dice_.percent(15)) one_abrupt_mishap();
    if (plan_.mishaps && dice_.percent(5)) close_something();
  }
}

void World::one_mishap() {
  const int process = static_cast<int>(dice_.below(plan_.lockers));
  switch (dice_.below(4)) {
    case 0:
      server_->stall(process, true);
      sim_.sleep(dice_.less_than(plan_.reply_timeout * 2));
      server_->stall(process, false);
      break;
    case 1:
      server_->cut(process, 50ms);
      break;
    case 2:
      if (plan_.server.validity != kNever) sim_.suspend(dice_.less_than(plan_.server.validity * 2));
      break;
    default:
      server_->next({.fate = Fate::serve, .delay = dice_.less_than(plan_.reply_timeout / 2), .ignore_stop = true});
  }
}

void World::one_abrupt_mishap() {
  switch (dice_.below(4)) {
    case 0:
      server_->revoke(random_key());
      break;
    case 1:
      server_->restart();
      break;
    case 2:
      server_->cut(static_cast<int>(dice_.below(plan_.lockers)));
      break;
    default:
      server_->set_down(true);
      sim_.sleep(dice_.less_than(100ms));
      server_->set_down(false);
  }
}

// A session or, rarely, a locker is closed while its threads are busy with it.
void World::close_something() {
  if (dice_.percent(15)) {
    Process& process = processes_[dice_.below(processes_.size())];
    const Time started = sim_.steady_now();
    process.closed = true;
    const Status closed = process.locker->close();
    EXPECT_TRUE(closed || closed.error().code() == errc::connection_lost) << closed.error().to_string();
    EXPECT_LE(sim_.steady_now() - started, plan_.release_timeout + call_bound());
    return;
  }
  const auto session = sessions_[dice_.below(sessions_.size())].lock();
  if (!session) return;
  session->closed = true;
  static_cast<void>(session->session->close());
}

void World::calm_down() {
  server_->set_chances({});
  for (std::size_t i = 0; i < plan_.lockers; ++i) server_->stall(static_cast<int>(i), false);
  sim_.sleep(10s);
}

// ---- the end

// Nobody asks for anything any more, and all sessions are still open.
void World::check_quiet() {
  EXPECT_EQ(witness_.held(), 0u);
  for (const Process& process : processes_) {
    const Stats stats = process.locker->stats();
    EXPECT_EQ(stats.held, 0u) << "a lock that no caller was told of";
    EXPECT_EQ(stats.waiting, 0u);
    EXPECT_EQ(stats.acquired, stats.released + stats.lost);
    if (process.closed) continue;
    const auto holders = process.locker->inspect();
    EXPECT_TRUE(holders && holders->empty());
  }
  for (const Record& record : server_->records()) {
    ADD_FAILURE() << "left at the server: " << record.key << " of process " << record.process
                  << (record.waiting ? ", waiting" : "") << (record.forgotten ? ", forgotten" : "");
  }
}

void World::check_closed() {
  for (Process& process : processes_) {
    const Stats stats = process.locker->stats();
    process.locker.reset();
    if (!process.observer) continue;
    EXPECT_EQ(process.observer->lost, stats.lost) << "each loss is announced once";
    EXPECT_LE(process.observer->not_released, stats.not_released);
  }
  EXPECT_EQ(sim_.fibers(), 1u) << "a thread of the library outlives its locker";
  for (const std::string& violation : server_->violations()) ADD_FAILURE() << violation;
}

TEST(Sessions, keep_the_rules_under_every_seed) {
  std::size_t grants = 0;
  for_each_seed(800, [&](std::uint64_t seed) {
    SimRuntime sim(seed);
    sim.run([&] {
      World world(sim, seed);
      world.run();
      grants += world.grants();
    });
  });
  EXPECT_GT(grants, 0u);
}

}  // namespace
}  // namespace lockr::testing
