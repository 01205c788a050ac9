#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "backends/file/waiting.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using spi::Answer;
using spi::Op;
using spi::Request;
using testing::eventually;
using testing::Party;
using testing::TempDirectory;

class FileWaiting : public ::testing::Test {
 protected:
  TempDirectory temp_;
  Party one_{temp_.path()};
  Party two_{temp_.path()};
  Party three_{temp_.path()};
};

TEST_F(FileWaiting, ends_when_the_holder_gives_back) {
  two_.serve();
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  Request& wanted = two_.request("key");
  ASSERT_EQ(two_.submit(wanted), Answer::refused);
  EXPECT_FALSE(one_.backend().wanted_elsewhere(held.identity));
  ASSERT_TRUE(two_.start_wait(wanted));
  EXPECT_TRUE(one_.backend().wanted_elsewhere(held.identity));
  EXPECT_FALSE(two_.answered(wanted));
  one_.give_back(held);
  EXPECT_EQ(two_.answer_of(wanted), Answer::granted);
  EXPECT_GT(wanted.token, held.token);
  EXPECT_FALSE(one_.take("key"));
  EXPECT_TRUE(eventually([&] { return !one_.backend().wanted_elsewhere(held.identity); }));
}

TEST_F(FileWaiting, ends_at_once_when_the_key_became_free) {
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  EXPECT_TRUE(two_.answered(wanted));
  EXPECT_EQ(wanted.answer, Answer::granted);
}

TEST_F(FileWaiting, can_be_stopped) {
  two_.serve();
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  two_.backend().stop_wait(wanted);
  EXPECT_EQ(two_.answer_of(wanted), Answer::refused);
  EXPECT_FALSE(one_.backend().wanted_elsewhere(held.identity));
  two_.backend().stop_wait(wanted);  // Nothing to stop any more.
  one_.give_back(held);
  EXPECT_TRUE(three_.take("key"));
}

TEST_F(FileWaiting, is_listed_while_it_lasts) {
  two_.serve();
  ASSERT_TRUE(one_.take("key"));
  Request& wanted = two_.request("key", Mode::shared, "reader");
  ASSERT_TRUE(two_.start_wait(wanted));
  const auto holders = three_.holders("key");
  ASSERT_EQ(holders.size(), 2u);
  const Holder& waiter = holders[0].waiting ? holders[0] : holders[1];
  EXPECT_TRUE(waiter.waiting);
  EXPECT_EQ(waiter.label, "reader");
  EXPECT_EQ(waiter.mode, Mode::shared);
  two_.backend().stop_wait(wanted);
  EXPECT_EQ(three_.holders("key").size(), 1u);
}

TEST_F(FileWaiting, of_readers_ends_for_all_of_them) {
  std::vector<std::unique_ptr<Party>> readers;
  std::vector<Request*> wanted;
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  for (int i = 0; i < 5; ++i) {
    readers.push_back(std::make_unique<Party>(temp_.path()));
    readers.back()->serve();
    wanted.push_back(&readers.back()->request("key", Mode::shared));
    ASSERT_TRUE(readers.back()->start_wait(*wanted.back()));
  }
  one_.give_back(held);
  for (std::size_t i = 0; i < readers.size(); ++i) EXPECT_EQ(readers[i]->answer_of(*wanted[i]), Answer::granted);
}

TEST_F(FileWaiting, of_a_writer_ends_though_readers_come_and_go) {
  three_.serve();
  Request* held = &one_.request("key", Mode::shared);
  Request* other = &two_.request("key", Mode::shared);
  ASSERT_EQ(one_.submit(*held), Answer::granted);
  Request& writer = three_.request("key");
  ASSERT_TRUE(three_.start_wait(writer));
  // At every moment one of the two holds it, as long as newcomers are let in.
  const auto overlap = [&](Party& coming, Request*& next, Party& going, Request* last) {
    if (coming.submit(*next) != Answer::granted) return false;
    going.give_back(*last);
    return true;
  };
  unsigned turns = 0;
  const bool stood_back = eventually([&] {
    ++turns;
    return !overlap(two_, other, one_, held) || !overlap(one_, held, two_, other);
  });
  EXPECT_TRUE(stood_back) << turns;
  one_.give_back(*held);
  two_.give_back(*other);
  EXPECT_EQ(three_.answer_of(writer), Answer::granted);
}

