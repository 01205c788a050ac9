#include "backends/postgres/statements.h"

namespace lockr::postgres {
namespace {

constexpr std::array<const char*, kStatements> kNames{
    "lockr_take_x",   "lockr_take_s",     "lockr_take_n", "lockr_take_nx", "lockr_take_all", "lockr_take_all_x",
    "lockr_take_any", "lockr_take_any_x", "lockr_give_x", "lockr_give_s",  "lockr_give_n",   "lockr_give_nx",
    "lockr_slice",    "lockr_pass_x",     "lockr_pass_s", "lockr_keep_x",  "lockr_keep_s",   "lockr_after_slice"};

constexpr const char* kNextToken = "nextval('lockr.fencing_token')";
constexpr const char* kTakeEither = "CASE WHEN s THEN pg_try_advisory_lock_shared(k) ELSE pg_try_advisory_lock(k) END";
constexpr const char* kGiveEither = "CASE WHEN s THEN pg_advisory_unlock_shared(k) ELSE pg_advisory_unlock(k) END";
constexpr const char* kAsked = "unnest($1::int8[], $2::bool[]) WITH ORDINALITY AS asked(k, s, o)";

// The token is drawn after the grant, as CASE evaluates its condition first.
std::string answer_of(const std::string& take, bool fencing) {
  return fencing ? "CASE WHEN " + take + " THEN " + kNextToken + " END" : take;
}

// LIMIT stops at the first row that passes the filter, so no key behind it is touched. Without a refusal the keys are
// not looked at again.
std::string take_all(const std::string& asked, const std::string& take, const std::string& give, bool fencing) {
  const std::string from = " FROM " + asked;
  return "WITH refused AS MATERIALIZED (SELECT o" + from + " WHERE NOT " + take +
         " LIMIT 1) SELECT (SELECT o FROM refused)" +
         (fencing ? std::string(", CASE WHEN NOT EXISTS (SELECT FROM refused) THEN ") + kNextToken + " END" : "") +
         ", (SELECT count(" + give + ")" + from +
         " WHERE EXISTS (SELECT FROM refused) AND o < (SELECT o FROM refused))";
}

// The function, not the view over it, and the database by its number: no table is locked, for which a full lock table
// has no room.
std::string after_slice(std::int64_t database) {
  return "SELECT min(pid) FILTER (WHERE pid <> pg_backend_pid()), "
         "bool_or(CASE WHEN pid <> pg_backend_pid() THEN NULL WHEN mode = 'ShareLock' THEN "
         "pg_advisory_unlock_shared($1) ELSE pg_advisory_unlock($1) END) FROM pg_lock_status() WHERE locktype = "
         "'advisory' AND granted AND objsubid = 1 AND database = " +
         std::to_string(database) +
         " AND classid = (($1::int8 >> 32) & 4294967295)::oid AND objid = ($1::int8 & 4294967295)::oid";
}

}  // namespace

const char* name_of(Statement statement) noexcept { return kNames[static_cast<std::size_t>(statement)]; }

std::string sql_of(Statement statement, const Dialect& dialect) {
  const bool fencing = dialect.fencing;
  const std::string token = fencing ? std::string(", ") + kNextToken : "";
  switch (statement) {
    case Statement::take_exclusive:
      return "SELECT " + answer_of("pg_try_advisory_lock($1::int8)", fencing);
    case Statement::take_shared:
      return "SELECT " + answer_of("pg_try_advisory_lock_shared($1::int8)", fencing);
    case Statement::take_many:
      return "SELECT " + answer_of(kTakeEither, fencing) + " FROM unnest($1::int8[], $2::bool[]) AS asked(k, s)";
    case Statement::take_many_exclusive:
      return "SELECT " + answer_of("pg_try_advisory_lock(k)", fencing) + " FROM unnest($1::int8[]) AS asked(k)";
    case Statement::take_all:
      return take_all(kAsked, kTakeEither, kGiveEither, fencing);
    case Statement::take_all_exclusive:
      return take_all("unnest($1::int8[]) WITH ORDINALITY AS asked(k, o)", "pg_try_advisory_lock(k)",
                      "pg_advisory_unlock(k)", fencing);
    case Statement::take_any:
      return "SELECT o" + (fencing ? token : ", true") + " FROM " + kAsked + " WHERE " + kTakeEither + " LIMIT 1";
    case Statement::take_any_exclusive:
      return "SELECT o" + (fencing ? token : ", true") +
             " FROM unnest($1::int8[]) WITH ORDINALITY AS asked(k, o) WHERE pg_try_advisory_lock(k) LIMIT 1";
    case Statement::give_exclusive:
      return "SELECT pg_advisory_unlock($1::int8)";
    case Statement::give_shared:
      return "SELECT pg_advisory_unlock_shared($1::int8)";
    case Statement::give_many:
      return "SELECT " + std::string(kGiveEither) + " FROM unnest($1::int8[], $2::bool[]) AS asked(k, s)";
    case Statement::give_many_exclusive:
      return "SELECT pg_advisory_unlock(k) FROM unnest($1::int8[]) AS asked(k)";
    case Statement::slice:
      return "SELECT set_config('lock_timeout', $1::text, true)";
    case Statement::pass_exclusive:
      return "SELECT pg_advisory_xact_lock($1::int8)";
    case Statement::pass_shared:
      return "SELECT pg_advisory_xact_lock_shared($1::int8)";
    case Statement::keep_exclusive:
      return "SELECT pg_advisory_lock($1::int8)" + token;
    case Statement::keep_shared:
      return "SELECT pg_advisory_lock_shared($1::int8)" + token;
    case Statement::after_slice:
      return after_slice(dialect.database);
  }
  return {};
}

}  // namespace lockr::postgres
