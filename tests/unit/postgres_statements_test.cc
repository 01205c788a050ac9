// What the PostgreSQL backend prepares says all names in full: a role's search_path decides over none of them.
#include <gtest/gtest.h>

#include <string>

#include "backends/postgres/statements.h"
#include "tests/support/sql_scan.h"

namespace lockr::postgres {
namespace {

using testing::SqlScan;

TEST(PostgresStatements, leave_nothing_to_the_search_path) {
  for (std::size_t i = 0; i < kStatements; ++i) {
    for (const bool fencing : {false, true}) {
      const std::string sql = sql_of(static_cast<Statement>(i), {.fencing = fencing, .database = 5});
      ASSERT_FALSE(sql.empty());
      for (const std::string& fault : SqlScan(sql).unqualified()) ADD_FAILURE() << fault << " in: " << sql;
    }
  }
}

TEST(PostgresStatements, that_do_leave_something_are_found) {
  for (const char* sql :
       {"SELECT pg_try_advisory_lock($1::pg_catalog.int8)", "SELECT pg_catalog.pg_advisory_unlock($1::int8)",
        "SELECT oid FROM pg_database", "SELECT 1 WHERE pg_catalog.now() = pg_catalog.now()",
        "SELECT o FROM pg_catalog.pg_settings JOIN pg_class ON true", "SELECT 1 OPERATOR(+) 1",
        "SELECT pg_catalog.pg_backend_pid() IN (1)", "SELECT name LIKE 'a' FROM pg_catalog.pg_settings",
        "SELECT CASE 1 WHEN 2 THEN 3 END", "SELECT nextval('lockr.fencing_token')",
        "SELECT 1 FROM ROWS FROM (unnest($1::pg_catalog.int8[])) AS asked(k)"}) {
    EXPECT_EQ(SqlScan(sql).unqualified().size(), 1U) << sql;
  }
  EXPECT_TRUE(SqlScan("SET LOCAL statement_timeout = 0;SELECT 'a = b(c)', -1").unqualified().empty());
}

}  // namespace
}  // namespace lockr::postgres
