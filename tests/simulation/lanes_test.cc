// How long a call takes over an engine that answers slowly: its own time and no more, whatever others have queued up in
// the lanes. The same scenes in many orders.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/simulation/seeds.h"
#include "tests/simulation/sim_runtime.h"
#include "tests/support/scripted_engine.h"

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;

constexpr Time kReplyTimeout = 20ms;
constexpr Time kSlow = 15ms;  // Each answer.
constexpr Time kSlack = 1ms;  // The clock goes on a little while threads run.

Key key(const std::string& name) { return Key::parse(name).value(); }

/// One process and a server that takes kSlow for each answer once it is told to. Batches have one request, so that who
/// comes late has many rounds before it.
class SlowEngine {
 public:
  SlowEngine(SimRuntime& sim, std::uint16_t lanes)
      : sim_(sim),
        server_(std::make_shared<ScriptedServer>(
            ScriptedOptions{.lanes = lanes, .batch = 1, .reply_timeout = kReplyTimeout, .poll = 3ms}, sim)),
        locker_(open_scripted(server_, R"("reply_timeout": "20ms", "release_timeout": "400ms")").value()) {}

  /// The next so many requests of a kind are answered late.
  void slow_down(spi::Op op, int requests = 100) {
    for (int i = 0; i < requests; ++i) server_->next({.op = op, .delay = kSlow});
  }
  Locker& locker() { return *locker_; }
  ScriptedServer& server() { return *server_; }
  void start(std::function<void()> body) { threads_.push_back(sim_.start("lockr-caller", std::move(body))); }
  /// How long the body takes.
  Time span(const std::function<void()>& body) {
    const Time began = sim_.steady_now();
    body();
    return sim_.steady_now() - began;
  }
  /// All calls have returned, and what nobody wants any more was given back.
  void end() {
    threads_.clear();
    sim_.sleep(5s);
    EXPECT_TRUE(server_->records().empty());
    EXPECT_EQ(locker_->stats().held, 0u);
    locker_.reset();
    EXPECT_EQ(server_->violations(), std::vector<std::string>());
  }

 private:
  SimRuntime& sim_;
  const std::shared_ptr<ScriptedServer> server_;
  std::unique_ptr<Locker> locker_;
  std::vector<std::unique_ptr<spi::Runtime::Thread>> threads_;
};

void in_many_orders(std::uint16_t lanes, const std::function<void(SimRuntime&, SlowEngine&)>& scene) {
  for_each_seed(100, [&](std::uint64_t seed) {
    SimRuntime sim(seed);
    sim.run([&] {
      SlowEngine engine(sim, lanes);
      scene(sim, engine);
      engine.end();
    });
  });
}

TEST(Lanes, who_drives_for_others_passes_the_lane_on_when_its_time_is_over) {
  in_many_orders(1, [](SimRuntime& sim, SlowEngine& engine) {
    engine.slow_down(spi::Op::take);
    // They give up while the first one's answer is awaited, and leave what they asked in the queue.
    for (int i = 0; i < 6; ++i) {
      engine.start([&engine, i] {
        static_cast<void>(engine.locker().lock(key("before" + std::to_string(i)), {.timeout = 5ms}));
      });
    }
    sim.sleep(13ms);
    EXPECT_LE(engine.span([&] { static_cast<void>(engine.locker().lock(key("late"), {.timeout = 5ms})); }),
              5ms + kReplyTimeout + kSlack);
  });
}

TEST(Lanes, a_destructor_waits_for_the_sending_no_longer_than_an_answer_may_take) {
  in_many_orders(1, [](SimRuntime& sim, SlowEngine& engine) {
    auto held = std::make_unique<Releaser>(engine.locker().lock(key("held")).value());
    engine.slow_down(spi::Op::take);
    for (int i = 0; i < 6; ++i) {
      engine.start([&engine, i] {
        EXPECT_TRUE(engine.locker().lock(key("other" + std::to_string(i)), {.timeout = 2s})) << "nobody is stranded";
      });
    }
    sim.sleep(1ms);
    EXPECT_LE(engine.span([&] { held.reset(); }), kReplyTimeout + kSlack);
  });
}

TEST(Lanes, a_call_that_asks_in_several_batches_has_the_time_of_one_answer) {
  for (const bool any : {false, true}) {
    in_many_orders(1, [any](SimRuntime&, SlowEngine& engine) {
      const std::vector<Key> keys{key("a"), key("b"), key("c"), key("d")};
      auto session = engine.locker().open_session().value();
      for (int i = 0; any && i < 4; ++i) {
        engine.server().next({.fate = Fate::refuse, .op = spi::Op::take, .delay = kSlow});
      }
      engine.slow_down(spi::Op::take);
      EXPECT_LE(engine.span([&] {
        if (any) {
          EXPECT_FALSE(session->try_lock_any(keys));
        } else {
          EXPECT_FALSE(session->lock_all(keys, {.timeout = 0ms}));
        }
      }),
                kReplyTimeout + kSlack);
      session.reset();
    });
  }
}

TEST(Lanes, an_engine_without_them_is_asked_for_nothing_more_when_the_time_is_over) {
  in_many_orders(0, [](SimRuntime& sim, SlowEngine& engine) {
    auto session = engine.locker().open_session().value();
    // What is granted too late goes back, which takes as long again.
    engine.slow_down(spi::Op::take);
    engine.slow_down(spi::Op::give_back);
    engine.start([&sim, &session] {
      sim.sleep(5ms);
      static_cast<void>(session->close());
    });
    EXPECT_LE(engine.span([&] { static_cast<void>(session->lock(key("a"), {.timeout = 1ms})); }),
              1ms + kReplyTimeout + kSlack);
  });
}

}  // namespace
}  // namespace lockr::testing
