// Locks that belong to a transaction of the caller's own connection, and what makes a database ready for fencing.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/postgres.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::bigint;
using testing::eventually;
using testing::is_error;
using testing::open_postgres;
using testing::PostgresServer;
using testing::Psql;

constexpr auto kPatience = testing::kPostgresPatience;

Key key_of(const std::string& name) { return Key::from_scopes({"transaction", name}).value(); }

class PostgresTransaction : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = std::make_unique<PostgresServer>(); }
  static void TearDownTestSuite() { server_.reset(); }
  void TearDown() override {
    EXPECT_TRUE(eventually([] { return server_->advisory_locks().empty(); }));
  }

  static PostgresServer& server() { return *server_; }
  static bool somebody_waits() {
    return Psql(server_->dsn()).row("select count(*) from pg_locks where locktype = 'advisory' and not granted") != "0";
  }
  static std::string locks() { return std::to_string(server_->advisory_locks().size()); }

 private:
  static std::unique_ptr<PostgresServer> server_;
};
std::unique_ptr<PostgresServer> PostgresTransaction::server_;

/// A connection inside a transaction.
struct InTransaction : Psql {
  explicit InTransaction(const std::string& dsn) : Psql(dsn) { rows("begin"); }
};

TEST_F(PostgresTransaction, ends_with_the_transaction) {
  for (const char* end : {"commit", "rollback"}) {
    InTransaction mine(server().dsn());
    ASSERT_TRUE(lock_in_transaction(mine.get(), key_of("a")));
    ASSERT_TRUE(lock_in_transaction(mine.get(), key_of("a"))) << "counted by the server";
    const auto ours = open_postgres(server().dsn());
    EXPECT_TRUE(is_error(ours->try_lock(key_of("a")), errc::not_acquired));
    mine.rows(end);
    EXPECT_TRUE(ours->try_lock(key_of("a")));
  }
}

LockerConfig config_of(const std::string& dsn, const std::string& top) {
  return LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"}" + top + "}").value();
}

TEST_F(PostgresTransaction, locks_what_the_lockers_of_the_config_lock) {
  const LockerConfig config = config_of(server().dsn(), R"(, "namespace": "app")");
  const auto locker = open(config);
  ASSERT_TRUE(locker) << locker.error().to_string();
  {
    const auto held = (*locker)->lock(key_of("a"));
    ASSERT_TRUE(held);
    InTransaction mine(server().dsn());
    const auto refused = try_lock_in_transaction(mine.get(), config, key_of("a"));
    ASSERT_TRUE(is_error(refused, errc::not_acquired));
    EXPECT_EQ(refused.error().key(), held->key().string());
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), config, key_of("a")), errc::deadlock));
    EXPECT_TRUE(try_lock_in_transaction(mine.get(), config, key_of("b")));
    EXPECT_TRUE(is_error((*locker)->try_lock(key_of("b")), errc::not_acquired));
  }
  InTransaction mine(server().dsn());
  const auto elsewhere = LockerConfig::from_json(R"({"backend": "memory"})");
  ASSERT_TRUE(elsewhere);
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), *elsewhere, key_of("a")), errc::invalid_config));
}

TEST_F(PostgresTransaction, waits_no_longer_than_the_connection_or_the_config_say) {
  InTransaction holder(server().dsn());
  ASSERT_TRUE(lock_in_transaction(holder.get(), key_of("a")));
  const LockerConfig patient = config_of(server().dsn(), R"(, "acquire_timeout": "forever")");
  const LockerConfig brief = config_of(server().dsn(), R"(, "acquire_timeout": "100ms")");
  Psql mine(server().dsn());
  for (const char* timeout : {"'50ms'", "'1s'"}) {
    mine.rows(std::string("set lock_timeout = ") + timeout);
    mine.rows("begin");
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), patient, key_of("a")), errc::timeout));
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("a")), errc::timeout));
    mine.rows("rollback");
  }
  for (const char* timeout : {"0", "'2min'", "'1h'", "'20d'"}) {
    mine.rows(std::string("set lock_timeout = ") + timeout);
    mine.rows("begin");
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), brief, key_of("a")), errc::timeout));
    const std::string before = mine.row("show lock_timeout");
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("a"), {.timeout = 10ms}), errc::timeout));
    EXPECT_EQ(mine.row("show lock_timeout"), before);
    mine.rows("rollback");
  }
  // What is said counts, whatever the connection has.
  mine.rows("set lock_timeout = '1ms'");
  mine.rows("begin");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), brief, key_of("a"), {.timeout = 300ms}), errc::timeout));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 300ms);
}

TEST_F(PostgresTransaction, works_as_the_guide_shows) {
  Psql mine(server().dsn());
  mine.rows("create table invoice (tenant int, paid bool)");
  PGconn* const connection = mine.get();
  // [transaction]
  PQclear(PQexec(connection, "BEGIN"));
  const auto key = lockr::Key::from_scopes({"tenant", "42", "invoice"}).value();
  if (auto locked = lockr::postgres::lock_in_transaction(connection, key, {.timeout = 5s})) {
    PQclear(PQexec(connection, "UPDATE invoice SET paid = true WHERE tenant = 42"));
    PQclear(PQexec(connection, "COMMIT"));  // This ends the lock.
  } else {
    PQclear(PQexec(connection, "ROLLBACK"));  // locked.error() tells why.
  }
  // [transaction]
  EXPECT_EQ(PQtransactionStatus(connection), PQTRANS_IDLE);
  EXPECT_EQ(locks(), "0");
}

