// What a server may answer that no server of PostgreSQL answers: nothing of it is taken for an answer, and nothing
// makes us go round in circles.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/postgres/link.h"
#include "lockr/postgres.h"
#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"
#include "tests/support/postgres_wire.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using spi::Answer;
using spi::Op;
using testing::FakeCore;
using testing::ManualRuntime;
using testing::PostgresEar;
using testing::PostgresWire;
using testing::PostgresWords;

struct PostgresReplies : ::testing::Test {
  PostgresReplies() {
    site.sink = &core;
    site.reply_timeout = 3s;
    site.down = [](std::uint16_t) {};
    site.slice_over = [](Request&, std::int64_t) {};
    site.notified = [](std::string_view) { return std::vector<std::string>(); };
    connect();
  }
  ~PostgresReplies() override {
    link.close();
    ::close(server);
  }
  void connect() {
    if (server >= 0) ::close(server);
    auto [connection, fd] = wire.connect(sockets);
    server = fd;
    link.attach({.connection = std::move(connection), .bounds = {}, .epoch = 1});
  }
  Request& take() {
    Request& request = core.request(Op::take, "a");
    Request* const batch[] = {&request};
    link.submit(batch);
    return request;
  }
  void answer(const PostgresWords& words) {
    PostgresWire::say(server, words.bytes());
    link.collect(runtime.steady_now());
    link.ready(link.watch(runtime.steady_now()), POLLIN);
  }
  bool is_up() { return link.watch(runtime.steady_now()).connection != nullptr; }

  PostgresWire wire;
  ManualRuntime runtime;
  FakeCore core;
  Sockets sockets;
  Site site{.runtime = runtime};
  Link link{0, false, site};
  int server = -1;
};

TEST_F(PostgresReplies, an_answer_as_it_should_be) {
  Request& request = take();
  answer(PostgresWords().answer({{PostgresWords::flag(true)}}, 1, true).ready());
  EXPECT_EQ(request.answer, Answer::granted);
  EXPECT_TRUE(is_up());
}

TEST_F(PostgresReplies, an_answer_of_another_form_leaves_the_outcome_unknown) {
  const auto flag = PostgresWords::flag(true);
  const std::pair<const char*, PostgresWords> wrong[] = {
      {"nothing", PostgresWords().ready()},
      {"no row", PostgresWords().answer({}, 1, true).ready()},
      {"two rows", PostgresWords().answer({{flag}, {flag}}, 1, true).ready()},
      {"no column", PostgresWords().answer({{}}, 0, true).ready()},
      {"NULL", PostgresWords().answer({{std::nullopt}}, 1, true).ready()},
      {"text", PostgresWords().answer({{"t"}}, 1, false).ready()},
      {"another size", PostgresWords().answer({{"123"}}, 1, true).ready()},
      {"another number", PostgresWords().answer({{PostgresWords::number(7)}}, 1, true).ready()},
      {"no rows at all", PostgresWords().message('2', "").message('n', "").done().ready()},
      {"two results", PostgresWords().answer({{flag}}, 1, true).answer({{flag}}, 1, true).ready()},
      {"a copy", PostgresWords().message('2', "").message('H', std::string_view("\0\0\0", 3)).ready()},
  };
  for (const auto& [what, words] : wrong) {
    Request& request = take();
    answer(words);
    EXPECT_EQ(request.answer, Answer::unknown) << what;
    EXPECT_EQ(request.error.code(), errc::connection_lost) << what;
    EXPECT_FALSE(is_up()) << what;
    connect();
  }
}

TEST_F(PostgresReplies, a_wait_is_granted_by_its_last_statement_alone) {
  Request& granted = core.request(Op::take, "a");
  ASSERT_TRUE(link.start_wait(granted, 750ms));
  answer(PostgresWords().answer({{"750ms"}}, 1, true).answer({{""}}, 1, true).answer({{""}}, 1, true).ready());
  EXPECT_EQ(granted.answer, Answer::granted);
  connect();
  const std::pair<const char*, PostgresWords> wrong[] = {
      {"nothing", PostgresWords().ready()},
      {"two of three", PostgresWords().answer({{"750ms"}}, 1, true).answer({{""}}, 1, true).ready()},
      {"no row", PostgresWords().answer({{""}}, 1, true).answer({{""}}, 1, true).answer({}, 1, true).ready()},
  };
  for (const auto& [what, words] : wrong) {
    Request& request = core.request(Op::take, "a");
    ASSERT_TRUE(link.start_wait(request, 750ms));
    answer(words);
    EXPECT_EQ(request.answer, Answer::unknown) << what;
    EXPECT_FALSE(is_up()) << what;
    connect();
  }
}

