// Locks in Redis while the server, other clients and connections misbehave.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backends/redis/scripts.h"
#include "lockr/lockr.h"
#include "tests/support/eventually.h"
#include "tests/support/proxy.h"
#include "tests/support/redis_server.h"
#include "tests/support/tcp_service.h"

namespace lockr::redis {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using testing::eventually;
using testing::RedisClient;
using testing::RedisServer;
using Clock = std::chrono::steady_clock;

template <class T>
::testing::AssertionResult fails_with(const Result<T>& result, errc code, const std::string& part = {}) {
  if (result) return ::testing::AssertionFailure() << "it succeeded";
  const std::string words = result.error().to_string();
  if (result.error().code() == code && words.find(part) != words.npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << words;
}

template <class T>
::testing::AssertionResult succeeds(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().to_string();
}

// Between lockr and a server: what the server answers goes through the test.
class Answers {
 public:
  /// Connections are counted from 1. Bytes come as they arrive; none: the server closed the connection.
  using Change = std::function<std::string(int connection, const std::string& some)>;

  Answers(std::uint16_t port, Change change)
      : change_(std::move(change)), service_([this, port](int fd) { serve(fd, port); }) {}
  std::uint16_t port() const { return service_.port(); }

 private:
  void serve(int fd, std::uint16_t port) {
    const int number = ++connections_;
    const Descriptor onward = testing::connect_to(port);
    std::thread answers([&] {
      for (std::string some = "-"; !some.empty();) {
        some = testing::receive_some(onward.get());
        if (const std::string changed = change_(number, some); !changed.empty()) testing::send_all(fd, changed);
      }
      ::shutdown(fd, SHUT_RDWR);
    });
    for (std::string some; !(some = testing::receive_some(fd)).empty();) testing::send_all(onward.get(), some);
    ::shutdown(onward.get(), SHUT_RDWR);
    answers.join();
  }

  const Change change_;
  std::atomic<int> connections_{0};
  testing::TcpService service_;
};

// The first connections of a locker with one lane.
constexpr int kLane = 1;
constexpr int kService = 2;

class RedisLocks : public ::testing::Test {
 protected:
  RedisLocks() : RedisLocks({}) {}
  explicit RedisLocks(std::vector<std::string> settings) : server_(std::move(settings)), control_(server_.socket()) {}
  RedisServer& server() { return server_; }
  RedisClient& control() { return control_; }

  std::unique_ptr<Locker> open(const std::string& parameters = "?ttl=3s") {
    auto config = LockerConfig::from_url(server_.url(parameters));
    EXPECT_TRUE(succeeds(config));
    auto locker = lockr::open(*config);
    EXPECT_TRUE(succeeds(locker));
    return *std::move(locker);
  }
  std::unique_ptr<Locker> open_through(const Answers& answers, const std::string& parameters, LogHook log = {}) {
    auto config = LockerConfig::from_url("redis://127.0.0.1:" + std::to_string(answers.port()) + parameters);
    EXPECT_TRUE(succeeds(config));
    auto locker = lockr::open(*config, {.log = std::move(log)});
    EXPECT_TRUE(succeeds(locker));
    return *std::move(locker);
  }
  std::future<Result<Releaser>> lock_later(Locker& locker, const Key& key, std::chrono::nanoseconds timeout = 20s) {
    return std::async(std::launch::async, [&locker, key, timeout] { return locker.lock(key, {.timeout = timeout}); });
  }
  long long left(const Key& key) { return std::stoll(control_.one({"PTTL", lock(key)})); }
  long long scripts_run() { return control_.info("commandstats", "cmdstat_evalsha:calls="); }
  bool waits(const Key& key, const std::string& count = "1") {
    return eventually([&] { return control_.one({"ZCARD", queue(key)}) == count; });
  }
  static std::string lock(const Key& key) { return "lockr:l:" + std::string(key.string()); }
  static std::string queue(const Key& key) { return "lockr:q:" + std::string(key.string()); }

  const Key key_ = Key::parse("some:key").value();

 private:
  RedisServer server_;
  RedisClient control_;
};

// ---- waiting

// Each locker stands for a process.
TEST_F(RedisLocks, a_release_wakes_one) {
  constexpr int kRounds = 40;
  std::vector<std::unique_ptr<Locker>> lockers;
  for (int i = 0; i < 6; ++i) lockers.push_back(open());
  std::vector<std::jthread> threads;
  for (const auto& locker : lockers) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(succeeds(locker->lock(key_, {.timeout = 20s})));
    });
  }
  threads.clear();
  std::uint64_t requests = 0;
  for (const auto& locker : lockers) requests += locker->stats().engine_requests;
  const auto published = control().info("commandstats", "cmdstat_publish:calls=");
  EXPECT_GT(published, 0);
  EXPECT_LE(published, 1.1 * kRounds * 6) << "more wake-ups than releases";
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
}

