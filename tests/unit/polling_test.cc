#include "lockr/spi/polling.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"
#include "tests/support/map_engine.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using spi::Answer;
using spi::Op;
using spi::Request;
using testing::FakeCore;
using testing::ManualRuntime;
using testing::MapBackend;
using testing::MapTable;

constexpr auto kValidity = 900ms;
constexpr auto kBelieved = 810ms;  // Without the margin of a tenth.

class PollingBackend : public ::testing::Test {
 protected:
  struct Process {
    explicit Process(PollingBackend& test) : backend(test.table, test.runtime, kValidity) {}
    FakeCore core;
    MapBackend backend;

    Answer ask(Request& request) {
      Request* one = &request;
      backend.submit(0, {&one, 1});
      EXPECT_TRUE(backend.collect(0, spi::Time{0}));
      EXPECT_EQ(core.answers(request), 1u);
      return request.answer;
    }
    Request& take(std::string_view key) {
      Request& request = core.request(Op::take, key);
      ask(request);
      return request;
    }
    std::vector<Answer> ask_group(spi::Group rule, std::initializer_list<std::string_view> keys) {
      std::vector<Request*> batch;
      for (std::string_view key : keys) {
        Request& request = core.request(Op::take, key);
        request.group = 7;
        request.group_rule = rule;
        batch.push_back(&request);
      }
      backend.submit(0, batch);
      std::vector<Answer> answers;
      for (Request* request : batch) answers.push_back(request->answer);
      return answers;
    }
  };

  void SetUp() override {
    ASSERT_TRUE(one.backend.open(one.core, runtime.steady_now()));
    ASSERT_TRUE(two.backend.open(two.core, runtime.steady_now()));
  }
  std::size_t held() { return table->held(runtime.boot_now()).size(); }
  /// Runs a process's service thread for a while.
  void serve(Process& process, spi::Time span) {
    for (const spi::Time end = runtime.steady_now() + span; runtime.steady_now() < end;) process.backend.pump(end);
  }

  ManualRuntime runtime;
  std::shared_ptr<MapTable> table = std::make_shared<MapTable>();
  Process one{*this};
  Process two{*this};
};

TEST_F(PollingBackend, grants_counting_from_the_send_and_refuses_others) {
  const spi::Time sent = runtime.boot_now();
  const Request& mine = one.take("a");
  EXPECT_EQ(mine.answer, Answer::granted);
  EXPECT_EQ(mine.valid_until, sent + kBelieved);
  EXPECT_GT(mine.token, 0u);

  const Request& theirs = two.take("a");
  EXPECT_EQ(theirs.answer, Answer::refused);
  EXPECT_GE(theirs.ask_again, runtime.steady_now() + 1500us);
  EXPECT_LE(theirs.ask_again, runtime.steady_now() + 2500us);
}

TEST_F(PollingBackend, gives_back_and_counts_tokens_up) {
  Request& first = one.take("a");
  EXPECT_EQ(one.ask(one.core.request(Op::give_back, first)), Answer::released);
  EXPECT_EQ(held(), 0u);
  const Request& second = two.take("a");
  EXPECT_EQ(second.answer, Answer::granted);
  EXPECT_GT(second.token, first.token);
}

TEST_F(PollingBackend, a_yield_gives_back_and_lets_others_look_first) {
  Request& mine = one.take("a");
  Request& yield = one.core.request(Op::yield, mine);
  EXPECT_EQ(one.ask(yield), Answer::refused);
  EXPECT_GT(yield.ask_again, runtime.steady_now());
  EXPECT_EQ(two.take("a").answer, Answer::granted);
}

TEST_F(PollingBackend, takes_all_of_a_group_or_none) {
  EXPECT_EQ(one.ask_group(spi::Group::all, {"a", "b"}), (std::vector{Answer::granted, Answer::granted}));
  EXPECT_EQ(two.ask_group(spi::Group::all, {"c", "b", "d"}),
            (std::vector{Answer::refused, Answer::refused, Answer::refused}));
  EXPECT_EQ(held(), 2u);
}

TEST_F(PollingBackend, takes_one_of_a_group_the_first_that_is_free) {
  one.take("a");
  EXPECT_EQ(two.ask_group(spi::Group::any, {"a", "b", "c"}),
            (std::vector{Answer::refused, Answer::granted, Answer::refused}));
  EXPECT_EQ(held(), 2u);
}

