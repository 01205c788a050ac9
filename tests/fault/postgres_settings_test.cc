// What a role or a database is set to, and what its search_path finds before pg_catalog, decides over no lock.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/postgres.h"
#include "tests/support/postgres_case.h"
#include "tests/support/sql_scan.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::bigint;
using testing::eventually;
using testing::is_error;
using testing::kPostgresPatience;
using testing::open_postgres;
using testing::PostgresServer;
using testing::Psql;
using testing::SqlScan;

// A copy of what pg_catalog has, under the same names: functions, aggregates as functions, and operators raise an
// error, relations are empty, types are others. What can't be copied (functions of internal types) is left out.
constexpr const char* kShadow = R"(do $do$
declare
  each record;
  body constant text := ' language plpgsql as $f$ begin raise exception ''hostile''; end $f$';
begin
  for each in select proname, pg_get_function_identity_arguments(oid) as arguments, pg_get_function_result(oid) as result
      from pg_proc where pronamespace = 'pg_catalog'::regnamespace and prokind in ('f', 'a') loop
    begin
      execute format('create function shadow.%I(%s) returns %s', each.proname, each.arguments, each.result) || body;
    exception when others then null;
    end;
  end loop;
  for each in select row_number() over () as number, oprname, format_type(nullif(oprleft, 0), null) as l,
      format_type(oprright, null) as r, format_type(oprresult, null) as result
      from pg_operator where oprnamespace = 'pg_catalog'::regnamespace loop
    begin
      execute format('create function shadow.hostile_%s(%s) returns %s', each.number, concat_ws(', ', each.l, each.r),
                     each.result) || body;
      execute format('create operator shadow.%s (function = shadow.hostile_%s, %srightarg = %s)', each.oprname,
                     each.number, coalesce('leftarg = ' || each.l || ', ', ''), each.r);
    exception when others then null;
    end;
  end loop;
  for each in select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v') loop
    begin
      execute format('create view shadow.%I as select * from pg_catalog.%I where false', each.relname, each.relname);
    exception when others then null;
    end;
  end loop;
  for each in select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b'
      and typname not like '\_%' loop
    execute format('create type shadow.%I as (hostile pg_catalog.int4)', each.typname);
  end loop;
end $do$)";

// Each as far from what lockr needs as it may be set.
const std::vector<std::pair<std::string, std::string>> kHostile{
    {"search_path", "shadow, pg_catalog"},
    {"statement_timeout", "'300ms'"},
    {"lock_timeout", "'1ms'"},
    {"idle_in_transaction_session_timeout", "'1ms'"},
    {"default_transaction_isolation", "'serializable'"},
    {"default_transaction_read_only", "on"},
    {"default_transaction_deferrable", "on"},
    {"synchronous_commit", "off"},
    {"exit_on_error", "on"},
    {"client_min_messages", "'error'"},
    {"client_encoding", "'LATIN1'"},
    {"standard_conforming_strings", "off"},
    {"backslash_quote", "off"},
    {"transform_null_equals", "on"},
    {"array_nulls", "off"},
    {"bytea_output", "'escape'"},
    {"datestyle", "'German'"},
    {"intervalstyle", "'sql_standard'"},
    {"timezone", "'Pacific/Kiritimati'"},
    {"extra_float_digits", "-15"},
    {"row_security", "off"},
    {"plan_cache_mode", "'force_custom_plan'"},
    {"jit", "on"},
    {"jit_above_cost", "0"},
    {"force_parallel_mode", "on"},
    {"default_tablespace", "'pg_global'"},
    {"check_function_bodies", "off"},
    {"session_replication_role", "'replica'"},
};

const std::string kFencing = R"(, "fencing": true)";
const std::string kPatient = R"(, "connect_timeout": "20s")";

