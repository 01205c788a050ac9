// The end of a wait races its grant: what was not granted is not held, on the connection that waited least of all. The
// slices are a thousandth of what they are in use, so that the two meet often.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backends/postgres/connection.h"
#include "backends/postgres/handshake.h"
#include "backends/postgres/link.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using spi::Answer;
using testing::bigint;
using testing::PostgresServer;
using testing::Psql;

/// Hears answers while the link is received from, on the same thread.
class Ears final : public spi::Sink {
 public:
  void done(spi::Request&) noexcept override { answered = true; }
  void hint(std::uint64_t) noexcept override {}
  void alive(spi::Seat, spi::Time) noexcept override {}
  void lost(spi::Seat, const Key*, const Error& error) noexcept override { ADD_FAILURE() << error.to_string(); }
  void reconnected() noexcept override {}
  std::vector<Holder> describe() noexcept override { return {}; }

  bool answered = false;
};

class PostgresSlices : public ::testing::Test {
 protected:
  PostgresSlices() {
    site_.sink = &ears_;
    site_.down = [](std::uint16_t) {};
    site_.slice_over = [](spi::Request&, std::int64_t) {};
    const Patience patience{runtime_, runtime_.steady_now() + 20s};
    auto session = make_session({.dsn = server_.dsn(), .application_name = "lockr/slices"}, {}, sockets_, patience);
    if (!session) throw std::runtime_error(session.error().to_string());
    link_.attach(*std::move(session));
  }
  ~PostgresSlices() override { link_.close(); }

  Answer answer_of(spi::Request& request) {
    while (!ears_.answered) link_.collect(runtime_.steady_now() + 1s);
    ears_.answered = false;
    return request.answer;
  }

  /// As the server sees it, by the connection itself.
  std::string held_now() {
    std::string count;
    link_.ask(
        "select count(*) from pg_locks where locktype = 'advisory' and granted and pid = pg_backend_pid()", 1,
        [&](Result<Link::Rows> rows) { count = rows ? rows->front()[0].value_or("") : rows.error().to_string(); });
    while (count.empty()) link_.collect(runtime_.steady_now() + 1s);
    return count;
  }

  void give_back(const Key& key, spi::Seat seat) {
    spi::Request give;
    give.op = spi::Op::give_back;
    give.identity = key.hash();
    give.key = &key;
    give.seat = seat;
    spi::Request* const batch = &give;
    link_.submit({&batch, 1});
    EXPECT_EQ(answer_of(give), Answer::released);
  }

  PostgresServer server_;
  spi::Runtime& runtime_ = spi::system_runtime();
  Ears ears_;
  Sockets sockets_;
  Site site_{.runtime = runtime_, .reply_timeout = 20s};
  Link link_{0, true, site_};
};

TEST_F(PostgresSlices, what_was_not_granted_is_not_held) {
  const Key key = Key::from_scopes({"slices"}).value();
  std::atomic<bool> over{false};
  std::jthread foreigner([&] {
    Psql foreign(server_.dsn());
    std::mt19937 random{7};
    while (!over) {
      foreign.row("select pg_advisory_lock(" + bigint(key) + ")");
      std::this_thread::sleep_for(std::chrono::microseconds(500 + random() % 1000));
      foreign.row("select pg_advisory_unlock(" + bigint(key) + ")");
    }
  });
  int granted = 0;
  int refused = 0;
  int leaks = 0;
  for (int round = 0; round < 5000 && leaks == 0 && (granted < 300 || refused < 300); ++round) {
    spi::Request take;
    take.identity = key.hash();
    take.key = &key;
    if (!link_.start_wait(take, 1ms)) break;
    const Answer answer = answer_of(take);
    if (answer == Answer::refused) ++refused;
    if (answer == Answer::granted) {
      ++granted;
      give_back(key, take.seat);
    }
    EXPECT_TRUE(answer == Answer::granted || answer == Answer::refused) << take.error.to_string();
    if (held_now() != "0") ++leaks;
  }
  over = true;
  link_.close();  // What leaked must not keep the other waiting for ever.
  foreigner.join();
  std::printf("%d granted, %d refused\n", granted, refused);
  EXPECT_EQ(leaks, 0) << "held once too often";
  EXPECT_GE(granted, 20) << "the two did not meet";
  EXPECT_GE(refused, 20) << "the two did not meet";
}

}  // namespace
}  // namespace lockr::postgres