TEST_F(PollingBackend, renews_for_as_long_as_it_holds) {
  const Request& mine = one.take("a");
  serve(one, 10 * kValidity);
  EXPECT_TRUE(one.core.losses.empty());
  ASSERT_FALSE(one.core.alives.empty());
  EXPECT_EQ(one.core.alives.back().seat, mine.seat);
  EXPECT_GT(one.core.alives.back().valid_until, runtime.boot_now() + kBelieved / 2);
  EXPECT_EQ(held(), 1u);

  one.ask(one.core.request(Op::give_back, mine));
  const std::size_t renewals = one.core.alives.size();
  serve(one, 10 * kValidity);
  EXPECT_EQ(one.core.alives.size(), renewals);
}

TEST_F(PollingBackend, announces_what_the_engine_gave_away) {
  one.take("a");
  one.take("b");
  table->with(Key::parse("a").value(), [](MapTable::Row& row) { row.owner = 99; });
  serve(one, kValidity / 2);
  ASSERT_EQ(one.core.losses.size(), 1u);
  EXPECT_EQ(one.core.losses[0].key, "a");
  EXPECT_EQ(one.core.losses[0].code, errc::lock_lost);
  EXPECT_FALSE(one.core.alives.empty());
}

TEST_F(PollingBackend, gives_up_before_the_engine_does_when_it_is_out_of_reach) {
  const Request& mine = one.take("a");
  table->reachable = false;
  while (one.core.losses.empty()) {
    ASSERT_LT(runtime.boot_now(), mine.valid_until + kValidity);
    serve(one, 10ms);
  }
  EXPECT_EQ(held(), 1u);
  EXPECT_EQ(one.core.losses[0].key, "a");
  EXPECT_TRUE(one.core.alives.empty());
}

TEST_F(PollingBackend, loses_what_ran_out_while_the_machine_slept) {
  one.take("a");
  runtime.suspend(kValidity);
  serve(one, kValidity / 2);
  ASSERT_EQ(one.core.losses.size(), 1u);
  EXPECT_TRUE(one.core.alives.empty());
}

TEST_F(PollingBackend, does_not_give_back_at_the_engine_what_was_lost) {
  Request& mine = one.take("a");
  runtime.suspend(kValidity);
  serve(one, kValidity / 2);
  EXPECT_EQ(two.take("a").answer, Answer::granted);
  EXPECT_EQ(one.ask(one.core.request(Op::give_back, mine)), Answer::not_held);
  EXPECT_EQ(held(), 1u);
}

TEST_F(PollingBackend, tells_when_the_engine_is_back) {
  table->reachable = false;
  EXPECT_EQ(one.take("a").answer, Answer::failed);
  EXPECT_EQ(one.core.reconnects, 0);
  table->reachable = true;
  EXPECT_EQ(one.take("a").answer, Answer::granted);
  EXPECT_EQ(one.core.reconnects, 1);
}

// An engine whose answers a test writes.
class OneAnswer final : public spi::PollingBackend {
 public:
  using spi::PollingBackend::PollingBackend;
  Answer next = Answer::granted;
  bool break_connection = false;
  int calls = 0;

 private:
  void take(std::span<Request* const> batch) noexcept override { answer(batch); }
  void give_back(std::span<Request* const> batch) noexcept override { answer(batch); }
  Status renew(std::span<Held>) noexcept override { return {}; }
  void answer(std::span<Request* const> batch) {
    ++calls;
    for (Request* request : batch) request->answer = next;
    if (break_connection) lose_all(Error(errc::connection_lost, "the connection ended"));
  }
};

class PollingAnswers : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(engine.open(core, runtime.steady_now())); }
  Request& ask(Request& request) {
    Request* one = &request;
    engine.submit(0, {&one, 1});
    return request;
  }

  ManualRuntime runtime;
  FakeCore core;
  OneAnswer engine{runtime, {}, {.validity = kValidity}};
};

TEST_F(PollingAnswers, keeps_an_unknown_key_alone_until_the_engine_must_have_dropped_it) {
  engine.next = Answer::unknown;
  const Request& mine = ask(core.request(Op::take, "a"));
  EXPECT_EQ(mine.answer, Answer::unknown);
  EXPECT_EQ(mine.ask_again, runtime.steady_now() + kValidity);
}

