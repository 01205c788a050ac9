// The scripted engine without the core: what tests of the core rely on.
#include "tests/support/scripted_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <thread>
#include <vector>

#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;
using spi::Answer;
using spi::Op;
using spi::Request;

/// A server and two processes under a clock that moves when somebody sleeps.
class World {
 public:
  struct Process {
    FakeCore core;
    std::unique_ptr<spi::Backend> backend;
  };

  explicit World(ScriptedOptions options = {}) : server(std::make_shared<ScriptedServer>(options, runtime)) {
    for (Process* process : {&one, &two}) {
      process->backend = connect_to(server);
      EXPECT_TRUE(process->backend->open(process->core, runtime.steady_now()));
    }
  }
  ~World() { EXPECT_EQ(server->violations(), std::vector<std::string>()); }

  Request& send(Process& process, Request& request) {
    Request* batch = &request;
    const std::uint16_t link = request.op == Op::take ? std::uint16_t{0} : request.seat.link;
    process.backend->submit(link, {&batch, 1});
    return request;
  }
  Answer ask(Process& process, Request& request) {
    send(process, request);
    if (server->options().lanes != 0) {
      const std::uint16_t link = request.op == Op::take ? std::uint16_t{0} : request.seat.link;
      EXPECT_TRUE(process.backend->collect(link, runtime.steady_now() + 10s));
    }
    EXPECT_EQ(process.core.answers(request), 1u);
    return request.answer;
  }
  Request& take(Process& process, std::string_view key, Mode mode = Mode::exclusive) {
    Request& request = process.core.request(Op::take, key, mode);
    ask(process, request);
    return request;
  }
  void serve(Process& process, Time span) {
    for (const Time end = runtime.steady_now() + span; runtime.steady_now() < end;) process.backend->pump(end);
  }

  ManualRuntime runtime;
  std::shared_ptr<ScriptedServer> server;
  Process one;
  Process two;
};

std::vector<ScriptedOptions> both_shapes() { return {{.lanes = 2}, {.lanes = 0}}; }

TEST(ScriptedEngine, excludes_and_counts_tokens_up) {
  for (const ScriptedOptions& options : both_shapes()) {
    World world(options);
    Request& first = world.take(world.one, "a");
    EXPECT_EQ(first.answer, Answer::granted);
    EXPECT_EQ(world.take(world.two, "a").answer, Answer::refused);
    EXPECT_EQ(world.ask(world.one, world.one.core.request(Op::give_back, first)), Answer::released);
    Request& second = world.take(world.two, "a");
    EXPECT_EQ(second.answer, Answer::granted);
    EXPECT_GT(second.token, first.token);
    EXPECT_EQ(world.server->records().size(), 1u);
    EXPECT_EQ(world.server->records()[0].process, 1);
  }
}

TEST(ScriptedEngine, lets_readers_share) {
  World world;
  EXPECT_EQ(world.take(world.one, "a", Mode::shared).answer, Answer::granted);
  EXPECT_EQ(world.take(world.two, "a", Mode::shared).answer, Answer::granted);
  EXPECT_EQ(world.take(world.two, "a:b").answer, Answer::granted);
}

TEST(ScriptedEngine, answers_after_its_latency) {
  for (const Time latency : {Time{0}, Time{7ms}}) {
    World world({.latency = latency});
    const Time sent = world.runtime.steady_now();
    Request& request = world.send(world.one, world.one.core.request(Op::take, "a"));
    EXPECT_EQ(world.one.core.answers(request), 0u);
    if (latency != Time{0}) {
      EXPECT_FALSE(world.one.backend->collect(0, sent + latency / 2));
    }
    EXPECT_TRUE(world.one.backend->collect(0, sent + 1s));
    EXPECT_EQ(world.runtime.steady_now(), sent + latency);
    EXPECT_EQ(request.answer, Answer::granted);
  }
}