TEST_F(FileWaiting, makes_newcomers_stand_back_once_it_is_long) {
  two_.serve();
  Request* held = &one_.request("key");
  ASSERT_EQ(one_.submit(*held), Answer::granted);
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  // A holder that gives back and takes again at once would win for ever.
  EXPECT_TRUE(eventually([&] {
    one_.give_back(*held);
    return one_.submit(*held) == Answer::refused || two_.answered(wanted);
  }));
  EXPECT_EQ(two_.answer_of(wanted), Answer::granted);
}

TEST_F(FileWaiting, has_its_turn_when_the_holder_yields) {
  two_.serve();
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  EXPECT_EQ(one_.submit(held, Op::yield), Answer::refused);
  EXPECT_EQ(two_.answer_of(wanted), Answer::granted);
  one_.serve();
  ASSERT_TRUE(one_.start_wait(held));
  two_.give_back(wanted);
  EXPECT_EQ(one_.answer_of(held), Answer::granted);
}

TEST_F(FileWaiting, goes_on_when_it_misses_a_ring) {
  two_.serve();
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  one_.backend().before_fork();
  one_.backend().forked();  // Gives up without ringing, as a process does that dies.
  EXPECT_EQ(two_.answer_of(wanted), Answer::granted);
}

TEST_F(FileWaiting, goes_on_past_a_waiter_that_sleeps) {
  // Two's service thread does not run: it is announced, rung, and never looks.
  Request& held = one_.request("key");
  ASSERT_EQ(one_.submit(held), Answer::granted);
  Request& asleep = two_.request("key");
  ASSERT_TRUE(two_.start_wait(asleep));
  three_.serve();
  Request& awake = three_.request("key");
  ASSERT_TRUE(three_.start_wait(awake));
  one_.give_back(held);
  EXPECT_EQ(three_.answer_of(awake), Answer::granted);
  EXPECT_FALSE(two_.answered(asleep));
}

TEST_F(FileWaiting, serves_many_keys_at_once) {
  two_.serve();
  std::vector<Request*> held, wanted;
  for (int i = 0; i < 200; ++i) {
    held.push_back(&one_.request("key:" + std::to_string(i)));
    ASSERT_EQ(one_.submit(*held.back()), Answer::granted);
    wanted.push_back(&two_.request("key:" + std::to_string(i)));
    ASSERT_TRUE(two_.start_wait(*wanted.back()));
  }
  for (Request* request : held) one_.give_back(*request);
  for (Request* request : wanted) EXPECT_EQ(two_.answer_of(*request), Answer::granted);
}

TEST_F(FileWaiting, is_refused_when_every_bell_is_taken_and_served_by_polling) {
  ASSERT_TRUE(one_.take("key"));
  std::vector<std::unique_ptr<Party>> waiters;
  for (unsigned i = 0; i < kBells; ++i) {
    waiters.push_back(std::make_unique<Party>(temp_.path()));
    ASSERT_TRUE(waiters.back()->start_wait(waiters.back()->request("key")));
  }
  EXPECT_FALSE(two_.start_wait(two_.request("key")));
  waiters.clear();
}

TEST_F(FileWaiting, ends_at_close_of_the_holder) {
  two_.serve();
  ASSERT_TRUE(one_.take("key"));
  Request& wanted = two_.request("key");
  ASSERT_TRUE(two_.start_wait(wanted));
  one_.close();
  EXPECT_EQ(two_.answer_of(wanted), Answer::granted);
}

TEST_F(FileWaiting, pump_returns_for_wake_and_time) {
  one_.backend().wake();
  one_.backend().pump(spi::kNever);
  one_.backend().pump(spi::system_runtime().steady_now() + std::chrono::milliseconds(2));
  std::thread waker([&] { one_.backend().wake(); });
  one_.backend().pump(spi::kNever);
  waker.join();
}

}  // namespace
}  // namespace lockr::file
