// The lockr program over PostgreSQL.
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "tests/cli/support.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::cli_test {
namespace {

using testing::PostgresServer;
using testing::Psql;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class PostgresProgram : public LockrTest {
 protected:
  static void SetUpTestSuite() { server_ = std::make_unique<PostgresServer>(); }
  static void TearDownTestSuite() { server_.reset(); }
  static PostgresServer& server() { return *server_; }

  /// Makes a database of its own, and a config for it.
  std::string config_of(const std::string& database, const std::string& fields = R"(, "fencing": true)") {
    Psql(server().dsn()).rows("create database " + database);
    write(database + ".json", R"({"backend": "postgres", "postgres": {"lanes": 1, "waiters": 1, "dsn": ")" +
                                  server().dsn("postgres", database) + '"' + fields + "}}");
    return path(database + ".json");
  }

 private:
  static std::unique_ptr<PostgresServer> server_;
};
std::unique_ptr<PostgresServer> PostgresProgram::server_;

TEST_F(PostgresProgram, init_makes_fencing_possible_and_may_run_again) {
  const std::string config = config_of("initialised");
  const auto before = run({"run", "--config", config, "nightly", "--", "true"});
  EXPECT_EQ(before.status, 125);
  EXPECT_TRUE(contains(before.errors, "lockr.fencing_token")) << before.errors;
  EXPECT_TRUE(contains(before.errors, "lockr postgres init")) << before.errors;
  for (int i = 0; i < 2; ++i) {
    const auto done = run({"postgres", "init", "--config", config, "--role", "billing"});
    EXPECT_EQ(done.status, 0) << done.errors;
    EXPECT_TRUE(contains(done.output, "GRANT USAGE ON SCHEMA lockr TO \"billing\";")) << done.output;
    EXPECT_TRUE(contains(done.output, "GRANT USAGE ON SEQUENCE lockr.fencing_token TO \"billing\";")) << done.output;
  }
  const auto after = run({"run", "--config", config, "nightly", "--", "sh", "-c", "echo $LOCKR_FENCING_TOKEN"});
  EXPECT_EQ(after.status, 0) << after.errors;
  EXPECT_GT(std::stoll(after.output), 0);
}

TEST_F(PostgresProgram, what_init_prints_is_sql) {
  const std::string config = config_of("printed");
  const std::string dsn = server().dsn("postgres", "printed");
  Psql(dsn).rows("create role printed_role");
  const auto printed = run({"postgres", "init", "--print", "--role", "printed_role", "--config", "/nonexistent"});
  EXPECT_EQ(printed.status, 0) << printed.errors;
  Psql(dsn).rows(printed.output);
  Psql(dsn).rows(printed.output);
  const auto good = run({"doctor", "--config", config});
  EXPECT_EQ(good.status, 0) << good.output << good.errors;
  const auto after = run({"postgres", "init", "--config", config, "--role", "printed_role"});
  Psql(dsn).rows(after.output);
}

TEST_F(PostgresProgram, init_tells_what_is_wrong) {
  const auto other = run({"postgres", "init", "--backend", "file:" + path("locks")});
  EXPECT_EQ(other.status, 125);
  EXPECT_TRUE(contains(other.errors, "backend \"postgres\"")) << other.errors;
  Psql(server().dsn()).rows("create role weak_one login");
  write("weak.json", R"({"backend": "postgres", "postgres": {"dsn": ")" + server().dsn("weak_one") + "\"}}");
  const auto denied = run({"postgres", "init", "--config", path("weak.json")});
  EXPECT_EQ(denied.status, 125);
  EXPECT_TRUE(contains(denied.errors, "permission denied")) << denied.errors;
  EXPECT_TRUE(contains(denied.errors, "42501")) << denied.errors;
}