TEST_F(PostgresTransaction, a_try_does_not_wait) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(try_lock_in_transaction(one.get(), key_of("a")));
  const auto refused = try_lock_in_transaction(two.get(), key_of("a"));
  ASSERT_TRUE(is_error(refused, errc::not_acquired));
  EXPECT_EQ(refused.error().key(), key_of("a").string());
  EXPECT_TRUE(is_error(lock_in_transaction(two.get(), key_of("a"), {.timeout = 0s}), errc::not_acquired));
  EXPECT_EQ(PQtransactionStatus(two.get()), PQTRANS_INTRANS);
  EXPECT_TRUE(try_lock_in_transaction(two.get(), key_of("b")));
}

TEST_F(PostgresTransaction, shared_mode) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a"), {.mode = Mode::shared}));
  EXPECT_TRUE(lock_in_transaction(two.get(), key_of("a"), {.mode = Mode::shared}));
  EXPECT_TRUE(try_lock_in_transaction(two.get(), key_of("a"), Mode::shared));
  EXPECT_TRUE(is_error(try_lock_in_transaction(two.get(), key_of("a")), errc::not_acquired));
}

TEST_F(PostgresTransaction, waits_for_its_turn) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a")));
  two.rows("set lock_timeout = '77s'");
  auto waiter = std::async(std::launch::async,
                           [&] { return lock_in_transaction(two.get(), key_of("a"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits));
  one.rows("commit");
  EXPECT_TRUE(waiter.get());
  EXPECT_EQ(two.row("show lock_timeout"), "77s") << "as it was";
  EXPECT_EQ(locks(), "1");
}

TEST_F(PostgresTransaction, a_timeout_leaves_the_transaction_as_it_was) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a")));
  two.rows("set lock_timeout = '77s'");
  two.rows("create temporary table work (n int)");
  const auto late = lock_in_transaction(two.get(), key_of("a"), {.timeout = 30ms});
  ASSERT_TRUE(is_error(late, errc::timeout));
  EXPECT_EQ(late.error().native(), "55P03");
  EXPECT_EQ(two.row("show lock_timeout"), "77s");
  two.rows("insert into work values (1)");
  EXPECT_EQ(two.row("select count(*) from work"), "1");
  EXPECT_EQ(locks(), "1");
  const auto past = std::chrono::steady_clock::now() - 1s;
  EXPECT_TRUE(is_error(lock_in_transaction(two.get(), key_of("a"), {.deadline = past}), errc::timeout));
}

TEST_F(PostgresTransaction, a_wait_can_be_stopped) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a")));
  std::stop_source stop;
  auto waiter = std::async(std::launch::async, [&] {
    return lock_in_transaction(two.get(), key_of("a"), {.timeout = forever, .stop = stop.get_token()});
  });
  ASSERT_TRUE(eventually(somebody_waits));
  stop.request_stop();
  EXPECT_TRUE(is_error(waiter.get(), errc::cancelled));
  EXPECT_EQ(PQtransactionStatus(two.get()), PQTRANS_INTRANS);
  EXPECT_TRUE(is_error(lock_in_transaction(two.get(), key_of("b"), {.stop = stop.get_token()}), errc::cancelled));
}

TEST_F(PostgresTransaction, without_a_transaction_it_is_refused) {
  Psql none(server().dsn());
  const auto refused = lock_in_transaction(none.get(), key_of("a"));
  ASSERT_TRUE(is_error(refused, errc::backend_failure));
  EXPECT_EQ(refused.error().native(), "25P01");
  InTransaction failed(server().dsn());
  EXPECT_THROW(failed.rows("select 1/0"), std::runtime_error);
  const auto too_late = lock_in_transaction(failed.get(), key_of("a"));
  ASSERT_TRUE(is_error(too_late, errc::backend_failure));
  EXPECT_EQ(too_late.error().native(), "25P02");
  EXPECT_TRUE(is_error(lock_in_transaction(nullptr, key_of("a")), errc::connection_lost));
}

TEST_F(PostgresTransaction, a_connection_that_is_at_work_is_busy) {
  InTransaction mine(server().dsn());
  ASSERT_TRUE(PQsendQuery(mine.get(), "select 1"));
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("a")), errc::session_busy));
  while (PGresult* result = PQgetResult(mine.get())) PQclear(result);
  ASSERT_TRUE(PQenterPipelineMode(mine.get()));
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("a")), errc::session_busy));
  ASSERT_TRUE(PQexitPipelineMode(mine.get()));
  ASSERT_EQ(PQsetnonblocking(mine.get(), 1), 0);
  EXPECT_TRUE(lock_in_transaction(mine.get(), key_of("a"))) << "non-blocking mode is no harm";
}

