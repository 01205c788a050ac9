// The command never outlives its lock.
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>

#include "tests/cli/support.h"

namespace lockr::cli_test {
namespace {

// Each process of the command's tree inherits an open file with a shared flock on it, so the next holder can tell
// whether one is left: its exclusive flock is refused then.
constexpr const char* kWitness = "exec 9>>\"$DIR/witness\"; flock -s 9; ";
constexpr const char* kNextHolder = "exec 9>>\"$DIR/witness\"; flock -xn 9 && echo alone || echo overlap";

using Guard = LockrTest;

TEST_F(Guard, keeps_the_lock_until_the_tree_is_gone_when_lockr_is_killed) {
  for (int round = 0; round < 30; ++round) {
    // The tree: a child, one in a session of its own, an orphan; every other time they all ignore SIGTERM.
    const std::string tree =
        std::string(kWitness) + (round % 2 == 0 ? "trap '' TERM HUP INT; " : "") +
        "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &); echo held; wait";
    Process holder(lockr({"run", "--grace", "0.05", "k", "-c", tree}));
    ASSERT_TRUE(holder.prints("held"));
    Process next(lockr({"run", "k", "-c", kNextHolder}));
    ASSERT_TRUE(eventually([&] { return watches(next.pid(), SIGTERM); }));
    holder.signal(SIGKILL);
    EXPECT_EQ(next.wait(), 0);
    ASSERT_EQ(next.output(), "alone\n") << "round " << round;
    EXPECT_EQ(holder.wait(), -SIGKILL);
  }
}

TEST_F(Guard, survives_the_end_of_lockrs_process_group) {
  Process holder(
      lockr({"run", "--grace", "0.5", "k", "-c", std::string(kWitness) + "trap '' TERM; echo held; sleep 1000"}));
  ASSERT_TRUE(holder.prints("held"));
  Process next(lockr({"run", "k", "-c", kNextHolder}));
  ASSERT_TRUE(eventually([&] { return watches(next.pid(), SIGTERM); }));
  EXPECT_EQ(::kill(-holder.pid(), SIGKILL), 0);
  EXPECT_EQ(next.wait(), 0);
  EXPECT_EQ(next.output(), "alone\n");
}

TEST_F(Guard, leaves_a_command_that_is_told_to_end_time_to_do_so) {
  Process holder(lockr({"run", "k", "-c", "trap 'echo bye >\"$DIR/bye\"; exit' TERM; echo held; sleep 1000 & wait"}));
  ASSERT_TRUE(holder.prints("held"));
  holder.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return read("bye") == "bye\n"; }));
}

TEST_F(Guard, has_the_command_ended_by_lockr_when_it_is_killed_itself) {
  const std::string tree = std::string(kWitness) + "trap '' TERM; setsid sleep 1000 & echo held; wait";
  Process holder(lockr({"run", "k", "-c", tree}));
  ASSERT_TRUE(holder.prints("held"));
  Process next(lockr({"run", "k", "-c", kNextHolder}));
  ASSERT_EQ(::kill(guard_of(holder), SIGKILL), 0);
  EXPECT_EQ(holder.wait(), 125);
  EXPECT_NE(holder.errors().find("the guard process died"), std::string::npos) << holder.errors();
  EXPECT_EQ(next.wait(), 0);
  EXPECT_EQ(next.output(), "alone\n");
}

TEST_F(Guard, does_not_keep_lockr_when_someone_stopped_it) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process waiter(lockr({"run", "k", "--", "true"}));
  ASSERT_TRUE(eventually([&] { return watches(waiter.pid(), SIGTERM) && children_of(waiter.pid()).size() == 1; }));
  ASSERT_EQ(::kill(guard_of(waiter), SIGSTOP), 0);
  waiter.signal(SIGTERM);
  EXPECT_EQ(waiter.wait(), 128 + SIGTERM);
}