TEST_F(RedisLocks, processes_are_served_in_order_of_arrival) {
  std::vector<std::unique_ptr<Locker>> lockers;
  for (int i = 0; i < 5; ++i) lockers.push_back(open());
  auto held = lockers[0]->lock(key_);
  ASSERT_TRUE(succeeds(held));
  std::mutex mutex;
  std::vector<int> order;
  std::vector<std::jthread> threads;
  for (int i = 1; i < 5; ++i) {
    threads.emplace_back([&, i] {
      const auto got = lockers[static_cast<std::size_t>(i)]->lock(key_, {.timeout = 20s});
      EXPECT_TRUE(succeeds(got));
      const std::lock_guard guard(mutex);
      order.push_back(i);
    });
    ASSERT_TRUE(waits(key_, std::to_string(i)));
  }
  EXPECT_TRUE(succeeds(held->release()));
  threads.clear();
  EXPECT_EQ(order, (std::vector{1, 2, 3, 4}));
}

TEST_F(RedisLocks, the_dead_at_the_front_of_the_queue_do_not_hold_up_the_living) {
  const auto one = open();
  const auto two = open();
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  for (const char* dead : {"x dead1 host 1 1 gone", "s dead2 host 2 1 gone", "x dead3 host 3 1 gone"}) {
    control().one({"ZADD", queue(key_), "1", dead});
  }
  auto waiter = lock_later(*two, key_);
  ASSERT_TRUE(waits(key_, "4"));
  const auto before = control().info("commandstats", "cmdstat_publish:calls=");
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(waiter.get()));
  EXPECT_EQ(control().info("commandstats", "cmdstat_publish:calls=") - before, 4);
}

// As a process does that was stopped: it listens, and does not come.
TEST_F(RedisLocks, who_does_not_come_loses_its_turn) {
  const auto one = open();
  const auto two = open();
  RedisClient stopped(server().socket());
  stopped.one({"SUBSCRIBE", "lockr:p:stopped"});
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  control().one({"ZADD", queue(key_), "1", "x stopped host 1 1 asleep"});
  auto waiter = lock_later(*two, key_);
  ASSERT_TRUE(waits(key_, "2"));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_EQ(control().one({"GET", lock(key_)}), "r stopped");
  EXPECT_TRUE(succeeds(waiter.get()));
}

TEST_F(RedisLocks, a_wake_up_that_is_lost_is_made_up_for) {
  const auto one = open();
  const auto two = open();
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*two, key_);
  ASSERT_TRUE(waits(key_));
  for (int i = 0; i < 5; ++i) control().one({"CLIENT", "KILL", "TYPE", "pubsub"});
  control().one({"DEL", lock(key_)});  // As if nobody had been told.
  EXPECT_TRUE(succeeds(waiter.get()));
}

TEST_F(RedisLocks, a_lease_that_runs_out_wakes_too) {
  const auto one = open();
  control().one({"SET", lock(key_), "foreign", "PX", "400"});
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::not_acquired));
  EXPECT_TRUE(succeeds(one->lock(key_, {.timeout = 20s})));
}

// Whoever set it will delete it without a word to us: it is looked at once a second.
TEST_F(RedisLocks, a_lock_that_never_runs_out_is_not_asked_for_all_the_time) {
  const auto one = open();
  control().one({"SET", lock(key_), "foreign"});
  const auto before = scripts_run();
  EXPECT_TRUE(fails_with(one->lock(key_, {.timeout = 1s}), errc::timeout));
  EXPECT_LE(scripts_run() - before, 5);
}

