// who, why, doctor, backends, config check and the program itself.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "tests/cli/support.h"

namespace lockr::cli_test {
namespace {

using Commands = LockrTest;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

TEST_F(Commands, help_explains_each_command) {
  EXPECT_TRUE(contains(run({"--help"}).output, "lockr run backup -- sleep 30"));
  for (const char* command : {"run", "who", "why", "doctor", "backends", "config", "postgres"}) {
    const auto help = run({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_TRUE(contains(help.output, std::string("Usage: lockr ") + command)) << help.output;
    EXPECT_TRUE(contains(run({"--help"}).output, std::string("\n  ") + command));
  }
}

TEST_F(Commands, version_is_printed) {
  for (const Arguments& arguments : std::vector<Arguments>{{"-V"}, {"--version"}, {"run", "-V"}}) {
    const auto result = run(arguments);
    EXPECT_EQ(result.status, 0);
    EXPECT_TRUE(result.output.starts_with("lockr 0.")) << result.output;
  }
}

TEST_F(Commands, wrong_commands_are_refused_with_64) {
  for (const Arguments& arguments : std::vector<Arguments>{{},
                                                           {"nosuch"},
                                                           {"--nosuch"},
                                                           {"who", "a", "b"},
                                                           {"who", "a::b"},
                                                           {"who", "--nosuch"},
                                                           {"why"},
                                                           {"why", "a", "b"},
                                                           {"why", "a::b"},
                                                           {"doctor", "x"},
                                                           {"backends", "x"},
                                                           {"config"},
                                                           {"postgres"},
                                                           {"postgres", "nosuch"},
                                                           {"postgres", "init", "x"},
                                                           {"postgres", "init", "--role", ""},
                                                           {"config", "nosuch"},
                                                           {"config", "schema", "x"},
                                                           {"config", "schema", "--backend", "file:"},
                                                           {"config", "check", "a", "b"},
                                                           {"who", "--backend", ""},
                                                           {"who", "--config", ""},
                                                           {"run", "k", "-c", "echo", "hi"},
                                                           {"who", "--backend", "redis://:pw@h"}}) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    const auto result = run(arguments);
    EXPECT_EQ(result.status, 64);
    EXPECT_TRUE(contains(result.errors, "--help`")) << result.errors;
    EXPECT_EQ(result.output, "");
  }
}

TEST_F(Commands, a_full_disk_behind_standard_output_is_an_error) {
  const auto result = outcome(shell("\"$LOCKR\" backends >/dev/full"));
  EXPECT_EQ(result.status, 125);
  EXPECT_TRUE(contains(result.errors, "standard output")) << result.errors;
}

TEST_F(Commands, who_shows_the_holder) {
  Process holder(lockr(with({"run", "--label", "nightly job", "tenant:42"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const auto result = run({"who"});
  EXPECT_EQ(result.status, 0);
  const std::string pid = std::to_string(holder.pid());
  for (const std::string& part :
       {std::string("KEY"), std::string("LABEL"), std::string("tenant:42"), std::string("exclusive"),
        std::string("held"), host_name(), pid, std::string("nightly job")}) {
    EXPECT_TRUE(contains(result.output, part)) << part << " in: " << result.output;
  }
}

TEST_F(Commands, who_shows_who_waits) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  Process waiter(lockr({"run", "--label", "patient", "k", "--", "true"}));
  const std::string row = "\"state\":\"waiting\"";
  ASSERT_TRUE(eventually([&] { return contains(run({"who", "--json"}).output, row); }));
  const std::string table = run({"who"}).output;
  EXPECT_TRUE(contains(table, "waiting") && contains(table, std::to_string(waiter.pid()))) << table;
  EXPECT_TRUE(contains(table, "  patient\n")) << table;
}

TEST_F(Commands, who_labels_a_holder_with_its_command) {
  Process holder(lockr(with({"run", "k"}, {"--", "/bin/sh", "-c", "echo held; exec sleep 1000"})));
  ASSERT_TRUE(holder.prints("held"));
  EXPECT_TRUE(contains(run({"who"}).output, "  sh\n"));
}

TEST_F(Commands, who_shows_one_key_when_asked_for_it) {
  Process one(lockr(with({"run", "one"}, kHold)));
  Process two(lockr(with({"run", "-s", "two"}, kHold)));
  ASSERT_TRUE(one.prints("held") && two.prints("held"));
  const auto result = run({"who", "two"});
  EXPECT_TRUE(contains(result.output, "two") && contains(result.output, "shared")) << result.output;
  EXPECT_FALSE(contains(result.output, "one")) << result.output;
}

TEST_F(Commands, who_applies_the_namespace_of_the_config_to_its_key) {
  const Environment config = {{"LOCKR_URL", "file:" + path("locks") + "?lockr.namespace=app"}};
  Process holder(lockr(with({"run", "k"}, kHold), config));
  ASSERT_TRUE(holder.prints("held"));
  EXPECT_TRUE(contains(run({"who", "k"}, config).output, "app:k"));
}

TEST_F(Commands, who_prints_json_that_programs_can_read) {
  const std::string raw = "bytes\xff\x1b[31m";
  Process one(lockr(with({"run", "--label", "say \"hi\"\n", "tenant:42"}, kHold)));
  Process two(lockr(with({"run", raw}, kHold)));
  ASSERT_TRUE(one.prints("held") && two.prints("held"));
  const auto checked = outcome(shell(R"(
    "$LOCKR" who --json | /usr/bin/python3 -c '
import json, sys, datetime
rows = {row["key"]: row for row in json.load(sys.stdin)}
row = rows["tenant:42"]
print(row["mode"], row["state"], row["pid"], row["label"], len(row["host"]) > 0, "key_hex" in row)
datetime.datetime.strptime(row["since"], "%Y-%m-%dT%H:%M:%S.%fZ")
other = next(row for row in rows.values() if "key_hex" in row)
print(bytes.fromhex(other["key_hex"]))
')"));
  EXPECT_EQ(checked.output,
            "exclusive held " + std::to_string(one.pid()) + " say \"hi\"\n True False\nb'bytes\\xff\\x1b[31m'\n")
      << checked.errors;
}

TEST_F(Commands, who_lets_no_key_drive_the_terminal) {
  Process holder(lockr(with({"run", "--label", "\x1b]0;title\a", "red\x1b[31m\nroot"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const std::string table = run({"who"}).output;
  EXPECT_TRUE(contains(table, "red\\x1b[31m\\nroot")) << table;
  EXPECT_TRUE(contains(table, "\\x1b]0;title\\x07")) << table;
  EXPECT_FALSE(contains(table, "\x1b")) << table;
}

TEST_F(Commands, who_of_nobody_is_an_empty_list) {
  EXPECT_EQ(run({"who", "--json"}).output, "[]\n");
  EXPECT_EQ(run({"who"}).output, "KEY  MODE  STATE  HOST  PID  SINCE  LABEL\n");
}

TEST_F(Commands, who_no_longer_shows_a_holder_that_was_killed) {
  Process holder(lockr(with({"run", "k"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  holder.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return run({"who", "--json"}).output == "[]\n"; }));
}

TEST_F(Commands, why_says_that_nobody_is_listed) {
  EXPECT_EQ(run({"why", "k"}).output, "k: nobody that the engine lists holds it or waits for it\n");
}

class Why : public LockrTest {
 protected:
  /// A program that holds one key and waits for another as soon as that has so many holders.
  Launch hold_and_wait(const std::string& first, const std::string& second, int holders = 1) const {
    return {.arguments = {std::getenv("LOCKR_HOLD_AND_WAIT"), "file:" + path("locks"), first, second,
                          std::to_string(holders)}};
  }
  /// Waits until somebody waits for the key.
  bool waited_for(const std::string& key) const {
    return eventually([&] { return contains(run({"who", "--json", key}).output, "\"state\":\"waiting\""); });
  }
};

TEST_F(Why, follows_the_chain) {
  Process end(lockr(with({"run", "--label", "end", "b"}, kHold)));
  ASSERT_TRUE(end.prints("held"));
  Process middle(hold_and_wait("a", "b"));
  ASSERT_TRUE(middle.prints("held"));
  Process waiter(lockr({"run", "--label", "patient", "a", "--", "true"}));
  ASSERT_TRUE(waited_for("a") && waited_for("b"));
  const auto process = [](const Process& one) { return ", process " + std::to_string(one.pid()) + " on "; };
  const std::string text = run({"why", "a"}).output;
  EXPECT_TRUE(text.starts_with("a\n  held shared by has a" + process(middle))) << text;
  EXPECT_TRUE(contains(text, "\n    which waits for b\n      held exclusive by end" + process(end))) << text;
  EXPECT_TRUE(contains(text, "\n  waited for, exclusive, by patient" + process(waiter))) << text;
}

TEST_F(Why, tells_programs_the_chain_as_json) {
  Process end(lockr(with({"run", "--label", "end", "b"}, kHold)));
  ASSERT_TRUE(end.prints("held"));
  Process middle(hold_and_wait("a", "b"));
  ASSERT_TRUE(middle.prints("held") && waited_for("b"));
  const auto checked = outcome(shell(R"("$LOCKR" why --json a | /usr/bin/python3 -c '
import json, sys
chain = json.load(sys.stdin)
(holder,) = chain["holders"]
(wait,) = holder["waits_for"]
print(chain["key"], holder["label"], wait["key"], wait["mode"], wait["holders"][0]["label"], chain["waiters"])
')"));
  EXPECT_EQ(checked.output, "a has a b exclusive end []\n") << checked.errors;
}

// Two programs hold each key and wait for the next: each step doubles the number of ways to the end. None waits before
// both hold what it waits for, as a reader that comes late may have to queue behind it.
TEST_F(Why, follows_each_key_once) {
  const std::string keys = "abcdefghi";
  Process end(lockr(with({"run", "--label", "end", keys.substr(keys.size() - 1)}, kHold)));
  ASSERT_TRUE(end.prints("held"));
  std::vector<std::unique_ptr<Process>> all;
  for (std::size_t i = 0; i < 2 * (keys.size() - 1); ++i) {
    const std::size_t next = i / 2 + 1;
    all.push_back(std::make_unique<Process>(
        hold_and_wait(keys.substr(next - 1, 1), keys.substr(next, 1), next + 1 == keys.size() ? 1 : 2)));
    ASSERT_TRUE(all.back()->prints("held"));
  }
  for (std::size_t i = 1; i < keys.size(); ++i) ASSERT_TRUE(waited_for(keys.substr(i, 1)));
  for (const auto& arguments : {std::vector<std::string>{"why", "a"}, {"why", "--json", "a"}}) {
    const std::string text = run(arguments).output;
    EXPECT_TRUE(contains(text, "end")) << text;
    std::size_t owners = 0;
    for (std::size_t at = text.find("has "); at != text.npos; at = text.find("has ", at + 1)) ++owners;
    EXPECT_LE(owners, 4 * keys.size()) << text;
  }
}

TEST_F(Why, calls_a_circle_one) {
  Process one(hold_and_wait("a", "b"));
  Process two(hold_and_wait("b", "a"));
  ASSERT_TRUE(one.prints("held") && two.prints("held"));
  ASSERT_TRUE(waited_for("a") && waited_for("b"));
  const std::string text = run({"why", "a"}).output;
  EXPECT_TRUE(contains(text, "they may wait for each other")) << text;
  const std::string json = run({"why", "--json", "a"}).output;
  EXPECT_TRUE(contains(json, "\"in_a_circle\":true")) << json;
}

TEST_F(Commands, doctor_tells_where_the_locks_are_and_what_is_promised) {
  const auto result = run({"doctor"});
  EXPECT_EQ(result.status, 0) << result.output;
  for (const std::string& part :
       {path("locks"), std::string("file"), std::string("programs of this host"), std::string("takeover"),
        std::string("loss"), std::string("windows         no"), std::string("ok      take a lock"),
        std::string("ok      refuse a second holder"), std::string("ok      release it"),
        std::string("ok      fencing tokens grow"), std::string("ok      list holders")}) {
    EXPECT_TRUE(contains(result.output, part)) << part << " in: " << result.output;
  }
  EXPECT_FALSE(contains(result.output, "FAILED")) << result.output;
}

TEST_F(Commands, doctor_fails_where_the_engine_does) {
  write("file", "in the way");
  const auto blocked = run({"doctor", "--backend", "file:" + path("file")});
  EXPECT_EQ(blocked.status, 125);
  EXPECT_TRUE(contains(blocked.output, "FAILED  open the engine")) << blocked.output;
  write("needs.json", R"({"backend":"file","require":["cross_host"]})");
  const auto lacking = run({"doctor", "--config", path("needs.json")});
  EXPECT_EQ(lacking.status, 125);
  EXPECT_TRUE(contains(lacking.output + lacking.errors, "cross_host")) << lacking.output << lacking.errors;
}

TEST_F(Commands, doctor_says_that_what_is_required_is_there) {
  write("needs.json", R"({"backend":"file","require":["cross_process","fencing"]})");
  const auto result = run({"doctor", "--config", path("needs.json")});
  EXPECT_EQ(result.status, 0);
  EXPECT_TRUE(contains(result.output, "ok      it has what the config requires: fencing")) << result.output;
}

TEST_F(Commands, backends_lists_what_is_built_in) {
  const auto result = run({"backends"});
  EXPECT_EQ(result.status, 0);
  EXPECT_TRUE(contains(result.output, "file")) << result.output;
}

TEST_F(Commands, config_schema_has_a_section_for_each_backend) {
  const auto schema = run({"config", "schema"});
  EXPECT_EQ(schema.status, 0);
  EXPECT_TRUE(contains(schema.output, "\"title\": \"lockr config\"")) << schema.output;
  EXPECT_TRUE(contains(schema.output, "Where the lock files are")) << schema.output;
}

TEST_F(Commands, config_check_touches_no_engine) {
  write("good.json", R"({"backend":"file","file":{"directory":")" + path("untouched") + R"("}})");
  const auto good = run({"config", "check", path("good.json")});
  EXPECT_EQ(good.status, 0);
  EXPECT_EQ(good.output, "good: --config " + path("good.json") + " (backend file)\n");
  EXPECT_NE(::access(path("untouched").c_str(), F_OK), 0);
  write("bad.json", R"({"backend":"file","acquire_timeuot":"5s"})");
  const auto bad = run({"config", "check", path("bad.json")});
  EXPECT_EQ(bad.status, 125);
  EXPECT_TRUE(bad.errors.starts_with("lockr: --config: " + path("bad.json") + ": /acquire_timeuot: ")) << bad.errors;
  EXPECT_TRUE(contains(bad.errors, "acquire_timeout")) << bad.errors;
  const auto missing = run({"config", "check", path("none.json")});
  EXPECT_EQ(missing.errors,
            "lockr: --config " + path("none.json") + ": the file " + path("none.json") + " does not exist (ENOENT)\n");
  write("unknown.json", R"({"backend":"fiel"})");
  const auto unknown = run({"config", "check", path("unknown.json")});
  EXPECT_TRUE(unknown.errors.starts_with("lockr: --config " + path("unknown.json") + ": there is no backend"))
      << unknown.errors;
  EXPECT_EQ(run({"config", "check"}, {{"LOCKR_CONFIG", path("bad.json")}}).status, 125);
  EXPECT_EQ(run({"config", "check"}, {{"LOCKR_CONFIG", path("good.json")}}).status, 0);
}

}  // namespace
}  // namespace lockr::cli_test