TEST(ScriptedEngine, pump_returns_once_when_a_lane_has_its_answers) {
  World world({.latency = 3ms});
  const Time sent = world.runtime.steady_now();
  Request& request = world.send(world.one, world.one.core.request(Op::take, "a"));
  world.one.backend->pump(sent + 1s);
  EXPECT_EQ(world.runtime.steady_now(), sent + 3ms);
  EXPECT_EQ(world.one.core.answers(request), 0u);
  world.one.backend->pump(sent + 1s);
  EXPECT_EQ(world.runtime.steady_now(), sent + 1s);
  EXPECT_TRUE(world.one.backend->collect(0, sent + 1s));
}

TEST(ScriptedEngine, takes_all_of_a_group_or_none_and_one_of_an_any) {
  World world;
  world.take(world.one, "b");
  for (const auto rule : {spi::Group::all, spi::Group::any}) {
    std::vector<Request*> batch;
    for (const char* key : {"b", "c", "d"}) {
      batch.push_back(&world.two.core.request(Op::take, key));
      batch.back()->group = 1;
      batch.back()->group_rule = rule;
    }
    world.two.backend->submit(0, batch);
    EXPECT_TRUE(world.two.backend->collect(0, world.runtime.steady_now()));
    EXPECT_EQ(batch[0]->answer, Answer::refused);
    EXPECT_EQ(batch[1]->answer, rule == spi::Group::any ? Answer::granted : Answer::refused);
    EXPECT_EQ(batch[2]->answer, Answer::refused);
  }
}

TEST(ScriptedEngine, queues_waits_in_order_and_hands_the_link_back) {
  World world({.lanes = 1, .waiters = 1, .latency = 1ms});
  Request& holder = world.take(world.one, "a");
  Request& wait = world.two.core.request(Op::take, "a");
  EXPECT_TRUE(world.two.backend->start_wait(wait));
  EXPECT_FALSE(world.two.backend->start_wait(world.two.core.request(Op::take, "b")));
  EXPECT_TRUE(world.one.backend->wanted_elsewhere(wait.identity));
  EXPECT_FALSE(world.two.backend->wanted_elsewhere(wait.identity));
  world.ask(world.one, world.one.core.request(Op::give_back, holder));
  world.serve(world.two, 5ms);
  EXPECT_EQ(world.two.core.answers(wait), 1u);
  EXPECT_EQ(wait.answer, Answer::granted);
  EXPECT_EQ(wait.seat.link, 1);
  world.ask(world.two, world.two.core.request(Op::give_back, wait));
  EXPECT_TRUE(world.two.backend->start_wait(world.two.core.request(Op::take, "b")));
  world.serve(world.two, 5ms);
}

TEST(ScriptedEngine, a_stopped_wait_is_answered_and_leaves_the_queue) {
  World world({.waiters = 1});
  world.take(world.one, "a");
  Request& wait = world.two.core.request(Op::take, "a");
  EXPECT_TRUE(world.two.backend->start_wait(wait));
  world.two.backend->stop_wait(wait);
  EXPECT_EQ(world.two.core.answers(wait), 0u);
  world.serve(world.two, 1ms);
  EXPECT_EQ(wait.answer, Answer::refused);
  EXPECT_EQ(world.server->records().size(), 1u);
}

TEST(ScriptedEngine, a_wait_that_ignores_its_stop_is_granted_late) {
  World world({.waiters = 1, .stop_delay = 50ms});
  Request& holder = world.take(world.one, "a");
  world.server->next({.op = Op::take, .ignore_stop = true});
  Request& wait = world.two.core.request(Op::take, "a");
  EXPECT_TRUE(world.two.backend->start_wait(wait));
  world.two.backend->stop_wait(wait);
  world.serve(world.two, 10ms);
  EXPECT_EQ(world.two.core.answers(wait), 0u);
  world.ask(world.one, world.one.core.request(Op::give_back, holder));
  world.serve(world.two, 1ms);
  EXPECT_EQ(wait.answer, Answer::granted);
}