TEST_F(RedisLocks, readers_behind_a_writer_are_woken_together) {
  std::vector<std::unique_ptr<Locker>> lockers;
  for (int i = 0; i < 4; ++i) lockers.push_back(open());
  auto written = lockers[0]->lock(key_);
  ASSERT_TRUE(succeeds(written));
  std::vector<std::future<Result<Releaser>>> readers;
  for (std::size_t i = 1; i < 4; ++i) {
    readers.push_back(std::async(std::launch::async,
                                 [&, i] { return lockers[i]->lock(key_, {.mode = Mode::shared, .timeout = 20s}); }));
  }
  ASSERT_TRUE(waits(key_, "3"));
  EXPECT_TRUE(succeeds(written->release()));
  std::vector<Result<Releaser>> held;
  for (auto& each : readers) held.push_back(each.get());
  for (const auto& each : held) EXPECT_TRUE(succeeds(each) && each->held());
  EXPECT_EQ(control().one({"ZCARD", lock(key_)}), "3");
}

TEST_F(RedisLocks, a_reader_waits_behind_a_waiting_writer) {
  const auto one = open();
  const auto two = open();
  const auto three = open();
  auto reads = one->lock(key_, {.mode = Mode::shared});
  ASSERT_TRUE(succeeds(reads));
  auto writer = lock_later(*two, key_);
  ASSERT_TRUE(waits(key_));
  EXPECT_TRUE(fails_with(three->try_lock(key_, Mode::shared), errc::not_acquired));
  EXPECT_TRUE(succeeds(reads->release()));
  EXPECT_TRUE(succeeds(writer.get()));
}

// ---- losing

TEST_F(RedisLocks, a_lock_that_somebody_else_has_now_is_lost_and_left_to_them) {
  const auto one = open();
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  control().one({"SET", lock(key_), "foreign"});
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  EXPECT_TRUE(fails_with(held->release(), errc::lock_lost));
  EXPECT_EQ(control().one({"GET", lock(key_)}), "foreign");
  EXPECT_EQ(control().one({"PTTL", lock(key_)}), "-1") << "somebody else's lock was renewed";
}

TEST_F(RedisLocks, a_release_deletes_nothing_of_others) {
  const auto one = open("?ttl=1m");
  for (const Mode mode : {Mode::exclusive, Mode::shared}) {
    auto held = one->lock(key_, {.mode = mode});
    ASSERT_TRUE(succeeds(held));
    control().one({"SET", lock(key_), "foreign"});
    EXPECT_TRUE(fails_with(held->release(), errc::not_released));
    EXPECT_EQ(control().one({"GET", lock(key_)}), "foreign");
    control().one({"DEL", lock(key_)});
  }
}

TEST_F(RedisLocks, a_server_that_can_not_be_reached_ends_locks_before_their_leases) {
  const auto one = open("?ttl=2s&margin=500ms&lockr.reply_timeout=300ms");
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  ASSERT_EQ(::kill(server().pid(), SIGSTOP), 0);
  const auto stopped = BootClock::now();
  auto until = held->valid_until();
  EXPECT_TRUE(eventually([&] {
    until = std::max(until, held->valid_until());
    return held->lost();
  }));
  EXPECT_LE(*until, stopped + 2s - 500ms) << "the server could have given it away";
  ASSERT_EQ(::kill(server().pid(), SIGCONT), 0);
}