TEST_F(Guard, ignores_signals_sent_to_it) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const pid_t guard = guard_of(holder);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM, SIGUSR1, SIGTSTP}) {
    ASSERT_EQ(::kill(guard, signal), 0);
  }
  EXPECT_EQ(run({"run", "-n", "k", "--", "true"}).status, 1);
  EXPECT_EQ(state_of(guard), 'S');
  holder.signal(SIGTERM);
  EXPECT_EQ(holder.wait(), 128 + SIGTERM);
}

TEST_F(Guard, ends_a_daemon_that_the_command_leaves_behind) {
  const auto result = run({"run", "k", "-c",
                           "(setsid sh -c 'echo $$ >\"$DIR/daemon\"; exec sleep 1000' >/dev/null 2>&1 &); "
                           "until [ -s \"$DIR/daemon\" ]; do sleep 0.01; done; exit 7"});
  EXPECT_EQ(result.status, 7);
  EXPECT_FALSE(exists(pid_in("daemon")));
}

TEST_F(Guard, ends_a_command_whose_time_is_over_before_the_key_is_free) {
  Process holder(
      lockr({"run", "--at-most", "500ms", "k", "-c",
             std::string(kWitness) + "trap 'sleep 0.3; exit 0' TERM; echo held; while :; do sleep 0.05; done"}));
  ASSERT_TRUE(holder.prints("held"));
  Process next(lockr({"run", "k", "-c", kNextHolder}));
  EXPECT_EQ(holder.wait(), 124);
  EXPECT_NE(holder.errors().find("--at-most is over; ending the command"), std::string::npos) << holder.errors();
  EXPECT_EQ(next.wait(), 0);
  EXPECT_EQ(next.output(), "alone\n");
}

TEST_F(Guard, leaves_a_command_alone_that_ends_in_its_time) {
  for (const char* time : {"1h", "9223372036s", "1e12"}) {
    EXPECT_EQ(run({"run", "--at-most", time, "k", "--", "sh", "-c", "exit 7"}).status, 7) << time;
  }
}

TEST_F(Guard, has_no_part_in_keeping_a_key_that_the_engine_cannot_keep) {
  const auto result = run({"run", "--at-least", "30s", "k", "--", "echo", "ran"});
  EXPECT_EQ(result.status, 125);
  EXPECT_EQ(result.output, "");
  EXPECT_NE(result.errors.find("can't keep a key after its release"), std::string::npos) << result.errors;
}

TEST_F(Guard, kills_what_does_not_end_within_the_grace) {
  const auto result = run({"run", "--grace", "0.05", "k", "-c",
                           "sh -c \"trap '' TERM; echo \\$\\$ >$DIR/stubborn; sleep 1000 & wait\" & "
                           "until [ -s \"$DIR/stubborn\" ]; do sleep 0.01; done; exit 7"});
  EXPECT_EQ(result.status, 7);
  EXPECT_FALSE(exists(pid_in("stubborn")));
}

TEST_F(Guard, ends_a_stopped_command_too) {
  Process holder(lockr({"run", "k", "-c", "echo $$ >\"$DIR/pid\"; exec sleep 1000"}));
  const pid_t command = pid_in("pid");
  ASSERT_EQ(::kill(command, SIGSTOP), 0);
  ASSERT_TRUE(eventually([&] { return state_of(command) == 'T'; }));
  holder.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return !exists(command); }));
  EXPECT_EQ(run({"run", "k", "--", "true"}).status, 0);
}

TEST_F(Guard, does_not_hold_the_commands_output_open) {
  Process holder(lockr({"run", "k", "-c", "echo all; echo $$ >\"$DIR/pid\"; exec >&- sleep 1000"}));
  EXPECT_EQ(holder.output(), "all\n");
  EXPECT_TRUE(exists(pid_in("pid")));
}

