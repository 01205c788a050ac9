// The program over Redis, whose locks are leases.
#include <csignal>

#include "tests/cli/support.h"
#include "tests/support/redis_server.h"

namespace lockr::cli_test {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class RedisCommands : public LockrTest {
 protected:
  RedisCommands() : control_(server_.socket()) {}
  testing::RedisClient& control() { return control_; }
  Environment environment() const { return {{"LOCKR_URL", server_.url("?ttl=5s")}, {"LOCKR_CONFIG", {}}}; }
  Launch over_redis(Arguments arguments) const { return lockr(std::move(arguments), environment()); }

 private:
  testing::RedisServer server_;
  testing::RedisClient control_;
};

TEST_F(RedisCommands, run_holds_and_others_see_who) {
  Process holder(over_redis(with({"run", "door"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  EXPECT_EQ(outcome(over_redis({"run", "-n", "door", "--", "true"})).status, 1);
  Process waiter(over_redis({"run", "-w", "30", "door", "--", "echo", "token"}));
  ASSERT_TRUE(eventually([&] { return control().one({"ZCARD", "lockr:q:door"}) == "1"; }));
  const Outcome who = outcome(over_redis({"who"}));
  EXPECT_TRUE(contains(who.output, std::to_string(holder.pid()))) << who.output;
  EXPECT_TRUE(contains(who.output, std::to_string(waiter.pid()))) << who.output;
  const Outcome why = outcome(over_redis({"why", "door"}));
  EXPECT_TRUE(contains(why.output, "held exclusive by sh, process " + std::to_string(holder.pid()))) << why.output;
  holder.signal(SIGTERM);
  EXPECT_TRUE(waiter.prints("token"));
  EXPECT_EQ(waiter.wait(), 0);
}

TEST_F(RedisCommands, a_job_runs_once_in_its_window) {
  const Arguments job{"run", "-n", "--at-least", "1h", "--at-most", "2h", "nightly", "--", "echo", "ran"};
  EXPECT_EQ(outcome(over_redis(job)).output, "ran\n");
  const Outcome second = outcome(over_redis(job));
  EXPECT_EQ(second.status, 1);
  EXPECT_EQ(second.output, "");
  EXPECT_TRUE(contains(outcome(over_redis({"who", "nightly"})).output, "echo"));
}

TEST_F(RedisCommands, a_command_is_ended_when_its_lease_is_gone) {
  Process holder(over_redis(with({"run", "door"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  control().one({"DEL", "lockr:l:door"});
  EXPECT_EQ(holder.wait(), 124);
}

TEST_F(RedisCommands, a_killed_holder_ends_its_command_before_the_lease_ends) {
  Process holder(over_redis(with({"run", "door"}, kHold)));
  ASSERT_TRUE(holder.prints("held"));
  const pid_t guard = guard_of(holder);
  holder.signal(SIGKILL);
  EXPECT_TRUE(eventually([&] { return !exists(guard) || state_of(guard) == 'Z'; }));
  EXPECT_EQ(control().one({"EXISTS", "lockr:l:door"}), "1") << "the lease ended before the command";
  EXPECT_EQ(outcome(over_redis({"run", "-w", "30", "door", "--", "true"})).status, 0);
}

TEST_F(RedisCommands, doctor_tells_bounds_and_tries_it) {
  const Outcome result = outcome(over_redis({"doctor"}));
  EXPECT_EQ(result.status, 0) << result.output;
  for (const char* part :
       {"Redis 7", "a unix socket", "free after 7 s", "fencing tokens grow", "windows         a key can stay taken"}) {
    EXPECT_TRUE(contains(result.output, part)) << part << " is not in:\n" << result.output;
  }
}

}  // namespace
}  // namespace lockr::cli_test
