#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "backends/file/bells.h"
#include "tests/support/file_party.h"
#include "tests/support/manual_runtime.h"

namespace lockr::file {
namespace {

using namespace std::chrono_literals;
using testing::ManualRuntime;
using testing::TempDirectory;
using Keep = Bells::Keep;

constexpr std::uint64_t kKey = 0x0123'4567'89ab'cdef;
constexpr std::uint64_t kSameBucket = kKey ^ (std::uint64_t{1} << 60);

class FileBells : public ::testing::Test {
 protected:
  struct Process {
    explicit Process(spi::Runtime& runtime) : bells(file, runtime) {}
    StateFile file;
    Bells bells;
  };

  FileBells() : directory_(open_directory(temp_.path(), {}, [](std::string_view) { return false; }).value()) {
    for (int i = 0; i < 4; ++i) {
      processes_.push_back(std::make_unique<Process>(runtime_));
      EXPECT_TRUE(processes_.back()->file.open(directory_, "host", runtime_, runtime_.steady_now() + 1s));
      EXPECT_TRUE(processes_.back()->file.claim_bell());
      EXPECT_EQ(processes_.back()->file.bell(), i);
    }
  }

  Bells& bells(unsigned process) { return processes_[process]->bells; }
  State& state() { return processes_[0]->file.state(); }
  Bucket& bucket() { return state().buckets[bucket_of(kKey)]; }
  /// Who has an unanswered ring.
  std::vector<unsigned> rung() {
    std::vector<unsigned> all;
    for (unsigned i = 0; i < processes_.size(); ++i) {
      if (bells(i).rung(kKey)) all.push_back(i);
    }
    return all;
  }
  using Rung = std::vector<unsigned>;

