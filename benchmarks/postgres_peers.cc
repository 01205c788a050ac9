#include "postgres_peers.h"

#include <endian.h>

#include <cstdlib>
#include <cstring>
#include <exception>

namespace lockr::bench {
namespace {

using Answer = std::unique_ptr<PGresult, void (*)(PGresult*)>;

}  // namespace

const testing::PostgresServer& postgres_server() {
  try {
    static const testing::PostgresServer server;
    return server;
  } catch (const std::exception& error) {
    give_up(error.what());
  }
}

const std::string& server_dsn() {
  static const std::string dsn = postgres_server().dsn();
  return dsn;
}

std::unique_ptr<Locker> open_postgres(const std::string& dsn, const std::string& top) {
  auto config = LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"}" + top + "}");
  if (!config) give_up(config.error().to_string());
  auto locker = open(*config);
  if (!locker) give_up(locker.error().to_string());
  return *std::move(locker);
}

Bare::Bare(const std::string& dsn) : connection_(PQconnectdb(dsn.c_str())) {
  if (PQstatus(connection_) != CONNECTION_OK) give_up(PQerrorMessage(connection_));
  for (const auto& [name, sql] : {std::pair{"try_lock", "SELECT pg_try_advisory_lock($1::int8)"},
                                  std::pair{"lock", "SELECT pg_advisory_lock($1::int8)"},
                                  std::pair{"unlock", "SELECT pg_advisory_unlock($1::int8)"},
                                  std::pair{"lock_shared", "SELECT pg_advisory_lock_shared($1::int8)"},
                                  std::pair{"unlock_shared", "SELECT pg_advisory_unlock_shared($1::int8)"}}) {
    const Answer answer(PQprepare(connection_, name, sql, 1, nullptr), PQclear);
    if (PQresultStatus(answer.get()) != PGRES_COMMAND_OK) give_up(PQerrorMessage(connection_));
  }
}

bool Bare::call(const char* statement, std::int64_t key) {
  const std::uint64_t bytes = htobe64(static_cast<std::uint64_t>(key));
  const char* const value = reinterpret_cast<const char*>(&bytes);
  const int length = sizeof bytes;
  const int format = 1;
  const Answer answer(PQexecPrepared(connection_, statement, 1, &value, &length, &format, 1), PQclear);
  if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK) give_up(PQerrorMessage(connection_));
  return PQgetlength(answer.get(), 0, 0) == 1 && *PQgetvalue(answer.get(), 0, 0) == 1;
}

void Bare::lock_range(std::int64_t first, std::size_t count) {
  const std::string sql = "SELECT count(pg_advisory_lock(key)) FROM generate_series(" + std::to_string(first) + ", " +
                          std::to_string(first + static_cast<std::int64_t>(count) - 1) + ") AS key";
  const Answer answer(PQexec(connection_, sql.c_str()), PQclear);
  if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK) give_up(PQerrorMessage(connection_));
}

void Bare::ping() {
  const Answer answer(PQexec(connection_, ";"), PQclear);
  if (PQresultStatus(answer.get()) != PGRES_EMPTY_QUERY) give_up(PQerrorMessage(connection_));
}

std::vector<int> lockr_server_pids(const std::string& dsn) {
  std::vector<int> pids;
  testing::Psql control(dsn);
  for (const std::string& row :
       control.rows("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'lockr/%'")) {
    pids.push_back(std::atoi(row.c_str()));
  }
  return pids;
}

}  // namespace lockr::bench