TEST(ScriptedEngine, tells_who_was_refused_that_the_key_is_free) {
  World world;
  Request& holder = world.take(world.one, "a");
  const Request& refused = world.take(world.two, "a");
  world.serve(world.two, 1ms);
  EXPECT_TRUE(world.two.core.hints.empty());
  world.ask(world.one, world.one.core.request(Op::give_back, holder));
  world.serve(world.two, 1ms);
  EXPECT_EQ(world.two.core.hints, std::vector{refused.identity});
}

TEST(ScriptedEngine, a_yield_lets_others_go_first) {
  World world({.waiters = 1});
  Request& holder = world.take(world.one, "a");
  Request& wait = world.two.core.request(Op::take, "a");
  world.two.backend->start_wait(wait);
  EXPECT_EQ(world.ask(world.one, world.one.core.request(Op::yield, holder)), Answer::refused);
  world.serve(world.two, 1ms);
  EXPECT_EQ(wait.answer, Answer::granted);
  EXPECT_EQ(world.ask(world.two, world.two.core.request(Op::yield, wait)), Answer::refused);
}

TEST(ScriptedEngine, a_yield_that_nobody_wants_is_granted_again) {
  World world;
  Request& holder = world.take(world.one, "a");
  Request& again = world.one.core.request(Op::yield, holder);
  EXPECT_EQ(world.ask(world.one, again), Answer::granted);
  EXPECT_GT(again.token, holder.token);
  EXPECT_EQ(world.server->records().size(), 1u);
}

TEST(ScriptedEngine, refuses_and_fails_as_the_script_says) {
  World world;
  world.server->next({.fate = Fate::refuse, .op = Op::take, .key = "b"});
  world.server->next({.fate = Fate::fail, .op = Op::take, .key = "c"});
  EXPECT_EQ(world.take(world.one, "a").answer, Answer::granted);
  EXPECT_EQ(world.take(world.one, "b").answer, Answer::refused);
  EXPECT_EQ(world.take(world.one, "c").answer, Answer::failed);
  EXPECT_EQ(world.take(world.one, "b").answer, Answer::granted);
  EXPECT_EQ(world.server->records().size(), 2u);
}

TEST(ScriptedEngine, keeps_a_lost_answers_lock_until_it_may_be_asked_for_again) {
  for (const Fate fate : {Fate::lose_answer, Fate::lose_request}) {
    World world({.forgets_after = 8ms});
    world.server->next({.fate = fate});
    Request& lost = world.take(world.one, "a");
    EXPECT_EQ(lost.answer, Answer::unknown);
    EXPECT_EQ(lost.ask_again, world.runtime.steady_now() + 8ms);
    EXPECT_TRUE(lost.error.may_hold_until());
    EXPECT_EQ(world.server->records().size(), fate == Fate::lose_answer ? 1u : 0u);
    world.runtime.advance(8ms);
    EXPECT_EQ(world.take(world.one, "a").answer, Answer::granted);
  }
}

TEST(ScriptedEngine, nothing_arrives_behind_a_request_that_the_break_of_its_link_kept_away) {
  World world({.lanes = 1, .latency = 1ms});
  Request& held = world.take(world.one, "a");
  world.server->next({.fate = Fate::cut, .op = Op::give_back});
  std::vector<Request*> batch{&world.one.core.request(Op::give_back, held), &world.one.core.request(Op::take, "a"),
                              &world.one.core.request(Op::take, "b")};
  world.one.backend->submit(0, batch);
  EXPECT_TRUE(world.one.backend->collect(0, world.runtime.steady_now() + 10s));
  for (const Request* each : batch) EXPECT_EQ(each->answer, Answer::failed);
  EXPECT_TRUE(world.server->records().empty());
}

TEST(ScriptedEngine, keeps_a_lock_whose_release_was_lost_for_a_while) {
  World world({.forgets_after = 8ms});
  Request& held = world.take(world.one, "a");
  world.server->next({.fate = Fate::lose_request});
  EXPECT_EQ(world.ask(world.one, world.one.core.request(Op::give_back, held)), Answer::unknown);
  EXPECT_EQ(world.take(world.two, "a").answer, Answer::refused);
  world.runtime.advance(8ms);
  EXPECT_EQ(world.take(world.two, "a").answer, Answer::granted);
}

