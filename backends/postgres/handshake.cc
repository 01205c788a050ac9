#include "backends/postgres/handshake.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "backends/postgres/errors.h"
#include "backends/postgres/statements.h"

namespace lockr::postgres {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

constexpr int kLeastVersion = 140000;
constexpr Time kHeartbeat = std::chrono::seconds(3);
// What the server is told of a connection over a network: 9 s of silence, then three probes, 2 s apart.
constexpr Time kNetworkBound = std::chrono::seconds(15);

Bounds bounds_of(const Demands& demands, bool over_network) {
  Bounds bounds;
  if (over_network) bounds.server = kNetworkBound;
  if (demands.session_ttl) bounds.server = std::min(bounds.server, *demands.session_ttl);
  if (bounds.server == spi::kNever) return bounds;
  bounds.validity = bounds.server - std::max<Time>(bounds.server / 15, milliseconds(100));
  bounds.heartbeat = std::min(kHeartbeat, bounds.server / 5);
  return bounds;
}

std::optional<std::int64_t> number(const std::optional<std::string>& text) {
  std::int64_t value = 0;
  if (!text) return std::nullopt;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() ? std::optional(value) : std::nullopt;
}

std::string in_milliseconds(Time time) { return std::to_string(duration_cast<milliseconds>(time).count()); }

struct Setting {
  std::string name;
  std::string value;  // As pg_settings shows it.
};

// What a role or a database may have set otherwise, and what would decide over locks then.
std::vector<Setting> settings_for(const Demands& demands, bool over_tcp) {
  std::vector<Setting> all{{"lock_timeout", "0"},
                           {"statement_timeout", "0"},
                           {"transaction_timeout", "0"},  // Servers from 17 on have it.
                           {"idle_in_transaction_session_timeout", "0"},
                           {"default_transaction_isolation", "read committed"},
                           {"default_transaction_read_only", "off"},
                           {"default_transaction_deferrable", "off"},
                           {"exit_on_error", "off"},            // A slice ends with an error.
                           {"client_min_messages", "warning"},  // Why the server ends us is a warning.
                           {"idle_session_timeout", demands.session_ttl ? in_milliseconds(*demands.session_ttl) : "0"},
                           {"jit", "off"}};
  if (demands.fencing)
    all.push_back({"synchronous_commit", "on"});  // A token is not drawn twice, after a crash either.
  if (over_tcp) {
    for (const Setting& each :
         {Setting{"tcp_keepalives_idle", "9"}, Setting{"tcp_keepalives_interval", "2"},
          Setting{"tcp_keepalives_count", "3"}, Setting{"tcp_user_timeout", in_milliseconds(kNetworkBound)}}) {
      all.push_back(each);
    }
  }
  return all;
}

// As rows (n, v).
std::string rows_of(const std::vector<Setting>& settings) {
  std::string out;
  for (const Setting& each : settings) {
    out.append(out.empty() ? "(VALUES (" : ", (").append("'" + each.name + "', '" + each.value + "')");
  }
  return out + ") AS s(n, v)";
}

// Sets, and reads back what holds: a pooler may have sent the two to different sessions, and a server may round.
Status apply(Connection& connection, const std::vector<Setting>& settings, const Patience& patience) {
  constexpr std::string_view kWhat = "can't set up the session";
  const std::string known =
      " FROM " + rows_of(settings) + " JOIN pg_catalog.pg_settings ON name OPERATOR(pg_catalog.=) n";
  auto set = connection.ask(kUnhindered + ("SELECT pg_catalog.set_config(n, v, false)" + known), 1, patience, kWhat);
  if (!set) return fail(set.error());
  auto held =
      connection.ask("SELECT n, v, setting" + known + " WHERE setting OPERATOR(pg_catalog.<>) v", 3, patience, kWhat);
  if (!held) return fail(held.error());
  if (held->empty()) return {};
  const auto& row = held->front();
  return fail(errc::unsafe_setup, "the setting " + row[0].value_or("") + " was set to " + row[1].value_or("") +
                                      " and reads " + row[2].value_or("") +
                                      "; something between here and the server changes sessions");
}

// Has a server whose client died notice it while the client waits. Some services forbid it; a slice is the bound then.
void ask_for_connection_checks(Connection& connection, const Patience& patience) {
  (void)connection.ask("SELECT pg_catalog.set_config('client_connection_check_interval', '500ms', false)", 1, patience,
                       "");
}

Status check_sequence(Connection& connection, const Patience& patience) {
  constexpr std::string_view kWhat = "fencing needs the sequence lockr.fencing_token";
  auto found = connection.ask(
      "SELECT seqcache, seqincrement, seqcycle, pg_catalog.has_sequence_privilege(seqrelid, 'USAGE'), "
      "(SELECT relpersistence FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) "
      "pg_catalog.to_regclass('lockr.fencing_leapt')), pg_catalog.to_regprocedure('lockr.fencing_leap()') "
      "FROM pg_catalog.pg_sequence "
      "WHERE seqrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('lockr.fencing_token')",
      6, patience, kWhat);
  if (!found) return fail(found.error());
  if (found->empty()) return fail(from_sqlstate("42P01", kWhat, "there is none"));
  const auto& row = found->front();
  if (row[3] != "t") return fail(from_sqlstate("42501", kWhat, "permission denied for it"));
  if (number(row[0]) != 1 || number(row[1]).value_or(0) <= 0 || row[2] != "f") {
    return fail(
        errc::unsafe_setup,
        "the sequence lockr.fencing_token must have CACHE 1, a positive INCREMENT and NO CYCLE, or tokens would "
        "not grow; drop it and make it with `lockr postgres init`");
  }
  if (!row[4] || !row[5]) {
    return fail(Error(errc::backend_failure,
                      "fencing needs the table lockr.fencing_leapt and the function lockr.fencing_leap(), or tokens "
                      "would repeat after a crash of the server; make them with `lockr postgres init`, which leaves "
                      "the sequence as it is")
                    .with_native("42P01"));
  }
  if (row[4] == "u") return {};
  return fail(errc::unsafe_setup,
              "the table lockr.fencing_leapt must be UNLOGGED, as a crash of the server has to empty it, or tokens "
              "would repeat; drop it and make it with `lockr postgres init`");
}

// The timeline of the server. The sequence has leapt since the last crash when this returns, so that no number is drawn
// again which a crash took from the disk.
Result<std::uint64_t> read_epoch(Connection& connection, const Patience& patience) {
  auto found = connection.ask(
      "SELECT ('x' OPERATOR(pg_catalog.||) "
      "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))"
      "::pg_catalog.bit(32)::pg_catalog.int4::pg_catalog.int8 OPERATOR(pg_catalog.&) 4294967295, lockr.fencing_leap()",
      2, patience, "can't ready the sequence lockr.fencing_token");
  if (!found) return fail(found.error());
  const auto epoch = found->empty() ? std::nullopt : number(found->front()[0]);
  if (!epoch || *epoch <= 0 || static_cast<std::uint64_t>(*epoch) > kMostEpoch) {
    return fail(errc::unsupported, "the server's timeline does not fit into a fencing token (1 to " +
                                       std::to_string(kMostEpoch) + "); dump and restore the database");
  }
  const std::int64_t last = number(found->front()[1]).value_or(0);
  if (last <= 0 || last >= std::int64_t{1} << kSequenceBits) {
    return fail(errc::unsupported,
                "the numbers of the sequence lockr.fencing_token do not fit into a fencing token any more; after a "
                "promotion of a standby it may be restarted, as tokens begin with the server's timeline");
  }
  return static_cast<std::uint64_t>(*epoch);
}

// In pipeline mode.
Status prepare(Connection& connection, const Dialect& dialect, const Patience& patience) {
  constexpr std::string_view kWhat = "can't prepare the statements";
  PGconn* const raw = connection.raw();
  bool sent = true;
  for (std::size_t i = 0; sent && i < kStatements; ++i) {
    const auto statement = static_cast<Statement>(i);
    sent = PQsendPrepare(raw, name_of(statement), sql_of(statement, dialect).c_str(), 0, nullptr) == 1;
  }
  sent = sent && PQpipelineSync(raw) == 1 && connection.flush();
  std::optional<Error> error;
  std::size_t prepared = 0;
  bool nothing_before = false;
  while (sent) {
    while (sent && PQisBusy(raw)) {
      const short events = static_cast<short>(POLLIN | (connection.has_unsent() ? POLLOUT : 0));
      if (!wait_for(connection.fd(), events, patience)) {
        return fail(Error(errc::connection_lost, std::string(kWhat) + ": the server did not answer in time"));
      }
      sent = connection.flush() && connection.read();
    }
    if (!sent) break;
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQgetResult(raw), PQclear);
    if (!result && nothing_before) break;
    nothing_before = !result;
    if (!result) continue;  // One stands between the statements.
    switch (PQresultStatus(result.get())) {
      case PGRES_PIPELINE_SYNC:
        if (error) return fail(*error);
        return prepared == kStatements ? Status() : fail(no_answer());
      case PGRES_COMMAND_OK:
        ++prepared;
        break;
      case PGRES_FATAL_ERROR:
        if (!error) error = from_result(result.get(), kWhat);
        break;
      case PGRES_PIPELINE_ABORTED:
        break;
      default:
        return fail(no_answer());
    }
  }
  return fail(connection.ending());
}

