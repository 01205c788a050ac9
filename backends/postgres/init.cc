// What fencing needs in a database.
#include <poll.h>

#include <chrono>
#include <string>

#include "backends/postgres/connection.h"
#include "backends/postgres/errors.h"
#include "backends/postgres/fencing.h"
#include "backends/postgres/handshake.h"
#include "backends/postgres/options.h"
#include "lockr/postgres.h"

namespace lockr::postgres {
namespace {

// Two that run at once must not trip over each other: IF NOT EXISTS alone does not keep that.
constexpr const char* kOneAtATime =
    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('lockr postgres init'))";

// Before all else, as settings of role and database would decide over it.
constexpr const char* kWritable =
    "SET TRANSACTION READ WRITE;SET LOCAL lock_timeout = 0;SET LOCAL synchronous_commit = on;"
    "SET LOCAL default_tablespace = '';SET LOCAL default_table_access_method = heap;";

std::string quoted(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) out.append(c == '"' ? 2 : 1, c);
  return out + "\"";
}

}  // namespace

std::string init_sql() { return fencing_sql(); }

std::string grants_sql(std::string_view role) {
  return "GRANT USAGE ON SCHEMA lockr TO " + quoted(role) + ";\nGRANT USAGE ON SEQUENCE lockr.fencing_token TO " +
         quoted(role) + ";\n";
}

Status init(const LockerConfig& config) {
  const std::string& backend = config.backend();
  if (backend != "postgres" && backend != "postgresql") {
    return fail(errc::invalid_config, "the config is not of the backend \"postgres\", which alone needs this");
  }
  auto options = read_options(config.section());
  if (!options) return fail(options.error());
  const Target target{.dsn = options->dsn,
                      .application_name = "lockr postgres init",
                      .accept_clear_text = config.accepts_risk("clear_text_password")};
  spi::Runtime& runtime = spi::system_runtime();
  const Patience patience{runtime, runtime.steady_now() + config.connect_timeout()};
  Sockets sockets;
  auto connection = Connection::open(target, sockets, patience);
  if (!connection) return fail(connection.error());
  constexpr std::string_view kWhat = "can't make the schema lockr";
  auto standby =
      (*connection)->ask(std::string(kUnhindered) + "SELECT pg_catalog.pg_is_in_recovery()", 1, patience, kWhat);
  if (!standby) return fail(standby.error());
  if (standby->empty() || standby->front()[0] != "f") return fail(standby_refused());
  auto made =
      (*connection)->ask(std::string(kUnhindered) + kWritable + kOneAtATime + ";" + init_sql(), 0, patience, kWhat);
  if (!made) return fail(made.error());
  return {};
}

}  // namespace lockr::postgres