TEST(ScriptedEngine, says_not_held_of_what_it_forgot) {
  World world;
  Request& held = world.take(world.one, "a");
  world.server->next({.fate = Fate::forget});
  EXPECT_EQ(world.ask(world.one, world.one.core.request(Op::give_back, held)), Answer::not_held);
  EXPECT_TRUE(world.server->records().empty());
}

TEST(ScriptedEngine, a_cut_fails_what_is_outstanding_loses_what_is_held_and_reconnects) {
  World world({.lanes = 2, .waiters = 1, .latency = 5ms, .reconnect_after = 20ms});
  Request& held = world.take(world.one, "a");
  world.take(world.two, "b");
  Request& wait = world.one.core.request(Op::take, "b");
  EXPECT_TRUE(world.one.backend->start_wait(wait));
  Request& asked = world.send(world.one, world.one.core.request(Op::take, "c"));
  world.server->cut(0);
  world.one.backend->pump(world.runtime.steady_now() + 1ms);

  EXPECT_EQ(asked.answer, Answer::failed);
  EXPECT_EQ(wait.answer, Answer::failed);
  const auto lost = std::find_if(world.one.core.losses.begin(), world.one.core.losses.end(),
                                 [&](const FakeCore::Loss& loss) { return loss.seat == held.seat; });
  ASSERT_NE(lost, world.one.core.losses.end());
  EXPECT_EQ(lost->key, "");
  EXPECT_EQ(world.server->records().size(), 1u);
  EXPECT_EQ(world.take(world.one, "a").answer, Answer::failed);
  EXPECT_EQ(world.one.core.reconnects, 0);

  world.serve(world.one, 30ms);
  EXPECT_GT(world.one.core.reconnects, 0);
  Request& again = world.take(world.one, "a");
  EXPECT_EQ(again.answer, Answer::granted);
  EXPECT_NE(again.seat, held.seat);
}

TEST(ScriptedEngine, a_cut_link_may_leave_its_locks_behind_for_a_while) {
  World world;
  world.take(world.one, "a");
  world.server->cut(0, 30ms);
  world.serve(world.one, 10ms);
  EXPECT_EQ(world.one.core.losses.size(), 2u);
  EXPECT_EQ(world.take(world.two, "a").answer, Answer::refused);
  world.runtime.advance(30ms);
  EXPECT_EQ(world.take(world.two, "a").answer, Answer::granted);
}

TEST(ScriptedEngine, renews_and_gives_up_before_the_server_when_stalled) {
  World world({.validity = 90ms});
  const Request& held = world.take(world.one, "a");
  EXPECT_EQ(held.valid_until, world.runtime.boot_now() + 81ms);
  world.serve(world.one, 500ms);
  EXPECT_TRUE(world.one.core.losses.empty());
  ASSERT_FALSE(world.one.core.alives.empty());
  EXPECT_GT(world.one.core.alives.back().valid_until, world.runtime.boot_now());

  world.server->stall(0, true);
  while (world.one.core.losses.empty()) {
    ASSERT_LT(world.runtime.boot_now(), held.valid_until + 1s);
    world.one.backend->pump(world.runtime.steady_now() + 10ms);
  }
  EXPECT_EQ(world.server->records().size(), 1u);
  world.runtime.advance(90ms);
  EXPECT_TRUE(world.server->records().empty());
}

TEST(ScriptedEngine, drops_a_link_whose_answer_is_overdue) {
  for (const ScriptedOptions& shape : both_shapes()) {
    ScriptedOptions options = shape;
    options.reply_timeout = 30ms;
    World world(options);
    world.server->stall(0, true);
    const Time sent = world.runtime.steady_now();
    Request& request = world.take(world.one, "a");
    EXPECT_EQ(request.answer, Answer::unknown);
    EXPECT_EQ(world.runtime.steady_now(), sent + 30ms);
    EXPECT_EQ(world.one.core.losses.size(), 1u);
  }
}