TEST_F(RedisLocks, all_of_many_leases_are_renewed) {
  const auto one = open("?ttl=1s");
  const auto session = one->open_session().value();
  std::vector<Key> keys;
  for (int i = 0; i < 1'200; ++i) keys.push_back(Key::from_scopes({"many", std::to_string(i)}).value());
  const auto held = session->lock_all(keys);
  ASSERT_TRUE(succeeds(held));
  const auto until = held->front().valid_until();
  ASSERT_TRUE(until);
  ASSERT_TRUE(eventually([&] { return BootClock::now() > *until + 1s; }));
  for (const Releaser& each : *held) EXPECT_TRUE(each.held());
  EXPECT_EQ(server().leftovers().size(), keys.size());
}

// ---- for a certain time

TEST_F(RedisLocks, a_window_outlives_the_program) {
  {
    const auto one = open();
    ASSERT_TRUE(succeeds(one->lock(key_, {.hold_at_least = 1h})));
  }
  EXPECT_TRUE(eventually([&] { return left(key_) > 3'500'000; }));
  EXPECT_LE(left(key_), 3'600'000);
  EXPECT_TRUE(fails_with(open()->try_lock(key_), errc::not_acquired));
  control().one({"DEL", lock(key_)});
}

TEST_F(RedisLocks, one_of_many_hosts_has_the_turn) {
  int turns = 0;
  int others = 0;
  for (int host = 0; host < 3; ++host) {
    const auto locker = open();
    const auto session = locker->open_session().value();
    // [window]
    auto turn = session->lock({"nightly", "report"}, {.timeout = 0s, .hold_at_least = 2min, .hold_at_most = 4min});
    if (turn) {
      // The job; turn->lost_token() stops it after four minutes.
    } else if (turn.error().code() == lockr::errc::not_acquired) {
      // Another host has, or had, this turn.
    }
    // [window]
    turns += turn ? 1 : 0;
    others += turn || turn.error().code() != errc::not_acquired ? 0 : 1;
  }
  EXPECT_EQ(turns, 1);
  EXPECT_EQ(others, 2);
  control().one({"DEL", "lockr:l:nightly:report"});
}

TEST_F(RedisLocks, a_window_is_kept_when_the_release_was_not_answered) {
  const auto one = open("?ttl=3s&lockr.reply_timeout=200ms&lockr.release_timeout=100ms");
  auto held = one->lock(key_, {.hold_at_least = 1h});
  ASSERT_TRUE(succeeds(held));
  ::kill(server().pid(), SIGSTOP);
  EXPECT_TRUE(fails_with(held->release(), errc::connection_lost));
  ::kill(server().pid(), SIGCONT);
  EXPECT_TRUE(eventually([&] { return left(key_) > 3'500'000; }));
  control().one({"DEL", lock(key_)});
}

// Renewals take another connection than releases: one may be on its way when the other is done.
TEST_F(RedisLocks, a_window_is_not_changed_by_a_renewal_that_comes_late) {
  const auto one = open("?ttl=1m");
  auto held = one->lock(key_, {.hold_at_least = 1h});
  ASSERT_TRUE(succeeds(held));
  const std::string value = control().one({"GET", lock(key_)});
  EXPECT_TRUE(succeeds(held->release()));
  const auto renewed = control().all({"EVAL", text_of(Script::renew), "1", lock(key_), "60000", "x", value});
  ASSERT_EQ(renewed.size(), 2u);
  EXPECT_EQ(renewed[1], "1") << "it was renewed";
  EXPECT_GT(left(key_), 3'500'000);
  control().one({"DEL", lock(key_)});
}

TEST_F(RedisLocks, a_window_is_kept_by_a_server_out_of_memory) {
  const auto one = open();
  auto held = one->lock(key_, {.hold_at_least = 1h});
  ASSERT_TRUE(succeeds(held));
  control().one({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_GT(left(key_), 3'500'000);
}

TEST_F(RedisLocks, lock_delay_prolongs_what_the_server_keeps_and_nothing_else) {
  const auto one = open("?ttl=1s&lock_delay=10m");
  EXPECT_EQ(one->capabilities().takeover, 603s);
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  const auto until = held->valid_until();
  ASSERT_TRUE(until);
  EXPECT_LE(*until, BootClock::now() + 1s);
  EXPECT_GT(left(key_), 600'000);
  ASSERT_TRUE(eventually([&] { return BootClock::now() > *until + 1s; }));
  EXPECT_TRUE(held->held()) << "it was not renewed";
  EXPECT_GT(left(key_), 600'000) << "a renewal forgot the delay";
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(open()->try_lock(key_))) << "a release is no loss";
}

TEST_F(RedisLocks, tokens_grow_over_a_restart_without_persistence) {
  std::uint64_t before = 0;
  for (int i = 0; i < 3; ++i) {
    const auto one = open();
    const auto held = one->lock(key_);
    ASSERT_TRUE(succeeds(held));
    const std::uint64_t token = held->fencing_token().value();
    EXPECT_GT(token, before);
    before = token;
    server().restart();
  }
}

TEST(RedisRestart, what_a_restarted_server_read_from_its_disk_is_given_back) {
  RedisServer server({"--appendonly", "yes", "--appendfsync", "always"});
  const Key key = Key::parse("some:key").value();
  const auto locker = lockr::open(LockerConfig::from_url(server.url("?ttl=1m")).value());
  ASSERT_TRUE(succeeds(locker));
  const auto held = (*locker)->lock(key);
  ASSERT_TRUE(succeeds(held));
  server.restart();
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  EXPECT_TRUE(eventually([&] { return server.leftovers().empty(); }));
}

// The answer of a server that is gone is still on its way when its successor is met.
TEST_F(RedisLocks, a_grant_of_a_server_that_is_gone_is_lost_when_it_arrives) {
  std::atomic<bool> held_back{false};
  Answers answers(server().port(), [&](int connection, const std::string& some) {
    while (connection == kLane && held_back) std::this_thread::sleep_for(1ms);
    return some;
  });
  const auto one = open_through(answers, "?ttl=1m&lanes=1&lockr.reply_timeout=20s");
  EXPECT_TRUE(succeeds(one->lock(key_)));  // The script is known.
  ASSERT_TRUE(eventually([&] { return server().leftovers().empty(); }));
  held_back = true;
  auto late = lock_later(*one, key_);
  ASSERT_TRUE(eventually([&] { return control().one({"EXISTS", lock(key_)}) == "1"; }));
  server().restart();
  RedisClient successor(server().socket());
  ASSERT_TRUE(eventually([&] { return !successor.all({"PUBSUB", "CHANNELS", "lockr:p:*"}).empty(); }));
  held_back = false;
  const auto held = late.get();
  ASSERT_TRUE(succeeds(held));
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
  EXPECT_TRUE(succeeds(one->lock({"another"}, {.timeout = 20s})));
}

TEST_F(RedisLocks, an_answer_to_a_renewal_that_is_none_renews_nothing) {
  std::atomic<bool> spoilt{false};
  Answers answers(server().port(), [&](int connection, const std::string& some) {
    return connection != kLane && spoilt && some.starts_with("*1\r\n:") ? ":7\r\n" : some;
  });
  const auto one = open_through(answers, "?ttl=1s&lanes=1");
  const auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  spoilt = true;
  EXPECT_TRUE(eventually([&] { return held->lost(); }));
}

TEST_F(RedisLocks, a_clock_of_the_server_that_was_set_is_told) {
  std::atomic<bool> set{false};
  Answers answers(server().port(), [&](int connection, const std::string& some) {
    const std::string start = "*1\r\n:";
    if (connection != kService || !set || !some.starts_with(start)) return some;
    return start + std::to_string(std::stoll(some.substr(start.size())) + 5'000) + "\r\n";
  });
  std::mutex mutex;
  std::string lines;
  const auto heard = [&](const std::string& part) {
    const std::lock_guard guard(mutex);
    return lines.find(part) != lines.npos;
  };
  const auto one = open_through(answers, "?ttl=1s&lanes=1", [&](LogLevel, std::string_view line) {
    const std::lock_guard guard(mutex);
    lines.append(line).append("\n");
  });
  const auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  const auto until = held->valid_until();
  ASSERT_TRUE(eventually([&] { return *held->valid_until() > *until; }));  // It was renewed: the clock is known.
  EXPECT_FALSE(heard("clock"));
  set = true;
  EXPECT_TRUE(eventually([&] { return heard("the server's clock was set, by "); })) << lines;
}

TEST_F(RedisLocks, who_gave_up_while_the_server_refused_every_write_leaves_its_queue) {
  const auto one = open();
  const auto two = open();
  const auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(*two, key_, 500ms);
  ASSERT_TRUE(waits(key_));
  control().one({"CONFIG", "SET", "min-replicas-to-write", "1"});
  EXPECT_FALSE(waiter.get());
  ASSERT_TRUE(waits(key_)) << "the server takes nothing out of a queue now";
  control().one({"CONFIG", "SET", "min-replicas-to-write", "0"});
  EXPECT_TRUE(waits(key_, "0")) << "the queue itself ends after a minute only";
}

// ---- connections

TEST_F(RedisLocks, who_gave_up_while_the_server_could_not_be_reached_leaves_its_queue) {
  testing::Proxy proxy(server().port());
  const auto one = open();
  const auto two =
      lockr::open(LockerConfig::from_url("redis://127.0.0.1:" + std::to_string(proxy.port()) + "?ttl=3s").value());
  ASSERT_TRUE(succeeds(two));
  const auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  auto waiter = lock_later(**two, key_, 500ms);
  ASSERT_TRUE(waits(key_));
  proxy.set(testing::Proxy::Mood::harsh);
  EXPECT_FALSE(waiter.get());
  ASSERT_TRUE(waits(key_)) << "nobody can have told the server";
  proxy.set(testing::Proxy::Mood::honest);
  EXPECT_TRUE(waits(key_, "0")) << "the queue itself ends after a minute only";
}

TEST_F(RedisLocks, locks_survive_their_connections) {
  // One lane: when it answers again, no connection is left that has yet to hear of its end.
  const auto one = open("?ttl=3s&lanes=1");
  for (const char* type : {"normal", "pubsub"}) {
    auto held = one->lock(key_);
    ASSERT_TRUE(succeeds(held));
    control().one({"CLIENT", "KILL", "TYPE", type, "SKIPME", "yes"});
    EXPECT_TRUE(eventually([&] { return one->try_lock({"another"}).has_value(); }));
    EXPECT_TRUE(held->held());
    EXPECT_TRUE(succeeds(held->release()));
    EXPECT_EQ(control().one({"EXISTS", lock(key_)}), "0");
  }
}

TEST_F(RedisLocks, a_server_that_forgets_scripts_is_told_them_again) {
  const auto one = open();
  for (int i = 0; i < 5; ++i) {
    control().one({"SCRIPT", "FLUSH"});
    auto held = one->lock(key_);
    ASSERT_TRUE(succeeds(held));
    EXPECT_TRUE(succeeds(held->release()));
  }
  // Each release, and what takes the first lock with a token.
  EXPECT_EQ(control().info("commandstats", "cmdstat_eval:calls="), 6);
}

// Neither is anybody let in twice, nor is anything left behind, nor does a thread stay away.
TEST_F(RedisLocks, connections_that_break_all_the_time_cost_nothing_but_time) {
  const auto one = open("?ttl=3s&lanes=2");
  const auto two = open("?ttl=3s&lanes=1");
  const auto end = Clock::now() + 1500ms;
  std::atomic<int> inside{0};
  std::atomic<int> turns{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const auto session = (i % 2 == 0 ? one : two)->open_session().value();
      while (Clock::now() < end) {
        const auto held = i < 4 ? session->lock(key_, {.timeout = 20s}) : session->try_lock({"own", std::to_string(i)});
        if (!held || i >= 4) continue;
        EXPECT_EQ(inside++, 0);
        ++turns;
        --inside;
      }
    });
  }
  for (int i = 0; Clock::now() < end; ++i) {
    control().one({"CLIENT", "KILL", "TYPE", i % 5 == 0 ? "pubsub" : "normal", "SKIPME", "yes"});
    std::this_thread::sleep_for(5ms);
  }
  threads.clear();
  EXPECT_GT(turns, 0);
  EXPECT_TRUE(succeeds(one->lock(key_, {.timeout = 20s})));
  EXPECT_TRUE(succeeds(two->lock(key_, {.timeout = 20s})));
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
}

TEST_F(RedisLocks, a_server_that_pauses_writes_is_waited_for) {
  const auto one = open("?ttl=3s&lockr.reply_timeout=200ms");
  control().one({"CLIENT", "PAUSE", "1500", "WRITE"});
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::connection_lost));
  EXPECT_TRUE(succeeds(one->lock(key_, {.timeout = 20s})));
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
}

// An answer that comes too late is never taken for that to another question, and what it granted is given back.
TEST_F(RedisLocks, an_overdue_answer_is_nobodys) {
  const auto one = open("?ttl=3s&lockr.reply_timeout=200ms");
  std::thread sleeper([&] { RedisClient(server().socket()).one({"DEBUG", "SLEEP", "1"}); });
  EXPECT_TRUE(eventually([&] { return fails_with(one->try_lock(key_), errc::connection_lost); }));
  sleeper.join();
  ASSERT_TRUE(eventually([&] { return one->try_lock({"another"}).has_value(); }));
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
  const auto held = one->lock(key_, {.timeout = 20s});
  EXPECT_TRUE(succeeds(held));
}

TEST_F(RedisLocks, a_release_without_an_answer_is_made_up_for) {
  const auto one = open("?ttl=1m&lockr.reply_timeout=200ms");
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  std::thread sleeper([&] { RedisClient(server().socket()).one({"DEBUG", "SLEEP", "1"}); });
  EXPECT_TRUE(eventually([&] { return fails_with(one->try_lock({"another"}), errc::connection_lost); }));
  EXPECT_FALSE(held->release());
  sleeper.join();
  EXPECT_TRUE(eventually([&] { return control().one({"EXISTS", lock(key_)}) == "0"; }));
}

// ---- what the server says

TEST_F(RedisLocks, a_server_out_of_memory_takes_nothing_and_gives_back) {
  const auto one = open();
  const Key other = Key::parse("other").value();
  auto held = one->lock(key_);
  auto read = one->lock(other, {.mode = Mode::shared});
  ASSERT_TRUE(succeeds(held));
  ASSERT_TRUE(succeeds(read));
  control().one({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_TRUE(fails_with(one->try_lock({"another"}), errc::capacity, "OOM"));
  EXPECT_TRUE(fails_with(one->try_lock({"another"}, Mode::shared), errc::capacity, "OOM"));
  const auto until = read->valid_until();
  EXPECT_TRUE(eventually([&] { return BootClock::now() > *until; }));
  EXPECT_TRUE(held->held()) << "it was not renewed";
  EXPECT_TRUE(read->held()) << "it was not renewed";
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(read->release()));
  EXPECT_TRUE(server().leftovers().empty());
}

TEST_F(RedisLocks, a_server_whose_disk_is_full_is_asked_to_release_until_it_does) {
  control().one({"CONFIG", "SET", "save", "3600 1"});
  const auto one = open("?ttl=1m");
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  // No place to save to.
  ASSERT_EQ(::mkdir((server().directory() / "dump.rdb").c_str(), 0555), 0);
  control().one({"BGSAVE"});
  ASSERT_TRUE(eventually([&] { return control().one({"SET", "x", "1"}).starts_with("!MISCONF"); }));
  EXPECT_TRUE(fails_with(one->try_lock({"another"}), errc::backend_failure, "MISCONF"));
  EXPECT_TRUE(fails_with(held->release(), errc::backend_failure, "MISCONF"));
  EXPECT_EQ(control().one({"EXISTS", lock(key_)}), "1");
  ASSERT_EQ(::rmdir((server().directory() / "dump.rdb").c_str()), 0);
  ASSERT_TRUE(eventually([&] {
    control().one({"BGSAVE"});
    return control().one({"SET", "x", "1"}) == "OK";
  }));
  EXPECT_TRUE(eventually([&] { return control().one({"EXISTS", lock(key_)}) == "0"; }));
}

TEST_F(RedisLocks, a_primary_that_becomes_a_replica_is_left) {
  const auto one = open();
  control().one({"REPLICAOF", "127.0.0.1", "1"});
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::connection_lost, "READONLY"));
  EXPECT_TRUE(eventually([&] { return fails_with(one->try_lock(key_), errc::unsafe_setup, "replica"); }));
  control().one({"REPLICAOF", "NO", "ONE"});
  EXPECT_TRUE(eventually([&] { return one->try_lock(key_).has_value(); }));
}