  TempDirectory temp_;
  Directory directory_;
  ManualRuntime runtime_;
  std::vector<std::unique_ptr<Process>> processes_;
};

TEST_F(FileBells, are_silent_when_nobody_waits) {
  EXPECT_FALSE(bells(0).wanted(kKey));
  EXPECT_FALSE(bells(0).freed(kKey, Keep::for_anyone));
  EXPECT_EQ(rung(), Rung{});
  EXPECT_EQ(bucket().reserved, 0u);
}

TEST_F(FileBells, do_not_ring_for_oneself) {
  bells(0).announce(kKey);
  EXPECT_FALSE(bells(0).wanted(kKey));
  EXPECT_TRUE(bells(1).wanted(kKey));
  bells(0).freed(kKey);
  EXPECT_EQ(rung(), Rung{});
}

TEST_F(FileBells, ring_one_at_a_time_in_turn) {
  for (const unsigned i : {1u, 2u, 3u}) bells(i).announce(kKey);
  EXPECT_FALSE(bells(2).freed(kKey));
  EXPECT_EQ(rung(), Rung{3});
  EXPECT_EQ(state().bells[3].word, 1u);
  EXPECT_EQ(bells(3).answer(kKey), kKey);
  EXPECT_EQ(rung(), Rung{});
  bells(3).freed(kKey);
  EXPECT_EQ(rung(), Rung{1});
}

TEST_F(FileBells, pass_over_one_that_has_not_answered) {
  for (const unsigned i : {1u, 2u}) bells(i).announce(kKey);
  bells(0).freed(kKey);
  bells(0).freed(kKey);
  EXPECT_EQ(rung(), (Rung{1, 2}));
  EXPECT_FALSE(bells(0).suspicious());
  bells(0).freed(kKey);
  EXPECT_EQ(state().bells[1].word, 1u);
  EXPECT_TRUE(bells(0).suspicious());
  EXPECT_FALSE(bells(0).suspicious());
}

TEST_F(FileBells, hand_a_ring_on_when_its_owner_leaves) {
  for (const unsigned i : {1u, 2u}) bells(i).announce(kKey);
  bells(0).freed(kKey);
  EXPECT_EQ(rung(), Rung{1});
  bells(1).leave(kKey, true);
  EXPECT_EQ(rung(), Rung{2});
  EXPECT_EQ(bucket().waiting, 4u);
}

TEST_F(FileBells, keep_the_bit_while_another_wait_is_in_the_bucket) {
  bells(1).announce(kKey);
  bells(1).announce(kSameBucket);
  bells(1).leave(kKey, false);
  EXPECT_TRUE(bells(0).wanted(kKey));
  bells(1).leave(kSameBucket, true);
  EXPECT_FALSE(bells(0).wanted(kKey));
}

TEST_F(FileBells, forget_a_ring_of_an_earlier_wait) {
  bucket().rung = 2;
  bells(1).announce(kKey);
  EXPECT_EQ(rung(), Rung{});
  bells(0).freed(kKey);
  EXPECT_EQ(rung(), Rung{1});
}

TEST_F(FileBells, tell_all_when_the_ring_was_for_another_key_of_the_bucket) {
  for (const unsigned i : {1u, 2u, 3u}) bells(i).announce(kKey);
  bells(0).freed(kSameBucket, Keep::for_anyone);
  EXPECT_EQ(rung(), Rung{1});
  EXPECT_TRUE(bells(2).kept_for_other(kSameBucket));
  EXPECT_EQ(bells(1).answer(kKey), kSameBucket);
  bells(1).pass_on_to_all(kKey);
  EXPECT_EQ(rung(), (Rung{2, 3}));
  EXPECT_EQ(bells(2).answer(kKey), 0u);
  EXPECT_FALSE(bells(2).kept_for_other(kSameBucket));
}

TEST_F(FileBells, let_newcomers_in_while_no_one_has_waited_long) {
  bells(1).announce(kKey);
  EXPECT_FALSE(bells(0).freed(kKey));
  EXPECT_FALSE(bells(2).kept_for_other(kKey));
}

TEST_F(FileBells, keep_what_is_free_for_one_that_has_waited_long) {
  for (const unsigned i : {1u, 2u}) bells(i).announce(kKey);
  bells(2).grow_old(kKey);
  EXPECT_TRUE(bells(0).freed(kKey));
  EXPECT_EQ(rung(), Rung{2});
  EXPECT_TRUE(bells(0).kept_for_other(kKey));
  EXPECT_TRUE(bells(1).kept_for_other(kKey));
  EXPECT_FALSE(bells(2).kept_for_other(kKey));
  EXPECT_FALSE(bells(0).kept_for_other(kSameBucket));
  bells(2).taken(kKey);
  EXPECT_FALSE(bells(0).kept_for_other(kKey));
}

TEST_F(FileBells, keep_for_anyone_when_yielding) {
  bells(1).announce(kKey);
  EXPECT_TRUE(bells(0).freed(kKey, Keep::for_anyone));
  EXPECT_TRUE(bells(0).kept_for_other(kKey));
}

TEST_F(FileBells, keep_nothing_for_one_that_does_not_come) {
  bells(1).announce(kKey);
  bells(1).grow_old(kKey);
  EXPECT_TRUE(bells(0).freed(kKey));
  runtime_.advance(2ms);
  EXPECT_TRUE(bells(0).kept_for_other(kKey));
  runtime_.advance(2ms);
  EXPECT_FALSE(bells(0).kept_for_other(kKey));
  EXPECT_TRUE(bells(0).suspicious());
  // It did not answer: nothing is kept for it again, and yielding does not stop for it.
  EXPECT_FALSE(bells(0).freed(kKey));
  EXPECT_FALSE(bells(0).freed(kKey, Keep::for_anyone));
}

TEST_F(FileBells, give_up_what_is_kept_when_its_owner_leaves) {
  bells(1).announce(kKey);
  bells(1).grow_old(kKey);
  EXPECT_TRUE(bells(0).freed(kKey));
  bells(1).leave(kKey, true);
  EXPECT_FALSE(bells(0).kept_for_other(kKey));
}

TEST_F(FileBells, keep_readers_from_joining_while_a_writer_waits) {
  bells(1).announce(kKey);
  bells(1).keep_while_shared(kKey, 60ms);
  EXPECT_TRUE(bells(0).kept_for_other(kKey));
  bells(2).announce(kKey);
  bells(2).keep_while_shared(kKey, 60ms);
  EXPECT_FALSE(bells(1).kept_for_other(kKey));
  runtime_.advance(50ms);
  bells(1).keep_while_shared(kKey, 60ms);
  runtime_.advance(50ms);
  EXPECT_TRUE(bells(0).kept_for_other(kKey));
  runtime_.advance(20ms);
  EXPECT_FALSE(bells(0).kept_for_other(kKey));
}

TEST_F(FileBells, believe_no_reservation_that_runs_too_long) {
  bucket().reserved = ~std::uint64_t{0} << 34 | 12345;
  const std::uint64_t identity = (~std::uint64_t{0} << 40) | (kKey & 0x3fffff);
  EXPECT_FALSE(bells(0).kept_for_other(identity));
}

TEST_F(FileBells, ring_everyone_at_the_end_of_a_locker) {
  for (const unsigned i : {1u, 2u}) bells(i).announce(kKey);
  bells(3).announce(1);
  bells(0).ring_everyone();
  EXPECT_EQ(rung(), (Rung{1, 2}));
  EXPECT_TRUE(bells(3).rung(1));
  EXPECT_EQ(bells(1).answer(kKey), 0u);
}

}  // namespace
}  // namespace lockr::file