TEST_F(PostgresReplies, a_token_that_does_not_fit_is_no_token) {
  site.fencing = true;
  for (const std::int64_t token : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 43}) {
    Request& request = take();
    answer(PostgresWords().answer({{PostgresWords::number(token)}}, 1, true).ready());
    EXPECT_EQ(request.answer, Answer::unknown) << token;
    connect();
  }
}

TEST_F(PostgresReplies, notices_are_not_written_to_standard_error) {
  Request& request = take();
  ::testing::internal::CaptureStderr();
  answer(PostgresWords().error("01000", 'N').answer({{PostgresWords::flag(true)}}, 1, true).ready());
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(request.answer, Answer::granted);
}

TEST_F(PostgresReplies, rows_have_the_columns_that_were_asked_for) {
  for (const std::size_t width : {0u, 1u, 3u}) {
    std::optional<Result<Link::Rows>> told;
    link.ask("SELECT who", 2, [&](Result<Link::Rows> rows) { told = std::move(rows); });
    std::vector<PostgresWords::Value> row(width, "1");
    answer(PostgresWords().message('1', "").answer({row}, width, false).ready());
    ASSERT_TRUE(told) << width;
    EXPECT_FALSE(*told) << width;
    connect();
  }
}

/// A server that says the greeting, then its answers to the first questions, and the last of them to all further ones.
class Answers {
 public:
  Answers(const PostgresWire& wire, std::vector<std::string> answers)
      : thread_([&wire, answers = std::move(answers)] {
          const int fd = wire.accept();
          PostgresEar ear;
          while (!ear.take_startup()) {
            if (!PostgresWire::hear(fd, ear, true)) break;
          }
          PostgresWire::say(fd, PostgresWire::greeting());
          for (std::size_t i = 0; PostgresWire::hear(fd, ear, true); ++i) {
            PostgresWire::say(fd, answers[std::min(i, answers.size() - 1)]);
          }
          ::close(fd);
        }) {}
  ~Answers() { thread_.join(); }

 private:
  std::thread thread_;
};

TEST_F(PostgresReplies, a_session_is_not_made_of_answers_of_another_form) {
  const std::pair<const char*, PostgresWords> wrong[] = {
      {"nothing", PostgresWords().ready()},
      {"one column", PostgresWords().message('1', "").answer({{"f"}}, 1, false).ready()},
      {"a copy", PostgresWords().message('1', "").message('2', "").message('H', std::string_view("\0\0\0", 3)).ready()},
      {"an empty statement", PostgresWords().message('1', "").message('2', "").message('I', "").ready()},
  };
  for (const auto& [what, words] : wrong) {
    const Answers answers(wire, {words.bytes()});
    const auto session = make_session({.dsn = wire.dsn(), .application_name = "test"}, {}, sockets,
                                      {spi::system_runtime(), spi::system_runtime().steady_now() + 10s});
    ASSERT_FALSE(session) << what;
    const bool told = session.error().message().find("no answer to what was asked") != std::string::npos ||
                      session.error().message().find("does not say what it is") != std::string::npos;
    EXPECT_TRUE(told) << what << ": " << session.error().message();
  }
}

TEST_F(PostgresReplies, a_lock_in_a_transaction_is_not_granted_by_something_else) {
  const auto in_transaction = [](PostgresWords words) { return words.message('Z', "T").bytes(); };
  for (const PostgresWords& words : {PostgresWords(), PostgresWords().message('H', std::string_view("\0\0\0", 3)),
                                     PostgresWords().columns(1, false).row({"t"}).done()}) {
    const Answers answers(wire, {in_transaction(PostgresWords().done()), in_transaction(words)});
    PGconn* const connection = PQconnectdb(wire.dsn().c_str());
    PQclear(PQexec(connection, "BEGIN"));
    EXPECT_FALSE(try_lock_in_transaction(connection, Key::parse("a").value()));
    PQfinish(connection);
  }
}

}  // namespace
}  // namespace lockr::postgres