TEST_F(PostgresProgram, run_who_why_and_doctor_work_over_it) {
  const std::string config = config_of("worked", "");
  Process holder(lockr(with({"run", "--config", config, "--label", "painter", "tenant:42"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  EXPECT_EQ(run({"run", "-n", "--config", config, "tenant:42", "--", "true"}).status, 1);
  for (const char* command : {"who", "why"}) {
    const auto told = run({command, "--config", config, "tenant:42"});
    EXPECT_EQ(told.status, 0) << told.errors;
    EXPECT_TRUE(contains(told.output, "painter")) << told.output;
    EXPECT_TRUE(contains(told.output, std::to_string(holder.pid()))) << told.output;
  }
  const auto told = run({"run", "--config", config, "free", "-c", "echo ${LOCKR_FENCING_TOKEN-none}"},
                        {{"LOCKR_FENCING_TOKEN", "7"}});
  EXPECT_EQ(told.output, "none\n") << "this engine has none, and another lockr's would be wrong";
  const auto examined = run({"doctor", "--config", config});
  EXPECT_EQ(examined.status, 0) << examined.output;
  EXPECT_TRUE(contains(examined.output, "takeover"));
  EXPECT_TRUE(contains(examined.output, "own connections sessions may have one each")) << examined.output;
  holder.signal(SIGKILL);
  EXPECT_EQ(run({"run", "-w", "20", "--config", config, "tenant:42", "--", "true"}).status, 0);
}

TEST_F(PostgresProgram, why_follows_the_chain_from_a_foreign_client_to_its_end) {
  const std::string config = config_of("chained", "");
  Psql foreign(server().dsn("postgres", "chained") + " application_name=reports");
  foreign.row("select pg_advisory_lock(" + testing::bigint(Key::parse("b").value()) + ")");
  const std::string url = "postgresql://postgres@/chained?host=" + server().directory().path() +
                          "&port=" + std::to_string(server().port()) + "&lanes=1&waiters=1";
  Process middle(Launch{.arguments = {std::getenv("LOCKR_HOLD_AND_WAIT"), url, "a", "b", "1"}});
  ASSERT_TRUE(middle.prints("held"));
  Process waiter(lockr({"run", "--config", config, "--label", "patient", "a", "--", "true"}));
  const auto waited_for = [&](const std::string& key) {
    return contains(run({"who", "--config", config, "--json", key}).output, "\"state\":\"waiting\"");
  };
  ASSERT_TRUE(eventually([&] { return waited_for("a") && waited_for("b"); }));
  const auto process = [](const Process& one) { return ", process " + std::to_string(one.pid()) + " on "; };
  const std::string text = run({"why", "--config", config, "a"}).output;
  EXPECT_TRUE(contains(text, "held shared by has a" + process(middle))) << text;
  EXPECT_TRUE(contains(text, "which waits for b\n      held exclusive by reports")) << text;
  EXPECT_TRUE(contains(text, "waited for, exclusive, by patient" + process(waiter))) << text;
}

TEST_F(PostgresProgram, a_waiter_that_is_killed_leaves_the_queue) {
  const std::string config = config_of("killed", "");
  Psql foreign(server().dsn("postgres", "killed"));
  foreign.row("select pg_advisory_lock(" + testing::bigint(Key::parse("nightly").value()) + ")");
  Process waiter(lockr({"run", "--config", config, "nightly", "--", "true"}));
  ASSERT_TRUE(eventually([] { return server().advisory_locks().size() == 2; }));
  waiter.signal(SIGKILL);
  EXPECT_TRUE(eventually([] { return server().advisory_locks().size() == 1; })) << "while the holder holds on";
}

TEST_F(PostgresProgram, a_stopped_process_keeps_its_key_no_longer_than_session_ttl) {
  const std::string config = config_of("stopped", R"(, "session_ttl": "1s")");
  Process holder(lockr(with({"run", "--config", config, "nightly"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  holder.signal(SIGSTOP);
  EXPECT_EQ(run({"run", "-w", "20", "--config", config, "nightly", "--", "true"}).status, 0);
  holder.signal(SIGCONT);
  EXPECT_EQ(holder.wait(), 124) << "it finds out when it runs on; " << holder.errors();
}

TEST_F(PostgresProgram, the_command_ends_when_its_lock_is_lost) {
  const std::string config = config_of("lost", "");
  Process holder(lockr(with({"run", "--config", config, "nightly"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  server().terminate_clients();
  EXPECT_EQ(holder.wait(), 124) << holder.errors();
}

}  // namespace
}  // namespace lockr::cli_test