TEST_F(RedisLocks, a_script_of_others_that_does_not_end_is_waited_for) {
  control().one({"CONFIG", "SET", "busy-reply-threshold", "50"});
  const auto one = open();
  std::thread endless([&] { RedisClient(server().socket()).one({"EVAL", "while true do end", "0"}); });
  EXPECT_TRUE(eventually([&] { return fails_with(one->try_lock(key_), errc::connection_lost, "BUSY"); }));
  auto waiter = lock_later(*one, key_);
  EXPECT_TRUE(eventually([&] { return control().one({"SCRIPT", "KILL"}) == "OK"; }));
  EXPECT_TRUE(succeeds(waiter.get()));
  endless.join();
}

TEST_F(RedisLocks, a_server_that_loads_its_data_is_waited_for) {
  const auto one = open("?ttl=1m");
  for (int i = 0; i < 100; ++i) control().one({"SET", "data" + std::to_string(i), std::string(1024, 'x')});
  control().one({"CONFIG", "SET", "key-load-delay", "20000", "loading-process-events-interval-bytes", "1024"});
  std::thread reload([&] { RedisClient(server().socket()).one({"DEBUG", "RELOAD"}); });
  EXPECT_TRUE(eventually([&] { return fails_with(one->try_lock(key_), errc::connection_lost, "LOADING"); }));
  EXPECT_TRUE(succeeds(one->lock(key_, {.timeout = 20s})));
  reload.join();
}