// Fills in what the server says of itself.
Status introduce(Session& session, const Demands& demands, const Patience& patience) {
  Connection& connection = *session.connection;
  if (const int version = PQserverVersion(connection.raw()); version < kLeastVersion) {
    return fail(errc::unsupported, "lockr needs PostgreSQL 14 or later; this server is version " +
                                       std::to_string(version / 10000) + "." + std::to_string(version % 100));
  }
  auto told =
      connection.ask(std::string(kUnhindered) +
                         "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid(), "
                         "pg_catalog.current_setting('server_version'), datname, oid FROM pg_catalog.pg_database "
                         "WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
                     5, patience, "can't ask the server what it is (a pooler may have no server session left)");
  if (!told) return fail(told.error());
  if (told->empty()) return fail(errc::backend_failure, "the server does not say what it is");
  const auto& row = told->front();
  if (row[0] != "f") return fail(standby_refused());
  session.server_pid = static_cast<int>(number(row[1]).value_or(0));
  session.pooled = session.server_pid != PQbackendPID(connection.raw());
  session.version = row[2].value_or("");
  session.database = row[3].value_or("");
  session.dialect = {.fencing = demands.fencing, .database = number(row[4]).value_or(0)};
  if (session.pooled && demands.pooler == Pooler::refuse) {
    return fail(errc::unsafe_setup,
                "there is a connection pooler between here and PostgreSQL now, which was not there at the start");
  }
  return {};
}

