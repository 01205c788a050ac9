// lockr run on a terminal: foreground, job control, messages.
#include <csignal>

#include "tests/cli/support.h"

namespace lockr::cli_test {
namespace {

class Terminal : public LockrTest {
 protected:
  /// A person at an interactive shell with job control.
  Launch interactive() {
    Launch launch = shell("");
    launch.arguments = {"bash", "--norc", "--noprofile", "-i"};
    launch.environment["PS1"] = "ready> ";
    launch.environment["HISTFILE"] = std::nullopt;
    launch.environment["TERM"] = "dumb";
    launch.terminal = &pty_;
    return launch;
  }
  Launch on_terminal(Arguments arguments) {
    Launch launch = lockr(std::move(arguments));
    launch.terminal = &pty_;
    return launch;
  }

  Pty pty_;
};

// Prints "front" if its process group is the terminal's foreground group.
constexpr const char* kWhere =
    "read -r stat </proc/self/stat; set -- $stat; [ $5 = $8 ] && [ $5 = $1 ] && echo in front || echo behind";

TEST_F(Terminal, command_is_in_the_foreground_in_a_group_of_its_own) {
  Process process(on_terminal({"run", "k", "-c", kWhere}));
  EXPECT_TRUE(pty_.expect("in front")) << pty_.screen();
  EXPECT_EQ(process.wait(), 0);
}

TEST_F(Terminal, command_reads_what_is_typed) {
  Process process(on_terminal({"run", "k", "-c", "echo ask; read -r line; echo \"got <$line>\""}));
  ASSERT_TRUE(pty_.expect("ask"));
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>")) << pty_.screen();
  EXPECT_EQ(process.wait(), 0);
}

TEST_F(Terminal, control_c_ends_the_command) {
  Process process(on_terminal({"run", "k", "-c", "echo ready; exec sleep 1000"}));
  ASSERT_TRUE(pty_.expect("ready"));
  pty_.type("\x03");
  EXPECT_EQ(process.wait(), 128 + SIGINT);
}

TEST_F(Terminal, control_c_ends_the_wait) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process process(on_terminal({"run", "k", "--", "true"}));
  ASSERT_TRUE(pty_.expect("waiting for k, held by sh, process " + std::to_string(holder.pid()))) << pty_.screen();
  pty_.type("\x03");
  EXPECT_EQ(process.wait(), 128 + SIGINT);
}

TEST_F(Terminal, control_z_stops_the_job_and_fg_continues_it) {
  Process shell(interactive());
  ASSERT_TRUE(pty_.expect("ready> "));
  write("command", "echo begun; exec cat\n");
  pty_.type("\"$LOCKR\" run k -- sh \"$DIR/command\"\n");
  ASSERT_TRUE(pty_.expect("begun")) << pty_.screen();
  pty_.type("first\n");
  ASSERT_TRUE(pty_.expect("first") && pty_.expect("first")) << pty_.screen();
  pty_.type("\x1a");
  ASSERT_TRUE(pty_.expect("Stopped") && pty_.expect("ready> ")) << pty_.screen();
  EXPECT_EQ(run({"run", "-n", "k", "--", "true"}).status, 1) << "a stopped command keeps its lock";
  pty_.type("fg\n");
  ASSERT_TRUE(pty_.expect("run k")) << pty_.screen();
  pty_.type("second\n");
  ASSERT_TRUE(pty_.expect("second") && pty_.expect("second")) << pty_.screen();
  pty_.type("\x04");
  ASSERT_TRUE(pty_.expect("ready> ")) << pty_.screen();
  pty_.type("echo \"status is $?\"; exit\n");
  EXPECT_TRUE(pty_.expect("status is 0")) << pty_.screen();
  EXPECT_EQ(shell.wait(), 0);
}

TEST_F(Terminal, control_z_stops_the_script_that_lockr_is_part_of) {
  write("script",
        "\"$LOCKR\" run k -- sh -c 'echo begun; read -r line; echo \"got <$line>\"'; echo \"script goes on\"\n");
  Process shell(interactive());
  ASSERT_TRUE(pty_.expect("ready> "));
  pty_.type("sh \"$DIR/script\"\n");
  ASSERT_TRUE(pty_.expect("begun")) << pty_.screen();
  pty_.type("\x1a");
  ASSERT_TRUE(pty_.expect("Stopped") && pty_.expect("ready> ")) << pty_.screen();
  pty_.type("fg\n");
  ASSERT_TRUE(pty_.expect("script")) << pty_.screen();
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>") && pty_.expect("script goes on")) << pty_.screen();
}

// The shell may continue the script as soon as that stops, while lockr is still about to.
TEST_F(Terminal, control_z_and_fg_at_once_never_leave_lockr_stopped) {
  write("script", "\"$LOCKR\" run k -- sh -c 'echo begun; while read -r line; do echo \"got <$line>\"; done'; true\n");
  Process shell(interactive());
  ASSERT_TRUE(pty_.expect("ready> "));
  pty_.type("sh \"$DIR/script\"\n");
  ASSERT_TRUE(pty_.expect("begun")) << pty_.screen();
  for (int round = 0; round < 50; ++round) {
    const std::string line = "line " + std::to_string(round);
    pty_.type("\x1a");
    ASSERT_TRUE(pty_.expect("Stopped") && pty_.expect("ready> ")) << pty_.screen();
    pty_.type("fg\n");
    ASSERT_TRUE(pty_.expect("script")) << pty_.screen();
    pty_.type(line + '\n');
    ASSERT_TRUE(pty_.expect("got <" + line + ">")) << pty_.screen();
  }
}

TEST_F(Terminal, background_job_that_reads_stops_until_it_is_brought_to_the_front) {
  Process shell(interactive());
  ASSERT_TRUE(pty_.expect("ready> "));
  pty_.type("\"$LOCKR\" run k -c 'read -r line; echo \"got <$line>\"' &\n");
  ASSERT_TRUE(pty_.expect("ready> "));
  ASSERT_TRUE(eventually([&] {
    pty_.type("jobs\n");
    return pty_.expect("ready> ") && pty_.screen().find("Stopped") != std::string::npos;
  })) << pty_.screen();
  pty_.type("fg\n");
  ASSERT_TRUE(pty_.expect("read -r")) << pty_.screen();
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>")) << pty_.screen();
}

TEST_F(Terminal, stays_with_the_pager_in_a_pipeline_until_the_command_asks_for_it) {
  Process shell(interactive());
  ASSERT_TRUE(pty_.expect("ready> "));
  const std::string reads = "echo ask >/dev/tty; read -r line </dev/tty; echo \"got <$line>\"";
  write("command", std::string(kWhere) + "\n" + reads + "\n");
  pty_.type("\"$LOCKR\" run k -- sh \"$DIR/command\" | cat\n");
  ASSERT_TRUE(pty_.expect("ask")) << pty_.screen();
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>")) << pty_.screen();
  EXPECT_NE(pty_.screen().find("behind"), std::string::npos) << pty_.screen();
  EXPECT_TRUE(pty_.expect("ready> ")) << pty_.screen();
}

TEST_F(Terminal, control_z_without_a_shell_above_stops_nothing) {
  Process process(on_terminal({"run", "k", "-c", "echo ready; read -r line; echo \"got <$line>\""}));
  ASSERT_TRUE(pty_.expect("ready"));
  pty_.type("\x1a");
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>")) << pty_.screen();
  EXPECT_EQ(process.wait(), 0);
}

TEST_F(Terminal, gets_its_echo_back_when_the_command_dies) {
  Process shell(on_terminal({"run", "k", "-c", "stty -echo; echo ready; kill -KILL $$"}));
  ASSERT_TRUE(pty_.expect("ready"));
  EXPECT_EQ(shell.wait(), 128 + SIGKILL);
  EXPECT_TRUE(pty_.echoes());
}

TEST_F(Terminal, foreground_returns_to_a_script_after_the_command) {
  Launch launch = shell("\"$LOCKR\" run k -- true; read -r line; echo \"got <$line>\"");
  launch.terminal = &pty_;
  Process process(launch);
  pty_.type("hello\n");
  EXPECT_TRUE(pty_.expect("got <hello>")) << pty_.screen();
  EXPECT_EQ(process.wait(), 0);
}

TEST_F(Terminal, a_refusal_names_the_holder) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process process(on_terminal({"run", "-n", "k", "--", "true"}));
  EXPECT_TRUE(pty_.expect("not acquired: k, held by sh, process " + std::to_string(holder.pid()))) << pty_.screen();
  EXPECT_EQ(process.wait(), 1);
}

}  // namespace
}  // namespace lockr::cli_test
