// A run that proves little is told from one whose machine is slow.
#include "tests/torture/floors.h"

#include <gtest/gtest.h>

namespace lockr::torture {
namespace {

/// What a slow machine came to: little, but something of everything.
Outcome slow_run() {
  Outcome outcome;
  outcome.answers = {
      {"granted", 10}, {"timeout", 90}, {"cancelled", 1}, {"not_acquired", 20}, {"backend_failure", 5'000}};
  outcome.tried = {{"kill", 2}, {"stop", 8}};
  outcome.struck = {{"kill", 1}, {"stop", 1}, {"cancels", 1}};
  outcome.verdict.losses = outcome.verdict.takeovers = 1;
  return outcome;
}

Floors some() { return {{{"kill", 40}, {"cancels", 2'000}, {"losses", 3}, {"takeovers", 1}}}; }

TEST(Floors, a_slow_run_misses_nothing_and_tells_what_it_had_fewer_of) {
  EXPECT_EQ(some().missed(slow_run()), "");
  EXPECT_EQ(some().fewer(slow_run()), "1 cancels of 2000\n1 kill of 40, tried 2 times\n1 losses of 3\n");
  EXPECT_FALSE(some().reached(slow_run()));
}

TEST(Floors, a_run_that_saw_all_that_is_wanted_has_reached_them) {
  Outcome outcome = slow_run();
  outcome.answers["granted"] = 41;
  outcome.struck = {{"kill", 40}, {"stop", 1}, {"cancels", 2'000}};
  outcome.verdict.losses = 3;
  EXPECT_TRUE(some().reached(outcome));
}

TEST(Floors, a_run_that_was_granted_hardly_anything_has_exercised_nothing) {
  Outcome outcome = slow_run();
  outcome.answers["granted"] = 0;
  EXPECT_EQ(some().missed(outcome), "0 of 111 calls granted, while faults struck 2 times\n");
  outcome.answers = {{"granted", 10}, {"timeout", 10'000}};
  EXPECT_EQ(some().missed(outcome), "10 of 10010 calls granted, while faults struck 2 times\n");
  EXPECT_EQ(Floors().missed({}), "0 of 0 calls granted, while faults struck 0 times\n");
}

TEST(Floors, a_run_with_more_faults_than_locks_has_exercised_nothing) {
  Outcome outcome = slow_run();
  outcome.struck["kill"] = outcome.tried["kill"] = 10;
  EXPECT_EQ(some().missed(outcome), "10 of 121 calls granted, while faults struck 11 times\n");
}

TEST(Floors, a_fault_that_was_never_struck_is_missed) {
  Outcome outcome = slow_run();
  outcome.struck.erase("stop");
  EXPECT_EQ(some().missed(outcome), "stop was tried 8 times and struck 0 times\n");
  outcome.tried["stop"] = 0;
  EXPECT_EQ(some().missed(outcome), "stop was tried 0 times and struck 0 times\n");
}

TEST(Floors, a_fault_that_hardly_ever_finds_somebody_is_missed) {
  Outcome outcome = slow_run();
  outcome.tried["stop"] = 100;
  EXPECT_EQ(some().missed(outcome), "stop was tried 100 times and struck 1 time\n");
}

TEST(Floors, a_fault_that_can_not_be_had_is_missed_with_its_reason) {
  Outcome outcome = slow_run();
  outcome.not_possible = {{"freeze", "it is too warm"}};
  EXPECT_EQ(some().missed(outcome), "freeze can't be had here: it is too warm\n");
}

TEST(Floors, what_is_wanted_and_was_never_seen_is_missed) {
  Outcome outcome = slow_run();
  outcome.struck.erase("cancels");
  outcome.verdict.losses = outcome.verdict.takeovers = 0;
  EXPECT_EQ(some().missed(outcome), "no cancels\nno losses\nno takeovers\n");
}

}  // namespace
}  // namespace lockr::torture