Result<std::string> server_pid(Connection& connection, const Patience& patience) {
  auto pid = connection.ask(std::string(kUnhindered) + "SELECT pg_catalog.pg_backend_pid()", 1, patience,
                            "can't tell the pooler's mode");
  if (!pid) return fail(pid.error());
  return pid->empty() ? std::string() : pid->front()[0].value_or("");
}

// Two connections of a session pooler never share a server session. Those of a transaction pooler do, as soon as one is
// between two transactions while the other is inside one.
Status check_pooler(Connection& first, const Target& target, Sockets& sockets, const Patience& patience) {
  constexpr int kRounds = 4;
  constexpr const char* kBegin =
      "BEGIN;SET LOCAL statement_timeout = 0;SET LOCAL idle_in_transaction_session_timeout = 0";
  constexpr std::string_view kWhat = "can't tell the pooler's mode (it may have no server session left)";
  auto second = Connection::open(target, sockets, patience);
  if (!second) return fail(second.error());
  auto before = server_pid(first, patience);
  if (!before) return fail(before.error());
  for (int round = 0; round < kRounds; ++round) {
    if (auto begun = (*second)->ask(kBegin, 0, patience, kWhat); !begun) {
      const bool refused = begun.error().message().find("transaction blocks not allowed") != std::string::npos;
      return refused ? fail(pooler_refused("statement")) : fail(begun.error());
    }
    auto other = server_pid(**second, patience);
    if (!other) return fail(other.error());
    if (*other == *before) return fail(pooler_refused("transaction"));
    auto now = server_pid(first, patience);
    if (!now) return fail(now.error());
    if (*now != *before) return fail(pooler_refused("transaction"));
    if (auto ended = (*second)->ask("ROLLBACK", 0, patience, kWhat); !ended) return fail(ended.error());
  }
  return {};
}