TEST_F(RedisLocks, a_name_that_is_in_use_for_something_else_is_said) {
  const auto one = open();
  control().one({"LPUSH", lock(key_), "x"});
  for (const Mode mode : {Mode::exclusive, Mode::shared}) {
    EXPECT_TRUE(fails_with(one->try_lock(key_, mode), errc::backend_failure, "WRONGTYPE"));
    EXPECT_TRUE(fails_with(one->lock(key_, {.mode = mode, .timeout = 20s}), errc::backend_failure, "WRONGTYPE"));
  }
  const auto session = one->open_session().value();
  const std::array keys{key_, Key::parse("free").value()};
  EXPECT_TRUE(fails_with(session->lock_all(keys, {.timeout = 20s}), errc::backend_failure, "WRONGTYPE"));
}

TEST_F(RedisLocks, rights_that_are_taken_away_are_missed) {
  control().one({"ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"});
  const auto one = open("?ttl=3s&user=app&password=secret");
  control().one({"ACL", "SETUSER", "app", "-set"});
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::access_denied, "NOPERM"));
}

// The server does not undo what a script did before an error ended it.
TEST_F(RedisLocks, what_a_script_did_before_it_failed_is_undone) {
  control().one({"ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"});
  const auto one = open("?ttl=1m&user=app&password=secret");
  control().one({"ACL", "SETUSER", "app", "-time"});  // Asked for when the last token is gone.
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::access_denied, "grant it to the ACL user"));
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
  EXPECT_TRUE(fails_with(one->lock(key_, {.timeout = 20s}), errc::access_denied));
  EXPECT_TRUE(eventually([&] { return server().leftovers().empty(); }));
}

