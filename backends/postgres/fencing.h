// What fencing needs in a database.
#pragma once

#include <string>

namespace lockr::postgres {

inline constexpr const char* kSchemaSql = "CREATE SCHEMA IF NOT EXISTS lockr";
inline constexpr const char* kSequenceSql =
    "CREATE SEQUENCE IF NOT EXISTS lockr.fencing_token AS pg_catalog.int8 INCREMENT 1 MINVALUE 1 CACHE 1 NO CYCLE";
// A row says that the sequence has leapt since the server's last crash, which empties unlogged tables. It names the
// database, as a dump has it too.
inline constexpr const char* kLeaptSql =
    "CREATE UNLOGGED TABLE IF NOT EXISTS lockr.fencing_leapt "
    "(system pg_catalog.int8, database pg_catalog.oid, PRIMARY KEY (system, database))";
// The row is seen by others once its transaction has ended, and so once the leap is on the disk. Of two that find none
// the second waits in its INSERT for the first. With the rights of its owner: setval() could also go back.
inline constexpr const char* kLeapSql =
    "CREATE OR REPLACE FUNCTION lockr.fencing_leap() RETURNS pg_catalog.int8 LANGUAGE sql SECURITY DEFINER "
    "SET search_path TO pg_catalog, pg_temp AS $$ "
    "SELECT pg_catalog.set_config('synchronous_commit', 'on', true); "
    "WITH first AS (INSERT INTO lockr.fencing_leapt SELECT system_identifier, oid "
    "FROM pg_catalog.pg_control_system(), pg_catalog.pg_database "
    "WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database() ON CONFLICT DO NOTHING RETURNING system) "
    "SELECT pg_catalog.setval('lockr.fencing_token', last_value OPERATOR(pg_catalog.+) 1073741824) "
    "FROM lockr.fencing_token, first; "
    "SELECT last_value FROM lockr.fencing_token $$";

inline std::string fencing_sql() {
  std::string all;
  for (const char* const sql : {kSchemaSql, kSequenceSql, kLeaptSql, kLeapSql}) all.append(sql).append(";\n");
  return all;
}

}  // namespace lockr::postgres