TEST_F(PollingAnswers, loses_everything_with_the_connection) {
  const Request& first = ask(core.request(Op::take, "a"));
  ASSERT_EQ(first.answer, Answer::granted);
  engine.break_connection = true;
  const Request& second = ask(core.request(Op::take, "b"));
  EXPECT_EQ(second.answer, Answer::failed);
  EXPECT_EQ(second.error.code(), errc::connection_lost);
  ASSERT_EQ(core.losses.size(), 1u);
  EXPECT_EQ(core.losses[0].key, "");
  EXPECT_EQ(core.losses[0].seat, first.seat);

  engine.break_connection = false;
  const Request& third = ask(core.request(Op::take, "a"));
  EXPECT_EQ(third.answer, Answer::granted);
  EXPECT_NE(third.seat, first.seat);
  EXPECT_EQ(core.reconnects, 1);
}

TEST_F(PollingAnswers, does_not_give_back_under_a_new_connection_what_an_old_one_held) {
  const Request& first = ask(core.request(Op::take, "a"));
  engine.break_connection = true;
  ask(core.request(Op::take, "b"));
  engine.break_connection = false;
  ask(core.request(Op::take, "a"));
  const int calls = engine.calls;
  EXPECT_EQ(ask(core.request(Op::give_back, first)).answer, Answer::not_held);
  EXPECT_EQ(engine.calls, calls);
}

// An engine whose calls throw, after the first request of a batch.
class Throwing final : public spi::PollingBackend {
 public:
  using spi::PollingBackend::PollingBackend;
  bool broken = false;

 private:
  Status connect(spi::Time /*until*/) override { return broken ? throw std::runtime_error("in connect") : Status(); }
  void take(std::span<Request* const> batch) override { answer(batch, Answer::granted); }
  void give_back(std::span<Request* const> batch) override { answer(batch, Answer::released); }
  Status renew(std::span<Held>) override { throw std::runtime_error("in renew"); }
  void disconnect() override { throw std::runtime_error("in disconnect"); }
  void answer(std::span<Request* const> batch, Answer answer) {
    for (Request* request : batch) {
      request->answer = answer;
      if (broken) throw std::runtime_error("in a call");
    }
  }
};

TEST(PollingThrows, in_connect_is_a_failure) {
  ManualRuntime runtime;
  FakeCore core;
  Throwing engine{runtime, {}, {}};
  engine.broken = true;
  const auto opened = engine.open(core, runtime.steady_now());
  EXPECT_TRUE(fails_with(errc::backend_failure, "the backend's connect() threw an exception", opened));
  EXPECT_EQ(opened.error().native(), "in connect");
}

TEST(PollingThrows, what_was_answered_by_then_stands) {
  ManualRuntime runtime;
  FakeCore core;
  Throwing engine{runtime, {}, {.validity = kValidity}};
  ASSERT_TRUE(engine.open(core, runtime.steady_now()));
  engine.broken = true;
  Request* const batch[] = {&core.request(Op::take, "a"), &core.request(Op::take, "b")};
  engine.submit(0, batch);
  EXPECT_EQ(batch[0]->answer, Answer::granted);
  EXPECT_EQ(batch[1]->answer, Answer::unknown);
  EXPECT_EQ(batch[1]->ask_again, runtime.steady_now() + kValidity);
  EXPECT_EQ(batch[1]->error.code(), errc::backend_failure);
  EXPECT_EQ(batch[1]->error.message(), "the backend's take() threw an exception");
  EXPECT_EQ(batch[1]->error.native(), "in a call");

  Request* const back[] = {&core.request(Op::give_back, *batch[0])};
  engine.submit(0, back);
  EXPECT_EQ(back[0]->answer, Answer::released);
  engine.close(runtime.steady_now());
}

TEST(PollingThrows, in_renew_is_a_renewal_that_was_not_made) {
  ManualRuntime runtime;
  FakeCore core;
  Throwing engine{runtime, {}, {.validity = kValidity}};
  ASSERT_TRUE(engine.open(core, runtime.steady_now()));
  Request* const batch[] = {&core.request(Op::take, "a")};
  engine.submit(0, batch);
  while (core.losses.empty()) {
    ASSERT_LT(runtime.boot_now(), batch[0]->valid_until + kValidity);
    runtime.advance(10ms);
    engine.pump(runtime.steady_now());
  }
  EXPECT_TRUE(core.alives.empty());
}

}  // namespace
}  // namespace lockr