/// One server for all cases: the role "hostile" has the settings, and so has whoever connects to the database
/// "hostile". All that is sent is in the log, behind the application's name.
class PostgresSettings : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<PostgresServer>(
        std::vector<std::string>{"log_statement=all", "log_line_prefix=%a|", "log_min_error_statement=panic"});
    Psql control(server_->dsn());
    control.rows("create role hostile login superuser");
    control.rows("create role maker login superuser");
    control.rows("create role plain login");
    control.rows("create database hostile");
    for (const char* database : {"postgres", "hostile"}) {
      Psql there(server_->dsn("postgres", database));
      there.rows("create schema shadow");
      there.rows(kShadow);
      there.rows("grant usage on schema shadow to public");
      EXPECT_GT(std::stoi(there.row("select count(*) from pg_proc where pronamespace = 'shadow'::regnamespace")), 3000);
      EXPECT_GT(std::stoi(there.row("select count(*) from pg_operator where oprnamespace = 'shadow'::regnamespace")),
                700);
      EXPECT_GT(std::stoi(there.row("select count(*) from pg_class where relnamespace = 'shadow'::regnamespace")), 150);
    }
    for (const auto& [name, value] : kHostile) {
      control.rows("alter role hostile set " + name + " = " + value);
      control.rows("alter database hostile set " + name + " = " + value);
      control.rows("alter role postgres set " + name + " from current");  // Which counts for more than the database's.
    }
    // As long as such a transaction lives, another that is serializable, read only and deferrable would wait for it.
    writer_ = std::make_unique<Psql>(server_->dsn());
    writer_->rows("begin isolation level serializable");
    writer_->rows("create table written()");
  }
  static void TearDownTestSuite() {
    writer_.reset();
    server_.reset();
  }

  static PostgresServer& server() { return *server_; }
  static std::vector<std::string> dsns() { return {server_->dsn("hostile"), server_->dsn("plain", "hostile")}; }
  /// What the server has, seen by an honest client.
  static std::string locks(const Key& key, const std::string& database) {
    return Psql(server_->dsn("postgres", database))
        .row("select count(*) from pg_locks l join pg_database d on d.oid = database where datname = '" + database +
             "' and locktype = 'advisory' and granted and (classid::bigint << 32 | objid::bigint) = " + bigint(key));
  }

 private:
  static std::unique_ptr<PostgresServer> server_;
  static std::unique_ptr<Psql> writer_;
};
std::unique_ptr<PostgresServer> PostgresSettings::server_;
std::unique_ptr<Psql> PostgresSettings::writer_;

std::string database_of(const std::string& dsn) { return dsn.substr(dsn.find("dbname=") + 7); }

Key key_of(const std::string& name) { return Key::parse(name).value(); }
std::vector<Key> keys_of(const std::string& one, const std::string& other) { return {key_of(one), key_of(other)}; }

void init_for(const std::string& dsn) {
  const auto config =
      LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"}" + kPatient + "}");
  ASSERT_TRUE(config);
  const auto made = init(*config);
  ASSERT_TRUE(made) << made.error().to_string();
}

void init_all(const PostgresServer& server) {
  init_for(server.dsn("hostile"));
  init_for(server.dsn("maker", "hostile"));
  Psql(server.dsn("postgres", "hostile")).rows(grants_sql("plain"));
}

/// As somebody would who lives with these settings.
void begin(Psql& connection) {
  for (const char* name : {"statement_timeout", "idle_in_transaction_session_timeout", "exit_on_error"}) {
    connection.rows(std::string("SET ") + name + " = 0");
  }
  connection.rows("begin isolation level read committed");
}

TEST_F(PostgresSettings, of_role_or_database_do_not_decide_who_holds_a_key) {
  init_all(server());
  for (const std::string& dsn : dsns()) {
    const auto one = open_postgres(dsn, {}, kPatient);
    const auto two = open_postgres(dsn, {}, kPatient);
    auto held = one->lock(key_of("a"), {.timeout = kPostgresPatience});
    ASSERT_TRUE(held) << held.error().to_string();
    EXPECT_EQ(locks(key_of("a"), database_of(dsn)), "1");
    EXPECT_TRUE(is_error(two->try_lock(key_of("a")), errc::not_acquired));
    EXPECT_TRUE(held->release());
    EXPECT_EQ(locks(key_of("a"), database_of(dsn)), "0");
  }
}