TEST_F(PostgresTransaction, what_the_process_holds_through_lockr_is_a_deadlock) {
  const auto ours = open_postgres(server().dsn());
  InTransaction mine(server().dsn());
  auto held = ours->lock(key_of("a"));
  ASSERT_TRUE(held);
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("a"), {.timeout = forever}), errc::deadlock));
  EXPECT_TRUE(is_error(try_lock_in_transaction(mine.get(), key_of("a")), errc::not_acquired));
  EXPECT_TRUE(held->release());
  EXPECT_TRUE(lock_in_transaction(mine.get(), key_of("a"), {.timeout = forever}));
  mine.rows("rollback");
  mine.rows("begin");
  const auto session = ours->open_session({.dedicated = true});
  ASSERT_TRUE(session);
  const auto dedicated = (*session)->lock(key_of("b"));
  ASSERT_TRUE(dedicated);
  EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("b"), {.timeout = forever}), errc::deadlock));
}

TEST_F(PostgresTransaction, the_same_key_of_another_database_is_another_one) {
  Psql(server().dsn()).rows("create database elsewhere");
  const auto ours = open_postgres(server().dsn("postgres", "elsewhere"));
  const auto held = ours->lock(key_of("a"));
  ASSERT_TRUE(held);
  InTransaction mine(server().dsn());
  EXPECT_TRUE(lock_in_transaction(mine.get(), key_of("a"), {.timeout = forever}));
}

TEST_F(PostgresTransaction, a_cycle_between_two_transactions_is_a_deadlock) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a")));
  ASSERT_TRUE(lock_in_transaction(two.get(), key_of("b")));
  const auto close_it = [](InTransaction& mine, const char* name) {
    const auto got = lock_in_transaction(mine.get(), key_of(name), {.timeout = kPatience});
    mine.rows("rollback");
    return got;
  };
  auto other = std::async(std::launch::async, [&] { return close_it(two, "a"); });
  ASSERT_TRUE(eventually(somebody_waits));
  const auto mine = close_it(one, "b");
  const auto theirs = other.get();
  ASSERT_NE(mine.has_value(), theirs.has_value()) << "one of the two";
  const Error& error = mine ? theirs.error() : mine.error();
  EXPECT_EQ(error.code(), errc::deadlock);
  EXPECT_EQ(error.native(), "40P01");
}

TEST_F(PostgresTransaction, a_connection_that_ends_is_told) {
  InTransaction one(server().dsn());
  InTransaction two(server().dsn());
  ASSERT_TRUE(lock_in_transaction(one.get(), key_of("a")));
  auto waiter = std::async(std::launch::async,
                           [&] { return lock_in_transaction(two.get(), key_of("a"), {.timeout = kPatience}); });
  ASSERT_TRUE(eventually(somebody_waits));
  Psql(server().dsn()).row("select pg_terminate_backend(" + std::to_string(two.backend_pid()) + ")");
  const auto lost = waiter.get();
  ASSERT_TRUE(is_error(lost, errc::connection_lost));
  EXPECT_EQ(lost.error().native(), "57P01") << lost.error().to_string();
}

// ---- init

LockerConfig config_for(const std::string& dsn, const std::string& fields = {}) {
  return LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"" + fields + "}}")
      .value();
}

TEST_F(PostgresTransaction, init_makes_the_sequence_and_may_run_again) {
  Psql(server().dsn()).rows("create database fresh");
  Psql(server().dsn()).rows("create role \"odd \"\"name\" login");
  const std::string dsn = server().dsn("postgres", "fresh");
  const LockerConfig config = config_for(dsn, R"(, "fencing": true)");
  std::vector<std::future<Status>> all;
  for (int i = 0; i < 8; ++i) all.push_back(std::async(std::launch::async, [&] { return init(config); }));
  for (auto& each : all) {
    const Status done = each.get();
    EXPECT_TRUE(done) << done.error().to_string();
  }
  const auto ours = open(config);
  ASSERT_TRUE(ours) << ours.error().to_string();
  const std::uint64_t token = (*ours)->lock(key_of("a"))->fencing_token().value();
  EXPECT_TRUE(init(config));
  EXPECT_GT((*ours)->lock(key_of("a"))->fencing_token().value(), token) << "it starts anew";
  Psql(dsn).rows(init_sql());
  Psql(dsn).rows(grants_sql("odd \"name"));
  EXPECT_EQ(Psql(dsn).row("select has_sequence_privilege('odd \"name', 'lockr.fencing_token', 'USAGE')"), "t");
}

TEST_F(PostgresTransaction, init_tells_who_may_not) {
  Psql(server().dsn()).rows("create role nobody_special login");
  const auto denied = init(config_for(server().dsn("nobody_special")));
  ASSERT_TRUE(is_error(denied, errc::access_denied));
  EXPECT_EQ(denied.error().native(), "42501");
  EXPECT_TRUE(is_error(init(LockerConfig::from_url("memory:").value()), errc::invalid_config));
  EXPECT_TRUE(is_error(init(config_for("host=/nowhere")), errc::connection_lost));
}

}  // namespace
}  // namespace lockr::postgres