TEST_F(RedisLocks, a_primary_with_too_few_replicas_takes_nothing) {
  const auto one = open();
  control().one({"CONFIG", "SET", "min-replicas-to-write", "1"});
  EXPECT_TRUE(fails_with(one->try_lock(key_), errc::backend_failure, "NOREPLICAS"));
}

TEST_F(RedisLocks, many_keys_are_one_script) {
  const auto one = open();
  const auto session = one->open_session().value();
  std::vector<Key> keys;
  for (int i = 0; i < 200; ++i) keys.push_back(Key::from_scopes({"many", std::to_string(i)}).value());
  EXPECT_TRUE(succeeds(one->lock(key_)));  // The scripts are known.
  ASSERT_TRUE(eventually([&] { return server().leftovers().empty(); }));
  const auto before = scripts_run();
  auto held = session->lock_all(keys);
  ASSERT_TRUE(succeeds(held));
  EXPECT_EQ(scripts_run() - before, 1);
  const auto other = open();
  const auto theirs = other->open_session().value();
  const auto between = scripts_run();
  keys.push_back(key_);
  const auto any = theirs->try_lock_any(keys);
  ASSERT_TRUE(succeeds(any));
  EXPECT_EQ(any->key(), key_);
  EXPECT_EQ(scripts_run() - between, 1);
}