TEST_F(PostgresSettings, leave_groups_and_shared_locks_as_they_are) {
  for (const std::string& dsn : dsns()) {
    const auto one = open_postgres(dsn, {}, kPatient);
    const auto two = open_postgres(dsn, {}, kPatient);
    const auto session = one->open_session();
    const auto other = two->open_session();
    ASSERT_TRUE(session && other);
    const auto all = (*session)->lock_all(keys_of("a", "b"), {.mode = Mode::shared});
    ASSERT_TRUE(all) << all.error().to_string();
    EXPECT_TRUE((*other)->try_lock(key_of("a"), Mode::shared));
    EXPECT_TRUE(is_error((*other)->lock_all(keys_of("c", "b"), {.timeout = 0s}), errc::not_acquired));
    EXPECT_EQ(locks(key_of("c"), database_of(dsn)), "0") << "what lock_all had taken went back";
    const auto any = (*other)->try_lock_any(keys_of("a", "d"));
    ASSERT_TRUE(any) << any.error().to_string();
    EXPECT_EQ(any->key(), key_of("d"));
  }
}

// Longer than any of the timeouts that the role has, and than a slice: each ends with an error of the server.
TEST_F(PostgresSettings, end_no_wait) {
  for (const std::string& dsn : dsns()) {
    const auto waiting = open_postgres(dsn, {}, kPatient);
    Psql foreign(server().dsn("postgres", database_of(dsn)));
    foreign.row("select pg_advisory_lock(" + bigint(key_of("w")) + ")");
    EXPECT_TRUE(is_error(waiting->lock(key_of("w"), {.timeout = 1500ms}), errc::timeout));
    std::jthread later([&] {
      std::this_thread::sleep_for(1200ms);
      foreign.row("select pg_advisory_unlock(" + bigint(key_of("w")) + ")");
    });
    const auto held = waiting->lock(key_of("w"), {.timeout = kPostgresPatience});
    ASSERT_TRUE(held) << held.error().to_string();
    EXPECT_EQ(locks(key_of("w"), database_of(dsn)), "1");
  }
}

TEST_F(PostgresSettings, leave_dedicated_sessions_as_they_are) {
  for (const std::string& dsn : dsns()) {
    const auto locker = open_postgres(dsn, {}, kPatient);
    const auto mine = locker->open_session({.dedicated = true});
    const auto yours = locker->open_session({.dedicated = true});
    ASSERT_TRUE(mine) << mine.error().to_string();
    ASSERT_TRUE(yours) << yours.error().to_string();
    const auto held = (*mine)->lock(key_of("own"), {.timeout = kPostgresPatience});
    ASSERT_TRUE(held) << held.error().to_string();
    EXPECT_TRUE(is_error((*yours)->try_lock(key_of("own")), errc::not_acquired));
    EXPECT_TRUE(is_error((*yours)->lock(key_of("own"), {.timeout = 1500ms}), errc::timeout));
    EXPECT_EQ(locks(key_of("own"), database_of(dsn)), "1");
  }
}

TEST_F(PostgresSettings, leave_tokens_and_holders_as_they_are) {
  init_all(server());
  for (const std::string& dsn : dsns()) {
    const auto locker = open_postgres(dsn, kFencing, kPatient);
    std::uint64_t last = 0;
    for (int i = 0; i < 3; ++i) {
      const auto held = locker->lock(key_of("t"), {.timeout = kPostgresPatience});
      ASSERT_TRUE(held) << held.error().to_string();
      const auto token = held->fencing_token();
      ASSERT_TRUE(token) << token.error().to_string();
      EXPECT_GT(*token, last);
      last = *token;
    }
    const auto held = locker->lock(key_of("t"));
    ASSERT_TRUE(held);
    Psql foreign(server().dsn("postgres", database_of(dsn)));
    foreign.row("select pg_advisory_lock(42)");
    const auto rows = locker->inspect();
    ASSERT_TRUE(rows) << rows.error().to_string();
    EXPECT_EQ(rows->size(), 2U);
  }
}

