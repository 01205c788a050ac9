// lockr run as a user meets it: statuses, options, environment, signals.
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "tests/cli/support.h"

namespace lockr::cli_test {
namespace {

using LockrRun = LockrTest;

TEST_F(LockrRun, exits_with_the_status_of_the_command) {
  EXPECT_EQ(run({"run", "k", "--", "true"}).status, 0);
  EXPECT_EQ(run({"run", "k", "--", "sh", "-c", "exit 37"}).status, 37);
}

TEST_F(LockrRun, exits_with_128_plus_the_signal_that_ended_the_command) {
  EXPECT_EQ(run({"run", "k", "--", "sh", "-c", "kill -TERM $$"}).status, 128 + SIGTERM);
  EXPECT_EQ(run({"run", "k", "--", "sh", "-c", "kill -KILL $$"}).status, 128 + SIGKILL);
}

TEST_F(LockrRun, tells_a_missing_command_from_one_that_cannot_be_executed) {
  const auto missing = run({"run", "k", "--", "/nonexistent/program"});
  EXPECT_EQ(missing.status, 127);
  EXPECT_EQ(missing.errors, "lockr: can't run /nonexistent/program: No such file or directory\n");
  write("data", "no program\n");
  const auto denied = run({"run", "k", "--", path("data")});
  EXPECT_EQ(denied.status, 126);
  EXPECT_EQ(denied.errors, "lockr: can't run " + path("data") + ": Permission denied\n");
}

TEST_F(LockrRun, passes_arguments_and_streams_untouched) {
  const auto result = run({"run", "k", "--", "printf", "%s|", "a b", "", "--", "-n", "[x,y]"});
  EXPECT_EQ(result.output, "a b||--|-n|[x,y]|");
  EXPECT_EQ(result.errors, "");
}

TEST_F(LockrRun, runs_a_line_of_shell) {
  EXPECT_EQ(run({"run", "k", "-c", "echo $((6 * 7)); exit 5"}).output, "42\n");
  EXPECT_EQ(run({"run", "-c", "exit 5", "k"}).status, 5);
}

struct Misuse {
  Arguments arguments;
  std::string message;
};

TEST_F(LockrRun, refuses_wrong_usage_with_64) {
  const std::vector<Misuse> misuses = {
      {{"run"}, "no KEY"},
      {{"run", "--", "true"}, "no KEY"},
      {{"run", "k"}, "no command"},
      {{"run", "k", "--"}, "no command"},
      {{"run", "k", "--", ""}, "the command's name is empty"},
      {{"run", "k", "-c", "true", "--", "true"}, "exclude each other"},
      {{"run", "", "--", "true"}, "\"\" is no key"},
      {{"run", "a::b", "--", "true"}, "scope 1"},
      {{"run", "ok", ":a", "--", "true"}, "scope 0"},
      {{"run", std::string(1025, 'k'), "--", "true"}, "1,024"},
      {{"run", "-z", "k", "--", "true"}, "there is no option -z"},
      {{"run", "--nosuch", "k", "--", "true"}, "there is no option --nosuch"},
      {{"run", "-s", "-x", "k", "--", "true"}, "-s and -x exclude each other"},
      {{"run", "-n", "-w", "1", "k", "--", "true"}, "-n and -w exclude each other"},
      {{"run", "-w", "soon", "k", "--", "true"}, "-w takes a number of seconds"},
      {{"run", "-w", "-1", "k", "--", "true"}, "-w takes a number of seconds"},
      {{"run", "-w", "nan", "k", "--", "true"}, "-w takes a number of seconds"},
      {{"run", "-E", "256", "k", "--", "true"}, "-E takes a status from 0 to 255"},
      {{"run", "-E", "1x", "k", "--", "true"}, "-E takes a status from 0 to 255"},
      {{"run", "--grace", "4000", "k", "--", "true"}, "--grace takes a number of seconds"},
      {{"run", "--at-most", "soon", "k", "--", "true"}, "--at-most takes a time above 0, such as 30s or 5m"},
      {{"run", "--at-least", "0", "k", "--", "true"}, "--at-least takes a time above 0"},
      {{"run", "--at-least", "1m", "--at-most", "30s", "k", "--", "true"}, "--at-most is less than --at-least"},
      {{"run", "-s", "--at-least", "1m", "k", "--", "true"}, "--at-least is for keys that are held alone"},
      {{"run", "--config", "f", "--backend", "file:", "k", "--", "true"}, "excludes"},
      {{"run", "k", "--", "true", "-w"}, ""},
  };
  for (const Misuse& misuse : misuses) {
    const auto result = run(misuse.arguments);
    SCOPED_TRACE(::testing::PrintToString(misuse.arguments));
    if (misuse.message.empty()) {
      EXPECT_EQ(result.status, 0);  // Behind -- everything is the command's.
      continue;
    }
    EXPECT_EQ(result.status, 64);
    EXPECT_NE(result.errors.find(misuse.message), std::string::npos) << result.errors;
    EXPECT_NE(result.errors.find("lockr run --help"), std::string::npos) << result.errors;
  }
}

TEST_F(LockrRun, refuses_a_password_on_the_command_line_and_names_the_other_ways) {
  for (const std::string url :
       {"postgresql://app:hunter2@db/app", "redis://:hunter2@cache", "file:?password=hunter2"}) {
    const auto result = run({"run", "--backend", url, "k", "--", "true"});
    EXPECT_EQ(result.status, 64);
    for (const char* way : {"LOCKR_URL", "--config", "LOCKR_CONFIG", "${NAME}", "${file:/path}"}) {
      EXPECT_NE(result.errors.find(way), std::string::npos) << way << " in: " << result.errors;
    }
    EXPECT_EQ(result.errors.find("hunter2"), std::string::npos) << result.errors;
  }
}

TEST_F(LockrRun, exits_with_125_when_the_config_is_wrong) {
  write("broken.json", "{");
  const auto broken = run({"run", "--config", path("broken.json"), "k", "--", "true"});
  EXPECT_EQ(broken.status, 125);
  EXPECT_NE(broken.errors.find("broken.json"), std::string::npos) << broken.errors;
  EXPECT_EQ(run({"run", "--config", path("missing.json"), "k", "--", "true"}).status, 125);
  const auto unknown = run({"run", "--backend", "nosuch:", "k", "--", "true"});
  EXPECT_EQ(unknown.status, 125);
  EXPECT_NE(unknown.errors.find("file"), std::string::npos) << "names the backends there are: " << unknown.errors;
  const auto useless = run({"run", "--backend", "memory:", "k", "--", "true"});
  EXPECT_EQ(useless.status, 125);
  EXPECT_NE(useless.errors.find("other processes"), std::string::npos) << useless.errors;
}

TEST_F(LockrRun, exits_with_125_when_the_engine_refuses) {
  ASSERT_EQ(::symlink("/tmp", path("link").c_str()), 0);
  const auto unsafe = run({"run", "k", "--", "true"}, {{"LOCKR_DIR", path("link")}});
  EXPECT_EQ(unsafe.status, 125);
  EXPECT_NE(unsafe.errors.find("symbolic link"), std::string::npos) << unsafe.errors;
  const auto missing = run({"run", "k", "--", "true"}, {{"LOCKR_DIR", path("no/such/parent")}});
  EXPECT_EQ(missing.status, 125);
  EXPECT_NE(missing.errors.find("no/such"), std::string::npos) << missing.errors;
}

TEST_F(LockrRun, takes_the_config_from_options_then_lockr_config_then_lockr_url) {
  write("a.json", R"({"backend":"file","file":{"directory":")" + path("a") + R"("}})");
  write("b.json", R"({"backend":"file","file":{"directory":")" + path("b") + R"("}})");
  const auto used = [this](const std::string& name) { return ::access(path(name).c_str(), F_OK) == 0; };
  const Environment both = {{"LOCKR_CONFIG", path("b.json")}, {"LOCKR_URL", "file:" + path("c")}};
  EXPECT_EQ(run({"run", "--config", path("a.json"), "k", "--", "true"}, both).status, 0);
  EXPECT_TRUE(used("a") && !used("b") && !used("c"));
  EXPECT_EQ(run({"run", "k", "--", "true"}, both).status, 0);
  EXPECT_TRUE(used("b") && !used("c"));
  const Environment empty_config = {{"LOCKR_CONFIG", ""}, {"LOCKR_URL", "file:" + path("c")}};
  EXPECT_EQ(run({"run", "k", "--", "true"}, empty_config).status, 0);
  EXPECT_TRUE(used("c") && !used("locks"));
  EXPECT_EQ(run({"run", "k", "--", "true"}).status, 0);
  EXPECT_TRUE(used("locks"));
}

TEST_F(LockrRun, tells_the_command_its_keys_and_tokens_and_not_its_config) {
  const std::string show =
      "echo \"$LOCKR_KEY\"; echo \"$LOCKR_FENCING_TOKEN\" | wc -l; echo \"$LOCKR_FENCING_TOKEN\" | grep -c '^[1-9]'; "
      "env | grep -c -e LOCKR_CONFIG -e LOCKR_URL";
  const auto result = run({"run", "tenant:42", "b", "a", "-c", show}, {{"LOCKR_URL", "file:" + path("locks")}});
  EXPECT_EQ(result.output, "tenant:42\nb\na\n3\n3\n0\n");
}

TEST_F(LockrRun, gives_growing_fencing_tokens) {
  const auto token = [this] { return std::stoull(run({"run", "k", "-c", "echo $LOCKR_FENCING_TOKEN"}).output); };
  const auto first = token();
  const auto second = token();
  EXPECT_GT(second, first);
}

TEST_F(LockrRun, tells_the_tokens_of_hundreds_of_keys) {
  Arguments arguments = {"run"};
  for (int i = 0; i < 600; ++i) arguments.push_back("key:" + std::to_string(i));
  const auto result =
      run(with(arguments, {"-c", "echo \"$LOCKR_KEY\" | wc -l; echo \"$LOCKR_FENCING_TOKEN\" | wc -l"}));
  EXPECT_EQ(result.output, "600\n600\n") << result.errors;
}

TEST_F(LockrRun, excludes_other_runs) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const auto refused = run({"run", "-n", "k", "--", "true"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_EQ(refused.errors, "") << "silent where nobody looks, as flock(1)";
  EXPECT_EQ(run({"run", "-w", "0", "k", "--", "true"}).status, 1);
  EXPECT_EQ(run({"run", "-w", "0.05", "k", "--", "true"}).status, 1);
  EXPECT_EQ(run({"run", "-n", "-E", "75", "k", "--", "true"}).status, 75);
  EXPECT_EQ(run({"run", "-w", "0.01", "-E", "0", "k", "--", "false"}).status, 0);
  EXPECT_EQ(run({"run", "-n", "-s", "k", "--", "true"}).status, 1);
  EXPECT_EQ(run({"run", "-n", "free", "k", "--", "true"}).status, 1);
  EXPECT_EQ(run({"run", "-n", "free", "--", "true"}).status, 0);
}

TEST_F(LockrRun, takes_each_spelling_of_flock) {
  Process reader(lockr(with({"run", "--shared", "k"}, kHold)));
  ASSERT_TRUE(reader.prints("held"));
  for (const char* alone : {"-x", "-e", "--exclusive"}) {
    for (const char* at_once : {"-n", "--nb", "--nonblock"}) {
      EXPECT_EQ(run({"run", alone, at_once, "k", "--", "true"}).status, 1) << alone << " " << at_once;
    }
  }
  for (const Arguments& wait : std::vector<Arguments>{{"-w", "0.01"},
                                                      {"-w0.01"},
                                                      {"--wait", "0.01"},
                                                      {"--wait=0.01"},
                                                      {"--timeout", "0.01"},
                                                      {"--timeout=0.01"}}) {
    const auto refused = run(with(with({"run"}, wait), {"--conflict-exit-code", "75", "k", "--command", "exit 3"}));
    EXPECT_EQ(refused.status, 75) << wait.front();
  }
  EXPECT_EQ(run({"run", "-ns", "k", "--command", "exit 3"}).status, 3);
}

TEST_F(LockrRun, says_who_holds_the_key_when_asked_to_be_verbose) {
  Process holder(lockr(with({"run", "--label", "nightly job", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const auto refused = run({"run", "-n", "--verbose", "k", "--", "true"});
  EXPECT_NE(refused.errors.find("not acquired: k, held by nightly job, process " + std::to_string(holder.pid())),
            std::string::npos)
      << refused.errors;
}

TEST_F(LockrRun, shares_with_other_readers_only) {
  Process reader(lockr(with({"run", "-s", "k"}, kHold)));
  ASSERT_TRUE(reader.prints("held"));
  EXPECT_EQ(run({"run", "-n", "-s", "k", "--", "true"}).status, 0);
  EXPECT_EQ(run({"run", "-n", "k", "--", "true"}).status, 1);
}

TEST_F(LockrRun, waits_until_the_holder_is_done) {
  Process holder(
      lockr({"run", "k", "-c", "echo held; until [ -e \"$DIR/go\" ]; do sleep 0.01; done; echo one >>\"$DIR/log\""}));
  ASSERT_TRUE(holder.prints("held"));
  Process waiter(lockr({"run", "k", "-c", "echo two >>\"$DIR/log\""}));
  ASSERT_TRUE(eventually([&] { return children_of(waiter.pid()).size() == 1; }));
  write("go", "");
  EXPECT_EQ(waiter.wait(), 0);
  EXPECT_EQ(holder.wait(), 0);
  EXPECT_EQ(read("log"), "one\ntwo\n");
}

class RunSignal : public LockrTest, public ::testing::WithParamInterface<int> {};

TEST_P(RunSignal, ends_a_lockr_that_waits) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process waiter(lockr({"run", "k", "-c", "touch \"$DIR/ran\""}));
  ASSERT_TRUE(eventually([&] { return watches(waiter.pid(), GetParam()); }));
  waiter.signal(GetParam());
  EXPECT_EQ(waiter.wait(), 128 + GetParam());
  holder.signal(SIGTERM);
  EXPECT_EQ(holder.wait(), 128 + SIGTERM);
  EXPECT_EQ(run({"run", "-n", "k", "--", "true"}).status, 0) << "the waiter left nothing behind";
  EXPECT_NE(::access(path("ran").c_str(), F_OK), 0);
}

TEST_P(RunSignal, is_passed_on_to_the_command) {
  const std::string number = std::to_string(GetParam());
  Process process(lockr({"run", "k", "-c", "trap 'echo got; exit 42' " + number + "; echo ready; sleep 1000 & wait"}));
  ASSERT_TRUE(process.prints("ready"));
  process.signal(GetParam());
  EXPECT_EQ(process.wait(), 42);
  EXPECT_EQ(process.output(), "ready\ngot\n");
}

INSTANTIATE_TEST_SUITE_P(each, RunSignal, ::testing::Values(SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2),
                         [](const auto& instance) { return std::string(sigabbrev_np(instance.param)); });

TEST_F(LockrRun, passes_on_a_change_of_window_size) {
  Process process(lockr({"run", "k", "-c", "trap 'echo got; exit 42' WINCH; echo ready; sleep 1000 & wait"}));
  ASSERT_TRUE(process.prints("ready"));
  process.signal(SIGWINCH);
  EXPECT_EQ(process.wait(), 42);
}

TEST_F(LockrRun, leaves_ignored_signals_ignored) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Launch launch = lockr({"run", "k", "--", "grep", "SigIgn", "/proc/self/status"});
  launch.ignored = {SIGHUP};
  Process waiter(launch);
  ASSERT_TRUE(eventually([&] { return watches(waiter.pid(), SIGTERM); }));
  waiter.signal(SIGHUP);
  holder.signal(SIGTERM);
  EXPECT_EQ(waiter.wait(), 0);
  EXPECT_EQ(waiter.output(), "SigIgn:\t0000000000000001\n");
}

TEST_F(LockrRun, gives_the_command_the_signal_mask_lockr_started_with) {
  const auto result = run({"run", "k", "--", "grep", "SigBlk", "/proc/self/status"});
  EXPECT_EQ(result.output, "SigBlk:\t0000000000000000\n");
}

TEST_F(LockrRun, says_what_happens_when_asked_to_be_verbose) {
  const auto result = run({"run", "--verbose", "k", "--", "true"});
  EXPECT_EQ(result.status, 0);
  for (const char* part : {"using the file backend", "acquired after", "the command is process", "status 0"}) {
    EXPECT_NE(result.errors.find(part), std::string::npos) << part << " in: " << result.errors;
  }
}

TEST_F(LockrRun, leaves_the_command_no_descriptor_of_its_own) {
  const auto result = run({"run", "k", "-c", "ls /proc/self/fd | wc -l"});
  EXPECT_EQ(result.output, "4\n") << "three streams, and the one ls reads the directory with";
}

TEST_F(LockrRun, fails_cleanly_without_descriptors) {
  const auto result = outcome(shell("ulimit -n 24; exec \"$LOCKR\" run -n $(seq 1000) -- touch \"$DIR/ran\""));
  EXPECT_EQ(result.status, 125);
  EXPECT_NE(result.errors.find("no descriptors left"), std::string::npos) << result.errors;
  EXPECT_NE(::access(path("ran").c_str(), F_OK), 0);
}

TEST_F(LockrRun, runs_nothing_when_the_guard_cannot_keep_the_lock) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process waiter(lockr({"run", "k", "--", "touch", path("ran")}));
  ASSERT_TRUE(eventually([&] { return children_of(waiter.pid()).size() == 1; }));
  const rlimit none{3, 3};
  ASSERT_EQ(::prlimit(guard_of(waiter), RLIMIT_NOFILE, &none, nullptr), 0);
  holder.signal(SIGTERM);
  EXPECT_EQ(waiter.wait(), 125);
  EXPECT_NE(waiter.errors().find("can't keep the locks: Too many open files"), std::string::npos) << waiter.errors();
  EXPECT_NE(::access(path("ran").c_str(), F_OK), 0);
}

TEST_F(LockrRun, works_with_its_standard_streams_closed) {
  EXPECT_EQ(outcome(shell("exec \"$LOCKR\" run k -- sh -c 'exit 7' <&- >&- 2>&-")).status, 7);
}

}  // namespace
}  // namespace lockr::cli_test
