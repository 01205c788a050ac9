// The lock table's own promises to an engine beneath it, event by event: hand-off and its bound, late grants, losses,
// and who goes first.
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "core/table_storage.h"
#include "tests/support/manual_runtime.h"

namespace lockr::core {
namespace {

using namespace std::chrono_literals;
using spi::Answer;
using spi::Op;
using spi::Request;
using testing::ManualRuntime;

/// Is asked by the test, not by the table; says only whether somebody else wants a key.
class StillEngine final : public spi::Backend {
 public:
  Status open(spi::Sink&, Time) noexcept override { return {}; }
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t, std::span<Request* const>) noexcept override {}
  bool wanted_elsewhere(std::uint64_t) noexcept override { return wanted; }
  void pump(Time) noexcept override {}
  void wake() noexcept override {}
  Result<std::vector<Holder>> inspect(const Key*, Time) noexcept override { return {}; }
  void close(Time) noexcept override {}
  void forked() noexcept override {}

  bool wanted = false;

 private:
  spi::Traits traits_;
};

class TableTest : public ::testing::Test {
 protected:
  /// One caller: a session, and its waiter while it waits.
  struct Caller {
    SessionCore session{"caller"};
    Waiter waiter;
    bool granted() const { return waiter.sleeper.state() == Sleeper::kGranted; }
    bool nudged() const { return waiter.sleeper.state() == Sleeper::kNudged; }
  };

  Caller& caller() { return callers_.emplace_back(); }
  Entered enter(Caller& who, const Table::Intent& intent = {}) {
    Effects effects;
    const Entered entered = table_.enter(who.session, key_, intent, who.waiter, effects);
    take_note(effects);
    return entered;
  }
  void poll(Caller& who) {
    Effects effects;
    table_.poll(who.waiter, effects);
    take_note(effects);
  }
  void leave(Caller& who) {
    Effects effects;
    table_.leave(who.waiter, errc::timeout, effects);
    take_note(effects);
  }
  void dispose(Caller& who) {
    Effects effects;
    table_.dispose(*who.waiter.grant, effects);
    take_note(effects);
  }
  void mourn() {
    Effects effects;
    table_.mourned(*std::exchange(mourned_, nullptr), effects);
    take_note(effects);
  }
  /// The engine's answer to what was sent last.
  void answer(Answer answer, std::uint64_t token = 0) {
    Request& request = *std::exchange(sent_, nullptr);
    request.answer = answer;
    request.token = token;
    request.seat = {.link = 0, .life = 1};
    Effects effects;
    table_.done(request, effects);
    take_note(effects);
  }
  void take_note(Effects& effects) {
    if (Request* sent = effects.take_send()) {
      EXPECT_EQ(sent_, nullptr) << "an answer is outstanding";
      EXPECT_EQ(sent->next, nullptr);
      sent_ = sent;
    }
    if (!effects.notices) return;
    for (const Notice& notice : *effects.notices) {
      if (notice.event) ++events_;
      if (notice.mourned) mourned_ = notice.mourned;
    }
  }
  std::optional<Op> sent() const { return sent_ ? std::optional(sent_->op) : std::nullopt; }
  static std::uint64_t token(const Caller& who) { return who.waiter.grant->fencing_token().value(); }