// The settings of a transaction are its owner's. What they say of names is not asked.
TEST_F(PostgresSettings, leave_locks_of_a_transaction_as_they_are) {
  for (const std::string& dsn : dsns()) {
    Psql mine(dsn);
    begin(mine);
    ASSERT_TRUE(try_lock_in_transaction(mine.get(), key_of("x")));
    EXPECT_EQ(locks(key_of("x"), database_of(dsn)), "1");
    Psql foreign(server().dsn("postgres", database_of(dsn)));
    foreign.row("select pg_advisory_lock(" + bigint(key_of("y")) + ")");
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("y"), {.timeout = 900ms}), errc::timeout));
    const auto locker = open_postgres(dsn, {}, kPatient);
    const auto held = locker->lock(key_of("z"));
    ASSERT_TRUE(held);
    EXPECT_TRUE(is_error(lock_in_transaction(mine.get(), key_of("z"), {.timeout = forever}), errc::deadlock));
  }
}

// The server says why it ends a session in a warning. Of some 70 stops on a busy machine one came without it, for a
// reason that is not known; one that comes with it shows that the setting does not hide it.
TEST_F(PostgresSettings, do_not_hide_why_a_lock_was_lost) {
  PostgresServer server;
  Psql(server.dsn()).rows("alter role postgres set client_min_messages = 'error'");
  std::string said;
  for (int stops = 0; stops < 5 && said.find("immediate shutdown") == std::string::npos; ++stops) {
    if (stops != 0) server.start();
    const auto locker = open_postgres(server.dsn(), {}, kPatient);
    auto held = locker->lock(key_of("lost"));
    ASSERT_TRUE(held);
    server.stop(false);
    ASSERT_TRUE(eventually([&] { return held->lost(); }));
    const auto released = held->release();
    ASSERT_TRUE(is_error(released, errc::lock_lost));
    said = released.error().to_string();
  }
  EXPECT_NE(said.find("immediate shutdown"), std::string::npos) << said;
}

// What the cases above had lockr send, and the program that opens: no statement leaves a name to the search_path.
TEST_F(PostgresSettings, and_names_meet_in_no_statement_that_is_sent) {
  init_all(server());
  for (const std::string& dsn : dsns()) {
    const auto locker = open_postgres(dsn, kFencing, kPatient);
    const auto session = locker->open_session({.dedicated = true});
    ASSERT_TRUE(session);
    EXPECT_TRUE((*session)->lock_all(keys_of("m", "n")));
    EXPECT_TRUE(locker->inspect());
    Psql mine(dsn + " application_name=lockr/transaction");
    begin(mine);
    EXPECT_TRUE(lock_in_transaction(mine.get(), key_of("o")));
  }
  std::ifstream log(server().directory() / "server.log");
  std::size_t statements = 0;
  for (std::string line; std::getline(log, line);) {
    const bool ours = line.starts_with("lockr/") || line.starts_with("lockr postgres init");
    const std::size_t at = line.find(": ", line.find("LOG:  ") + 6);
    if (!ours || line.find("|LOG:  ") == line.npos || at == line.npos) continue;
    ++statements;
    for (const std::string& fault : SqlScan(line.substr(at + 2)).unqualified()) {
      ADD_FAILURE() << fault << " in: " << line;
    }
  }
  EXPECT_GT(statements, 40U);
}

}  // namespace
}  // namespace lockr::postgres