TEST(ScriptedEngine, revokes_one_lock_and_tells_its_holder) {
  World world;
  Request& held = world.take(world.one, "a");
  world.take(world.one, "b");
  world.server->revoke(*held.key);
  world.serve(world.one, 1ms);
  ASSERT_EQ(world.one.core.losses.size(), 1u);
  EXPECT_EQ(world.one.core.losses[0].key, "a");
  EXPECT_EQ(world.server->records().size(), 1u);
}

TEST(ScriptedEngine, notes_breaches_of_the_contract) {
  ManualRuntime runtime;
  auto server = std::make_shared<ScriptedServer>(ScriptedOptions{.batch = 2, .shared = false}, runtime);
  FakeCore core;
  auto backend = connect_to(server);
  ASSERT_TRUE(backend->open(core, runtime.steady_now()));
  std::size_t seen = 0;
  auto breaches = [&](std::vector<Request*> batch) {
    backend->submit(0, batch);
    backend->collect(0, runtime.steady_now());
    const std::size_t before = std::exchange(seen, server->violations().size());
    return seen - before;
  };
  EXPECT_EQ(breaches({&core.request(Op::take, "a")}), 0u);
  EXPECT_EQ(breaches({&core.request(Op::take, "a")}), 1u);
  EXPECT_EQ(breaches({&core.request(Op::take, "b", Mode::shared)}), 1u);
  EXPECT_EQ(breaches({&core.request(Op::take, "c"), &core.request(Op::take, "d"), &core.request(Op::take, "e")}), 1u);
}

TEST(ScriptedEngine, the_same_seed_spoils_the_same_requests) {
  auto run = [](std::uint64_t seed) {
    World world({.seed = seed, .chances = {.refuse = 300, .lose_answer = 100}});
    std::vector<Answer> answers;
    for (int i = 0; i < 50; ++i) answers.push_back(world.take(world.one, "k" + std::to_string(i)).answer);
    return answers;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

// Real threads: what sanitizers watch.
TEST(ScriptedEngine, serves_threads) {
  for (const std::uint16_t lanes : {std::uint16_t{0}, std::uint16_t{2}}) {
    auto server =
        std::make_shared<ScriptedServer>(ScriptedOptions{.lanes = lanes, .latency = 20us}, spi::system_runtime());
    spi::Runtime& runtime = server->runtime();
    std::vector<std::unique_ptr<spi::Backend>> backends;
    std::deque<FakeCore> cores;
    for (int i = 0; i < 2; ++i) {
      backends.push_back(connect_to(server));
      ASSERT_TRUE(backends.back()->open(cores.emplace_back(), runtime.steady_now()));
    }
    std::atomic<int> inside{0};
    std::atomic<int> granted{0};
    std::vector<std::jthread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&, i](const std::stop_token& stop) {
        while (!stop.stop_requested()) backends[i]->pump(spi::kNever);
      });
      threads.emplace_back([&, i] {
        for (int round = 0; round < 200; ++round) {
          FakeCore names;
          auto& request = names.request(Op::take, "hot");
          Request* batch = &request;
          backends[i]->submit(0, {&batch, 1});
          backends[i]->collect(0, runtime.steady_now() + 10s);
          if (request.answer != Answer::granted) continue;
          EXPECT_EQ(inside.fetch_add(1), 0);
          ++granted;
          inside.fetch_sub(1);
          auto& back = names.request(Op::give_back, request);
          batch = &back;
          backends[i]->submit(0, {&batch, 1});
          backends[i]->collect(0, runtime.steady_now() + 10s);
          EXPECT_EQ(back.answer, Answer::released);
        }
      });
    }
    threads[1].join();
    threads[3].join();
    for (auto& thread : threads) thread.request_stop();
    for (auto& backend : backends) backend->wake();
    threads.clear();
    EXPECT_GT(granted, 0);
    EXPECT_TRUE(server->records().empty());
    EXPECT_EQ(server->violations(), std::vector<std::string>());
  }
}

}  // namespace
}  // namespace lockr::testing