// Its clients stay connected over a crash or a promotion, and so would never look at the sequence and the timeline
// again.
Error no_tokens_through_pooler() {
  return Error(errc::unsafe_setup,
               "\"fencing\" does not go through a pooler in transaction mode, whatever risk is accepted: tokens would "
               "repeat after a crash of the server; connect to PostgreSQL itself or use session pooling");
}

}  // namespace

Error standby_refused() {
  return Error(errc::unsafe_setup,
               "the server is a hot standby: its advisory locks exclude nobody on the primary; connect to the primary");
}

Error pooler_refused(std::string_view kind) {
  return Error(errc::unsafe_setup,
               "the connection goes through a pooler in " + std::string(kind) +
                   " mode, where session locks end up with other clients; connect to PostgreSQL itself or use session "
                   "pooling, or accept the risk with \"accept_risk\": [\"transaction_pooler\"]");
}

Result<Session> make_session(const Target& target, const Demands& demands, Sockets& sockets, const Patience& patience) {
  Session session;
  auto connection = Connection::open(target, sockets, patience);
  if (!connection) return fail(connection.error());
  session.connection = *std::move(connection);
  const bool over_network = session.connection->over_network();
  if (auto good = introduce(session, demands, patience); !good) return fail(good.error());
  if (session.pooled && demands.pooler == Pooler::check) {
    auto good = check_pooler(*session.connection, target, sockets, patience);
    if (!good) return fail(good.error());
  }
  session.kept = !session.pooled || demands.pooler != Pooler::accept;
  // How the pooler reaches the server is its own affair. Where the server session may be another each time, settings
  // would be for somebody else, and a statement be there already, or not yet.
  const bool over_tcp = over_network && !session.pooled;
  if (session.kept) {
    auto good = apply(*session.connection, settings_for(demands, over_tcp), patience);
    if (!good && session.pooled && good.error().code() == errc::unsafe_setup)
      return fail(pooler_refused("transaction"));
    if (!good) return fail(good.error());
    ask_for_connection_checks(*session.connection, patience);
  }
  session.bounds = bounds_of(demands, over_network);
  if (demands.fencing) {
    if (!session.kept) return fail(no_tokens_through_pooler());
    if (auto good = check_sequence(*session.connection, patience); !good) return fail(good.error());
    auto epoch = read_epoch(*session.connection, patience);
    if (!epoch) return fail(epoch.error());
    session.epoch = *epoch;
  }
  if (!demands.channel.empty()) {
    auto listening = session.connection->ask("LISTEN " + demands.channel, 0, patience, "can't listen");
    if (!listening) return fail(listening.error());
  }
  if (PQenterPipelineMode(session.connection->raw()) != 1) return fail(session.connection->ending());
  if (session.kept) {
    auto good = prepare(*session.connection, session.dialect, patience);
    // What we prepare is there already: the server session is another's of ours, too.
    if (!good && session.pooled && good.error().native() == "42P05") return fail(pooler_refused("transaction"));
    if (!good) return fail(good.error());
  }
  return session;
}

}  // namespace lockr::postgres
