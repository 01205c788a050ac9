// What a server may answer that no server of Redis answers: nothing of it is taken for an answer.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "backends/redis/connection.h"
#include "backends/redis/handshake.h"
#include "backends/redis/lane.h"
#include "backends/redis/waiting.h"
#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"
#include "tests/support/redis_wire.h"

namespace lockr::redis {
namespace {

using namespace std::chrono_literals;
using spi::Op;
using testing::FakeCore;
using testing::ManualRuntime;
using testing::RedisWire;

/// A lane, its connection, and the one that renews.
struct RedisReplies : ::testing::Test {
  RedisReplies() {
    options.margin = options.ttl / 4;
    site.sink = &core;
    site.wake = [] {};
    lane_link.attach(std::make_shared<Connection>(lane_wire.stream(sockets)));
    service_link.attach(std::make_shared<Connection>(service_wire.stream(sockets)));
  }

  Request& ask(Op op, std::string_view key = "a") {
    Request& request = core.request(op, key);
    Request* const batch[] = {&request};
    lane.submit(batch);
    lane_wire.hear();
    return request;
  }
  void answer(std::string_view bytes) {
    lane_wire.say(bytes);
    lane_link.collect(runtime.steady_now());
  }

  ManualRuntime runtime;
  FakeCore core;
  Options options;
  Sockets sockets;
  Names names{"lockr:", runtime};
  Leases leases{runtime};
  Site site{.runtime = runtime, .options = options, .names = names, .leases = leases};
  RedisWire lane_wire, service_wire;
  Link lane_link{runtime, 3s, [] {}};
  Link service_link{runtime, 3s, [] {}};
  Upkeep upkeep{site, service_link};
  Lane lane{0, site, lane_link, upkeep};
  Waiting waiting{site, service_link, upkeep};
};

TEST_F(RedisReplies, a_reply_of_another_form_leaves_the_outcome_unknown) {
  const auto expect_unknown = [&](Mode mode, const char* reply) {
    RedisWire wire;
    lane_link.attach(std::make_shared<Connection>(wire.stream(sockets)));
    Request& request = core.request(Op::take, "a", mode);
    Request* const batch[] = {&request};
    lane.submit(batch);
    wire.say(reply);
    lane_link.collect(runtime.steady_now());
    EXPECT_EQ(request.answer, spi::Answer::unknown) << reply;
    EXPECT_EQ(request.error.code(), errc::connection_lost) << reply;
    EXPECT_FALSE(lane_link.is_up()) << reply;
    // What the server may have stored is given back.
    EXPECT_TRUE(leases.has_orphans()) << reply;
    leases.orphans(100);
  };
  for (const char* reply : {"+OK\r\n", ":1\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "*2\r\n:1\r\n:1\r\n", "*1\r\n*0\r\n",
                            "*1\r\n$-1\r\n", "*1\r\n:9007199254740993\r\n"}) {
    expect_unknown(Mode::shared, reply);
  }
  // A plain command, and the tokens behind it.
  for (const char* reply : {":1\r\n", "+QUEUED\r\n", "$2\r\nOK\r\n", "*1\r\n+OK\r\n", "+OK\r\n+OK\r\n",
                            "+OK\r\n$1\r\n7\r\n", "+OK\r\n$-1\r\n", "$-1\r\n:9007199254740993\r\n"}) {
    expect_unknown(Mode::exclusive, reply);
  }
}

// The counter of a server that forgot it starts at 1: the script, which knows the time, makes it anew. The lock may be
// somebody else's before it does, with a lower token: so it is the script that takes it.
TEST_F(RedisReplies, a_lock_is_taken_anew_where_its_token_is_from_before_the_last_start) {
  site.least_token = 1'000;
  Request& request = core.request(Op::take, "a");
  Request* const batch[] = {&request};
  lane.submit(batch);
  const auto first = lane_wire.hear();
  ASSERT_EQ(first.size(), 2u);
  const std::string value = first[0][2];
  answer("+OK\r\n:1000\r\n");
  EXPECT_EQ(core.answers(request), 0u);
  EXPECT_EQ(leases.size(), 0u);
  const auto asked = lane_wire.hear();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_EQ(testing::script_of(asked[0]), Script::release_one);
  EXPECT_EQ(asked[0][5], value);
  EXPECT_EQ(testing::script_of(asked[1]), Script::take);
  EXPECT_EQ(std::count(asked[1].begin(), asked[1].end(), value), 0);  // What is released late is not the new one.
  runtime.advance(1s);
  EXPECT_EQ(leases.complete_since(), runtime.boot_now() - 1s);  // Its grant is still to come.
  answer(":1\r\n*1\r\n:2000\r\n");
  EXPECT_EQ(request.answer, spi::Answer::granted);
  EXPECT_EQ(request.token, 2'000u);
  EXPECT_EQ(leases.size(), 1u);
}

// Whoever is to receive it may be late itself, on a busy machine or behind a debugger.
TEST_F(RedisReplies, an_answer_that_is_there_is_not_overdue) {
  Request& request = ask(Op::take);
  lane_wire.say("+OK\r\n:1000\r\n");
  runtime.advance(1h);
  lane_link.collect(runtime.steady_now() + 1s);
  EXPECT_TRUE(lane_link.is_up());
  EXPECT_EQ(request.answer, spi::Answer::granted);
  Request& other = ask(Op::take, "b");
  runtime.advance(1h);
  lane_link.collect(runtime.steady_now() + 1s);
  EXPECT_FALSE(lane_link.is_up());
  EXPECT_EQ(other.answer, spi::Answer::unknown);
}

// Tokens are positive: fewer than were asked for are no answer.
TEST_F(RedisReplies, too_few_tokens_for_all_of_many_are_no_answer) {
  Request& one = core.request(Op::take, "a");
  Request& other = core.request(Op::take, "b");
  one.group = other.group = 1;
  Request* const batch[] = {&one, &other};
  lane.submit(batch);
  lane_wire.hear();
  answer(":1\r\n");
  EXPECT_EQ(one.answer, spi::Answer::unknown);
  EXPECT_EQ(other.answer, spi::Answer::unknown);
  EXPECT_FALSE(lane_link.is_up());
}

TEST_F(RedisReplies, a_lock_without_a_token_is_given_back) {
  Request& request = ask(Op::take);
  answer("+OK\r\n-OOM command not allowed\r\n");
  lane_wire.hear();
  answer("-NOPERM this user has no permissions to run the 'get' command\r\n");
  EXPECT_TRUE(leases.has_orphans());  // Until that can be done.
  answer("*1\r\n:0\r\n");
  EXPECT_EQ(request.answer, spi::Answer::refused);
  EXPECT_EQ(leases.size(), 0u);
}

// Of several plain commands each has its own answer.
TEST_F(RedisReplies, a_batch_is_granted_refused_and_failed_one_by_one) {
  Request& granted = core.request(Op::take, "a");
  Request& refused = core.request(Op::take, "b");
  Request& failed = core.request(Op::take, "c");
  Request* const batch[] = {&granted, &refused, &failed};
  lane.submit(batch);
  lane_wire.hear();
  answer("+OK\r\n$-1\r\n-OOM command not allowed\r\n:10\r\n");
  EXPECT_EQ(granted.answer, spi::Answer::granted);
  EXPECT_EQ(granted.token, 8u);
  EXPECT_EQ(failed.answer, spi::Answer::failed);
  EXPECT_EQ(failed.error.code(), errc::capacity);
  // Whose it is, the script tells.
  EXPECT_EQ(core.answers(refused), 0u);
  const auto asked = lane_wire.hear();
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(testing::script_of(asked[0]), Script::take);
  EXPECT_EQ(testing::keys_of(asked[0]), 3u);
  answer("*1\r\n:0\r\n");
  EXPECT_EQ(refused.answer, spi::Answer::refused);
  // It is asked at once the next time.
  ask(Op::take, "b");
  EXPECT_EQ(leases.size(), 1u);
  answer("*1\r\n:11\r\n");
  EXPECT_EQ(leases.size(), 2u);
}

TEST_F(RedisReplies, a_release_is_not_taken_for_done_or_refused) {
  Request& taken = ask(Op::take);
  answer("+OK\r\n:7\r\n");
  ASSERT_EQ(taken.answer, spi::Answer::granted);
  Request& release = core.request(Op::give_back, taken);
  Request* const batch[] = {&release};
  lane.submit(batch);
  answer("+OK\r\n");
  EXPECT_EQ(release.answer, spi::Answer::unknown);
  EXPECT_TRUE(leases.has_orphans());
}

TEST_F(RedisReplies, nothing_is_renewed_by_a_reply_of_another_form) {
  ask(Op::take);
  answer("+OK\r\n:7\r\n");
  for (const char* reply : {"+OK\r\n", "*0\r\n", "*1\r\n$1\r\n1\r\n", "*2\r\n:1700000000000\r\n:2\r\n",
                            "*2\r\n:1700000000000\r\n:0\r\n", "*1\r\n:9223372036854775807\r\n"}) {
    RedisWire wire;
    service_link.attach(std::make_shared<Connection>(wire.stream(sockets)));
    runtime.advance(options.ttl);
    upkeep.run(runtime.steady_now());
    ASSERT_EQ(wire.hear().size(), 1u) << reply;
    wire.say(reply);
    service_link.receive();
    EXPECT_TRUE(core.alives.empty()) << reply;
    EXPECT_TRUE(core.losses.empty()) << reply;
    EXPECT_FALSE(service_link.is_up()) << reply;
  }
}

// The core hears nothing of a loss that is told before the grant.
TEST_F(RedisReplies, a_lock_that_a_renewal_found_gone_is_lost_once_the_core_knows_of_it) {
  Request& first = core.request(Op::take, "a");
  Request& second = core.request(Op::take, "b");
  Request* const batch[] = {&first, &second};
  lane.submit(batch);
  lane_wire.hear();
  std::size_t told_before = 0;
  core.on_done = [&](const Request& request) {
    if (&request == &second) told_before = core.losses.size();
    if (&request != &first) return;
    runtime.advance(options.ttl);
    upkeep.run(runtime.steady_now());
    EXPECT_EQ(service_wire.hear().size(), 1u);
    service_wire.say("*2\r\n:1700000000000\r\n:2\r\n");
    service_link.receive();
  };
  answer("+OK\r\n+OK\r\n:8\r\n");
  EXPECT_EQ(second.answer, spi::Answer::granted);
  EXPECT_EQ(told_before, 1u);
  ASSERT_EQ(core.losses.size(), 2u);
  EXPECT_EQ(core.losses[1].key, "b");
  EXPECT_EQ(leases.size(), 1u);
}

TEST_F(RedisReplies, a_holder_without_an_end_is_looked_for_again_soon) {
  Request& request = core.request(Op::take, "a");
  waiting.start(request);
  service_wire.say("*1\r\n:-9007199254740991\r\n");
  service_link.receive();
  EXPECT_EQ(core.answers(request), 0u);
  EXPECT_LE(waiting.run(runtime.steady_now()) - runtime.steady_now(), 1s);
}

TEST_F(RedisReplies, a_server_gets_no_memory_by_naming_a_size) {
  Request& request = ask(Op::take);
  answer("*2000000000\r\n");
  EXPECT_EQ(request.answer, spi::Answer::unknown);
  EXPECT_FALSE(lane_link.is_up());
}

// ROLE, INFO and TIME, as a server answers them, and then something else instead of one.
TEST_F(RedisReplies, a_greeting_of_another_form_is_an_error) {
  const std::string role = "*1\r\n$6\r\nmaster\r\n";
  const std::string text = "#\r\nrun_id:1\r\nredis_version:7.0.1\r\nmaxmemory:0\r\n";
  const std::string info = "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
  const std::string time = "*2\r\n$10\r\n1700000000\r\n$1\r\n5\r\n";
  const auto greeted_by = [&](const std::string& bytes) {
    RedisWire wire;
    wire.say(bytes);
    auto stream = wire.stream(sockets);
    wire.finish();
    return greet(std::move(stream), options, {}, {runtime, runtime.steady_now() + 1s});
  };
  ASSERT_TRUE(greeted_by(role + info + time + "+OK\r\n"));
  for (const char* wrong : {"*2\r\n:1700000000\r\n:5\r\n", "*2\r\n$-1\r\n$-1\r\n", "*0\r\n", "$-1\r\n",
                            "*2\r\n$20\r\n99999999999999999999\r\n$1\r\n5\r\n", "*2\r\n$1\r\nx\r\n$1\r\n5\r\n"}) {
    EXPECT_FALSE(greeted_by(role + info + wrong + "+OK\r\n")) << wrong;
  }
  EXPECT_FALSE(greeted_by("*1\r\n$-1\r\n" + info + time + "+OK\r\n"));
  EXPECT_FALSE(greeted_by(role + "$-1\r\n" + time + "+OK\r\n"));
}

}  // namespace
}  // namespace lockr::redis