  ManualRuntime runtime_;
  StillEngine engine_;
  Table table_{{.runtime = &runtime_, .backend = &engine_, .observed = true, .seats = 1}};
  const Key key_ = Key::parse("key").value();
  std::deque<Caller> callers_;
  Request* sent_ = nullptr;
  int events_ = 0;
  Entry* mourned_ = nullptr;
};

TEST_F(TableTest, asks_the_engine_once_for_all_who_wait) {
  Caller& first = caller();
  Caller& second = caller();
  EXPECT_EQ(enter(first), Entered::queued);
  EXPECT_EQ(sent(), Op::take);
  EXPECT_EQ(enter(second), Entered::queued);
  answer(Answer::granted, 7);
  EXPECT_TRUE(first.granted());
  EXPECT_FALSE(second.granted());
  EXPECT_EQ(token(first), 7 * kTokenPasses);
  dispose(first);
  EXPECT_EQ(sent(), std::nullopt);
  EXPECT_TRUE(second.nudged());
  poll(second);
  EXPECT_TRUE(second.granted());
  EXPECT_EQ(token(second), 7 * kTokenPasses + 1);
  dispose(second);
  EXPECT_EQ(sent(), Op::give_back);
}

TEST_F(TableTest, hands_over_a_bounded_number_of_times_when_it_is_wanted_elsewhere) {
  for (const bool wanted : {true, false}) {
    engine_.wanted = wanted;
    for (int i = 0; i < 41; ++i) enter(callers_.emplace_back());
    answer(Answer::granted, 1);
    const std::size_t begin = callers_.size() - 41;
    int handed_over = 0;
    for (; handed_over < 40; ++handed_over) {
      dispose(callers_[begin + static_cast<std::size_t>(handed_over)]);
      if (sent()) break;
      Caller& next = callers_[begin + static_cast<std::size_t>(handed_over) + 1];
      poll(next);
      ASSERT_TRUE(next.granted());
    }
    EXPECT_EQ(handed_over, wanted ? 31 : 40);  // With the engine's own grant, 32.
    if (!wanted) {
      dispose(callers_.back());
      EXPECT_EQ(sent(), Op::give_back);
      continue;
    }
    EXPECT_EQ(sent(), Op::yield);
    answer(Answer::granted, 2);
    EXPECT_EQ(token(callers_[begin + 32]), 2 * kTokenPasses);
    for (std::size_t i = begin + 32; i < callers_.size(); ++i) {
      if (!callers_[i].granted()) poll(callers_[i]);
      dispose(callers_[i]);
    }
    answer(Answer::released);
  }
}

TEST_F(TableTest, hands_over_for_ten_milliseconds_when_it_is_wanted_elsewhere) {
  engine_.wanted = true;
  for (int i = 0; i < 4; ++i) enter(caller());
  answer(Answer::granted, 1);
  dispose(callers_[0]);
  poll(callers_[1]);
  runtime_.advance(kHandoff - 1ns);
  dispose(callers_[1]);
  poll(callers_[2]);
  EXPECT_TRUE(callers_[2].granted());
  runtime_.advance(1ns);
  dispose(callers_[2]);
  EXPECT_EQ(sent(), Op::yield);
  EXPECT_FALSE(callers_[3].granted());
}

TEST_F(TableTest, gives_a_late_grant_to_the_next_waiter_or_back) {
  Caller& first = caller();
  Caller& second = caller();
  enter(first);
  enter(second);
  leave(first);
  answer(Answer::granted, 1);
  EXPECT_EQ(first.waiter.error->code(), errc::timeout);
  EXPECT_TRUE(second.granted());
  dispose(second);
  answer(Answer::released);

  Caller& third = caller();
  enter(third);
  leave(third);
  answer(Answer::granted, 2);
  EXPECT_EQ(sent(), Op::give_back);
}

TEST_F(TableTest, asks_for_a_lost_key_only_when_its_loss_has_been_announced) {
  Caller& owner = caller();
  Caller& waiter = caller();
  enter(owner);
  answer(Answer::granted, 1);
  enter(waiter);
  Effects effects;
  table_.lost({.link = 0, .life = 1}, nullptr, Error(errc::connection_lost), effects);
  take_note(effects);
  EXPECT_EQ(events_, 1);
  EXPECT_EQ(sent(), std::nullopt);
  EXPECT_EQ(enter(caller(), {.is_try = true}), Entered::queued);
  EXPECT_EQ(sent(), std::nullopt);
  mourn();
  EXPECT_EQ(sent(), Op::take);
  answer(Answer::granted, 2);
  EXPECT_TRUE(waiter.granted());
  dispose(owner);
  EXPECT_TRUE(waiter.granted());
}

TEST_F(TableTest, ignores_the_loss_of_another_connection) {
  enter(caller());
  answer(Answer::granted, 1);
  Effects effects;
  table_.lost({.link = 0, .life = 2}, nullptr, Error(errc::connection_lost), effects);
  take_note(effects);
  EXPECT_EQ(events_, 0);
  dispose(callers_[0]);
  EXPECT_EQ(sent(), Op::give_back);
}

TEST_F(TableTest, lets_nobody_pass_who_has_waited_for_a_millisecond) {
  enter(caller());
  answer(Answer::granted, 1);
  Caller& waiter = caller();
  enter(waiter);
  dispose(callers_[0]);
  // Woken but not there yet: a newcomer is faster.
  Caller& newcomer = caller();
  EXPECT_EQ(enter(newcomer), Entered::granted);
  runtime_.advance(kBarging);
  poll(waiter);
  EXPECT_FALSE(waiter.granted());
  Caller& later = caller();
  EXPECT_EQ(enter(later), Entered::queued);
  dispose(newcomer);
  EXPECT_TRUE(waiter.granted());
  EXPECT_EQ(enter(caller(), {.is_try = true}), Entered::failed);
}

TEST_F(TableTest, wakes_the_next_when_the_one_it_woke_leaves) {
  enter(caller());
  answer(Answer::granted, 1);
  Caller& first = caller();
  Caller& second = caller();
  enter(first);
  enter(second);
  dispose(callers_[0]);
  EXPECT_TRUE(first.nudged());
  leave(first);
  EXPECT_TRUE(second.nudged());
  poll(second);
  EXPECT_TRUE(second.granted());
}

TEST_F(TableTest, does_not_turn_a_shared_lock_of_the_process_exclusive_in_one_step) {
  Caller& reader = caller();
  Caller& writer = caller();
  enter(reader, {.mode = Mode::shared});
  answer(Answer::granted, 1);
  enter(writer);
  EXPECT_EQ(sent(), std::nullopt);
  dispose(reader);
  EXPECT_EQ(sent(), Op::yield);
  EXPECT_EQ(sent_->mode, Mode::exclusive);
  answer(Answer::granted, 2);
  EXPECT_TRUE(writer.granted());
}

TEST_F(TableTest, says_until_when_a_key_may_be_held_whose_fate_is_unknown) {
  Caller& attempt = caller();
  enter(attempt, {.is_try = true});
  sent_->error = Error(errc::connection_lost);
  sent_->ask_again = runtime_.steady_now() + 3s;
  runtime_.suspend(1h);
  answer(Answer::unknown);
  EXPECT_EQ(attempt.waiter.error->may_hold_until(), runtime_.boot_now() + 3s);
  // Nobody asks before.
  Caller& waiter = caller();
  enter(waiter);
  EXPECT_EQ(sent(), std::nullopt);
  runtime_.advance(3s);
  Effects effects;
  table_.run_timers(effects);
  take_note(effects);
  EXPECT_EQ(sent(), Op::take);
}

TEST_F(TableTest, waits_out_a_lost_connection_and_nothing_else) {
  Caller& waiter = caller();
  enter(waiter);
  sent_->error = Error(errc::connection_lost);
  answer(Answer::failed);
  EXPECT_FALSE(waiter.waiter.sleeper.decided());
  EXPECT_EQ(enter(caller(), {.is_try = true}), Entered::failed);
  EXPECT_EQ(callers_[1].waiter.error->code(), errc::connection_lost);
  Effects effects;
  table_.reconnected(effects);
  take_note(effects);
  EXPECT_EQ(events_, 1);
  ASSERT_EQ(sent(), Op::take);
  sent_->error = Error(errc::capacity);
  answer(Answer::failed);
  ASSERT_TRUE(waiter.waiter.error);
  EXPECT_EQ(waiter.waiter.error->code(), errc::capacity);
}

// A destructor's release has nobody who waits for the answer.
TEST_F(TableTest, tells_the_observer_what_a_destructor_could_not_give_back) {
  const auto give_back = [&](Answer given, errc code) {
    Caller& holder = caller();
    enter(holder);
    answer(Answer::granted);
    dispose(holder);
    EXPECT_EQ(sent(), Op::give_back);
    sent_->error = Error(code);
    answer(given);
    return std::exchange(events_, 0);
  };
  EXPECT_EQ(give_back(Answer::released, errc::capacity), 0);
  EXPECT_EQ(give_back(Answer::not_held, errc::not_released), 1);
  EXPECT_EQ(give_back(Answer::failed, errc::capacity), 1);
  EXPECT_EQ(give_back(Answer::failed, errc::connection_lost), 0);
  EXPECT_EQ(give_back(Answer::unknown, errc::capacity), 1);
}

}  // namespace
}  // namespace lockr::core
