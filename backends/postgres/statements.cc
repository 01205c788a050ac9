#include "backends/postgres/statements.h"

namespace lockr::postgres {
namespace {

constexpr std::array<const char*, kStatements> kNames{
    "lockr_take_x",   "lockr_take_s",     "lockr_take_n", "lockr_take_nx", "lockr_take_all", "lockr_take_all_x",
    "lockr_take_any", "lockr_take_any_x", "lockr_give_x", "lockr_give_s",  "lockr_give_n",   "lockr_give_nx",
    "lockr_slice",    "lockr_pass_x",     "lockr_pass_s", "lockr_keep_x",  "lockr_keep_s",   "lockr_after_slice"};

// Nothing of a statement is looked up by the role's search_path: functions, operators, types and relations are named
// with their schema.
constexpr const char* kNextToken = "pg_catalog.nextval('lockr.fencing_token')";
constexpr const char* kTakeEither =
    "CASE WHEN s THEN pg_catalog.pg_try_advisory_lock_shared(k) ELSE pg_catalog.pg_try_advisory_lock(k) END";
constexpr const char* kGiveEither =
    "CASE WHEN s THEN pg_catalog.pg_advisory_unlock_shared(k) ELSE pg_catalog.pg_advisory_unlock(k) END";
constexpr const char* kKeys = "pg_catalog.unnest($1::pg_catalog.int8[])";
constexpr const char* kKeysAndModes =
    "ROWS FROM (pg_catalog.unnest($1::pg_catalog.int8[]), pg_catalog.unnest($2::pg_catalog.bool[]))";

// The token is drawn after the grant, as CASE evaluates its condition first.
std::string answer_of(const std::string& take, bool fencing) {
  return fencing ? "CASE WHEN " + take + " THEN " + kNextToken + " END" : take;
}

std::string in_order(const std::string& asked, const std::string& columns) {
  return asked + " WITH ORDINALITY AS asked(" + columns + ")";
}

// LIMIT stops at the first row that passes the filter, so no key behind it is touched. Without a refusal the keys are
// not looked at again.
std::string take_all(const std::string& asked, const std::string& take, const std::string& give, bool fencing) {
  const std::string from = " FROM " + asked;
  return "WITH refused AS MATERIALIZED (SELECT o" + from + " WHERE NOT " + take +
         " LIMIT 1) SELECT (SELECT o FROM refused)" +
         (fencing ? std::string(", CASE WHEN NOT EXISTS (SELECT FROM refused) THEN ") + kNextToken + " END" : "") +
         ", (SELECT pg_catalog.count(" + give + ")" + from +
         " WHERE EXISTS (SELECT FROM refused) AND o OPERATOR(pg_catalog.<) (SELECT o FROM refused))";
}

// The function, not the view over it, and the database by its number: no table is locked, for which a full lock table
// has no room.
std::string after_slice(std::int64_t database) {
  return "SELECT pg_catalog.min(pid) FILTER (WHERE pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()), "
         "pg_catalog.bool_or(CASE WHEN pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() THEN NULL "
         "WHEN mode OPERATOR(pg_catalog.=) 'ShareLock' THEN pg_catalog.pg_advisory_unlock_shared($1) "
         "ELSE pg_catalog.pg_advisory_unlock($1) END) FROM pg_catalog.pg_lock_status() "
         "WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND granted AND objsubid OPERATOR(pg_catalog.=) 1 "
         "AND database OPERATOR(pg_catalog.=) " +
         std::to_string(database) +
         " AND classid OPERATOR(pg_catalog.=) (($1::pg_catalog.int8 OPERATOR(pg_catalog.>>) 32) "
         "OPERATOR(pg_catalog.&) 4294967295)::pg_catalog.oid "
         "AND objid OPERATOR(pg_catalog.=) ($1::pg_catalog.int8 OPERATOR(pg_catalog.&) 4294967295)::pg_catalog.oid";
}

}  // namespace

const char* name_of(Statement statement) noexcept { return kNames[static_cast<std::size_t>(statement)]; }

std::string sql_of(Statement statement, const Dialect& dialect) {
  const bool fencing = dialect.fencing;
  const std::string token = fencing ? std::string(", ") + kNextToken : "";
  switch (statement) {
    case Statement::take_exclusive:
      return "SELECT " + answer_of("pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8)", fencing);
    case Statement::take_shared:
      return "SELECT " + answer_of("pg_catalog.pg_try_advisory_lock_shared($1::pg_catalog.int8)", fencing);
    case Statement::take_many:
      return "SELECT " + answer_of(kTakeEither, fencing) + " FROM " + kKeysAndModes + " AS asked(k, s)";
    case Statement::take_many_exclusive:
      return "SELECT " + answer_of("pg_catalog.pg_try_advisory_lock(k)", fencing) + " FROM " + kKeys + " AS asked(k)";
    case Statement::take_all:
      return take_all(in_order(kKeysAndModes, "k, s, o"), kTakeEither, kGiveEither, fencing);
    case Statement::take_all_exclusive:
      return take_all(in_order(kKeys, "k, o"), "pg_catalog.pg_try_advisory_lock(k)", "pg_catalog.pg_advisory_unlock(k)",
                      fencing);
    case Statement::take_any:
      return "SELECT o" + (fencing ? token : ", true") + " FROM " + in_order(kKeysAndModes, "k, s, o") + " WHERE " +
             kTakeEither + " LIMIT 1";
    case Statement::take_any_exclusive:
      return "SELECT o" + (fencing ? token : ", true") + " FROM " + in_order(kKeys, "k, o") +
             " WHERE pg_catalog.pg_try_advisory_lock(k) LIMIT 1";
    case Statement::give_exclusive:
      return "SELECT pg_catalog.pg_advisory_unlock($1::pg_catalog.int8)";
    case Statement::give_shared:
      return "SELECT pg_catalog.pg_advisory_unlock_shared($1::pg_catalog.int8)";
    case Statement::give_many:
      return "SELECT " + std::string(kGiveEither) + " FROM " + kKeysAndModes + " AS asked(k, s)";
    case Statement::give_many_exclusive:
      return "SELECT pg_catalog.pg_advisory_unlock(k) FROM " + std::string(kKeys) + " AS asked(k)";
    case Statement::slice:
      return "SELECT pg_catalog.set_config('lock_timeout', $1::pg_catalog.text, true)";
    case Statement::pass_exclusive:
      return "SELECT pg_catalog.pg_advisory_xact_lock($1::pg_catalog.int8)";
    case Statement::pass_shared:
      return "SELECT pg_catalog.pg_advisory_xact_lock_shared($1::pg_catalog.int8)";
    case Statement::keep_exclusive:
      return "SELECT pg_catalog.pg_advisory_lock($1::pg_catalog.int8)" + token;
    case Statement::keep_shared:
      return "SELECT pg_catalog.pg_advisory_lock_shared($1::pg_catalog.int8)" + token;
    case Statement::after_slice:
      return after_slice(dialect.database);
  }
  return {};
}

}  // namespace lockr::postgres