TEST_F(Guard, stops_and_continues_with_the_command) {
  Process process(lockr({"run", "k", "-c", "echo $$ >\"$DIR/pid\"; exec sleep 1000"}));
  const pid_t command = pid_in("pid");
  const auto both = [&](char state) {
    return eventually([&] { return state_of(process.pid()) == state && state_of(command) == state; });
  };
  process.signal(SIGTSTP);
  EXPECT_TRUE(both('T'));
  process.signal(SIGCONT);
  EXPECT_TRUE(both('S'));
  ASSERT_EQ(::kill(command, SIGSTOP), 0);
  EXPECT_TRUE(both('T')) << "the command was stopped by someone else";
  ASSERT_EQ(::kill(command, SIGCONT), 0);
  EXPECT_TRUE(both('S')) << "and continued by someone else";
  process.signal(SIGTERM);
  EXPECT_EQ(process.wait(), 128 + SIGTERM);
}

TEST_F(Guard, wakes_a_stopped_lockr_when_the_command_is_killed) {
  Process process(lockr({"run", "k", "-c", "echo $$ >\"$DIR/pid\"; exec sleep 1000"}));
  const pid_t command = pid_in("pid");
  ASSERT_EQ(::kill(command, SIGSTOP), 0);
  ASSERT_TRUE(eventually([&] { return state_of(process.pid()) == 'T'; }));
  ASSERT_EQ(::kill(command, SIGKILL), 0);
  EXPECT_EQ(process.wait(), 128 + SIGKILL);
}

class LostLock : public LockrTest {
 protected:
  // The file backend loses a lock when its file is no longer the one that others open.
  void lose_all_locks() const {
    for (const auto& file : std::filesystem::directory_iterator(path("locks"))) {
      if (file.path().filename().string().starts_with("lock-")) std::filesystem::remove(file.path());
    }
  }
};

TEST_F(LostLock, ends_the_command_with_124) {
  Process holder(lockr({"run", "k", "-c", "trap 'echo told; exit 3' TERM; echo held; sleep 1000 & wait"}));
  ASSERT_TRUE(holder.prints("held"));
  lose_all_locks();
  EXPECT_EQ(holder.wait(), 124);
  EXPECT_EQ(holder.output(), "held\ntold\n");
  EXPECT_NE(holder.errors().find("the lock on k is lost; ending the command"), std::string::npos) << holder.errors();
}

TEST_F(LostLock, kills_a_command_that_does_not_end_within_the_grace) {
  Process holder(lockr({"run", "--grace", "0.05", "k", "-c", "trap '' TERM; echo held; while :; do sleep 1; done"}));
  ASSERT_TRUE(holder.prints("held"));
  lose_all_locks();
  EXPECT_EQ(holder.wait(), 124);
}

TEST_F(LostLock, tells_which_process_cannot_be_ended) {
  Process holder(lockr({"run", "--grace", "0.05", "k", "-c", "echo $$ >\"$DIR/pid\"; exec sleep 1000"}));
  const pid_t command = pid_in("pid");
  // A dead process stays until its tracer has seen it; so this one outlives SIGKILL.
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, command, nullptr, nullptr), 0);
  lose_all_locks();
  EXPECT_TRUE(holder.complains("process " + std::to_string(command) + " can't be ended")) << holder.errors();
  EXPECT_EQ(::waitpid(command, nullptr, __WALL), command);
  EXPECT_EQ(holder.wait(), 124);
}

TEST_F(Guard, is_gone_after_every_way_out) {
  for (const Arguments& command : std::vector<Arguments>{{"true"}, {"/nonexistent"}, {"sh", "-c", "kill -9 $$"}}) {
    Process process(lockr(with({"run", "k", "--"}, command)));
    ASSERT_TRUE(process.wait());
    EXPECT_EQ(::kill(-process.pid(), 0), -1);
    EXPECT_EQ(run({"run", "-n", "k", "--", "true"}).status, 0);
  }
}

}  // namespace
}  // namespace lockr::cli_test