// Bytes that mean something elsewhere are bytes here.
TEST_F(RedisLocks, any_byte_may_be_in_a_key_and_a_label) {
  const auto one = open();
  const std::string bytes = "\r\n$3\0 *?[a]{b} \xff'\"\\"s;
  const auto session = one->open_session({.label = bytes}).value();
  const Key key = Key::from_scopes({bytes}).value();
  auto held = session->lock(key);
  ASSERT_TRUE(succeeds(held));
  EXPECT_EQ(control().one({"EXISTS", "lockr:l:" + bytes}), "1");
  const auto two = open();
  const auto rows = two->inspect(&key);
  ASSERT_TRUE(succeeds(rows));
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ(rows->front().label, bytes);
  auto waiter = lock_later(*two, key);
  EXPECT_TRUE(eventually([&] { return control().one({"ZCARD", "lockr:q:" + bytes}) == "1"; }));
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(waiter.get()));
}

TEST_F(RedisLocks, waiters_of_others_are_listed_while_they_live) {
  const auto one = open();
  const auto two = open();
  auto held = one->lock(key_);
  ASSERT_TRUE(succeeds(held));
  control().one({"ZADD", queue(key_), "1", "x dead host 1 1 gone"});
  auto waiter = lock_later(*two, key_);
  ASSERT_TRUE(waits(key_, "2"));
  const auto three = open();
  const auto rows = three->inspect();
  ASSERT_TRUE(succeeds(rows));
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_FALSE(rows->front().waiting);
  EXPECT_TRUE(rows->back().waiting);
  EXPECT_EQ(rows->back().pid, ::getpid());
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(waiter.get()));
}

}  // namespace
}  // namespace lockr::redis
