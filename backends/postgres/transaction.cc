// Locks that belong to a transaction of the caller's own connection.
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/postgres/connection.h"
#include "backends/postgres/errors.h"
#include "backends/postgres/handshake.h"
#include "backends/postgres/process_sessions.h"
#include "lockr/postgres.h"

namespace lockr::postgres {
namespace {

using std::chrono::milliseconds;

constexpr Time kDefaultTimeout = std::chrono::seconds(30);
constexpr Time kReply = std::chrono::seconds(3);
constexpr Time kSlice = milliseconds(750);
constexpr std::string_view kWhat = "can't take a lock in a transaction";
constexpr const char* kBegin = "SAVEPOINT lockr_lock;";
constexpr const char* kEnd = ";RELEASE SAVEPOINT lockr_lock";
constexpr const char* kUndo = "ROLLBACK TO SAVEPOINT lockr_lock;RELEASE SAVEPOINT lockr_lock";

Time after(Time now, Time span) { return span >= spi::kNever - now ? spi::kNever : now + span; }

std::string number_of(const Key& key) { return std::to_string(static_cast<std::int64_t>(key.hash())); }

class Exchange {
 public:
  explicit Exchange(PGconn* connection) : connection_(connection) {}

  using Row = Connection::Row;

  /// Sends statements as one message and gathers all their rows, each of so many columns at least.
  Result<std::vector<Row>> run(const std::string& sql, int columns, Time until) {
    if (!PQsendQuery(connection_, sql.c_str())) return fail(broken());
    std::vector<Row> rows;
    std::optional<Error> error;
    for (;;) {
      if (auto here = await_result(until); !here) return fail(error ? *error : here.error());
      const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQgetResult(connection_), PQclear);
      if (!result) break;
      const ExecStatusType status = PQresultStatus(result.get());
      const bool rows_fit = status == PGRES_TUPLES_OK && PQnfields(result.get()) >= columns;
      if (status != PGRES_FATAL_ERROR && status != PGRES_COMMAND_OK && !rows_fit) return fail(no_answer());
      if (status == PGRES_FATAL_ERROR && !error) error = from_result(result.get(), kWhat);
      for (Row& row : Connection::rows_of(result.get())) rows.push_back(std::move(row));
    }
    if (error) return fail(*std::move(error));
    return rows;
  }

 private:
  Status await_result(Time until) {
    for (;;) {
      const int unsent = PQflush(connection_);
      if (unsent < 0) return fail(broken());
      if (!PQisBusy(connection_)) return {};
      const short events = static_cast<short>(POLLIN | (unsent > 0 ? POLLOUT : 0));
      if (!wait_for(PQsocket(connection_), events, {spi::system_runtime(), until})) {
        return fail(errc::connection_lost, std::string(kWhat) + ": the server did not answer in time");
      }
      if (!PQconsumeInput(connection_)) return {};  // PQgetResult() has what the server said last, and the end.
    }
  }

  Error broken() const { return connection_ended({}, PQerrorMessage(connection_)); }

  PGconn* const connection_;
};

Status check(PGconn* connection, const Key& key) {
  if (key.empty()) return fail(errc::invalid_key, "the key is empty: it was moved from");
  if (!connection || PQstatus(connection) != CONNECTION_OK) {
    return fail(errc::connection_lost, "the connection given for a lock in a transaction is not open");
  }
  if (PQpipelineStatus(connection) != PQ_PIPELINE_OFF) {
    return fail(errc::session_busy, "the connection is in pipeline mode; leave it to lock in a transaction");
  }
  switch (PQtransactionStatus(connection)) {
    case PQTRANS_INTRANS:
      return {};
    case PQTRANS_IDLE:
      return fail(from_sqlstate("25P01", kWhat, "the connection is in no transaction, BEGIN one first"));
    case PQTRANS_INERROR:
      return fail(from_sqlstate("25P02", kWhat, "the transaction has failed, roll it back first"));
    case PQTRANS_ACTIVE:
      return fail(errc::session_busy, "the connection is inside a command; read its results first");
    case PQTRANS_UNKNOWN:
      break;
  }
  return fail(errc::connection_lost, "the connection given for a lock in a transaction is broken");
}

// "700ms", "2min", "0", as the server writes a timeout; never for none.
Time timeout_of(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, std::int64_t>, 5> kUnits{
      {{"ms", 1}, {"s", 1'000}, {"min", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}}};
  std::int64_t count = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view unit = text.substr(static_cast<std::size_t>(rest - text.data()));
  const auto* const found =
      std::find_if(kUnits.begin(), kUnits.end(), [&](const auto& each) { return each.first == unit; });
  if (error != std::errc() || count <= 0 || found == kUnits.end()) return spi::kNever;
  return milliseconds(count * found->second);
}

/// One key on one connection.
class TransactionLock {
 public:
  TransactionLock(PGconn* connection, const Key& key, Mode mode)
      : connection_(connection), exchange_(connection), key_(key), shared_(mode == Mode::shared ? "_shared" : "") {}

  /// True: it is ours.
  Result<bool> attempt() {
    auto rows = guarded(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE "
        "pg_catalog.pg_try_advisory_xact_lock" +
            shared_ + "(" + number_of(key_) + ") END, pg_catalog.current_setting('lock_timeout')",
        2, after(now(), kReply));
    if (!rows) return fail(rows.error());
    if (rows->empty() || !rows->front()[0]) {
      return fail(standby_refused());
    }
    lock_timeout_ = rows->front()[1].value_or("0");
    return rows->front()[0] == "t";
  }

  /// How long the connection itself would wait for a lock; known after an attempt.
  Time own_timeout() const { return timeout_of(lock_timeout_); }

  /// Whether the other holder is a locker of this process.
  Result<bool> held_here() {
    auto rows = guarded(
        "SELECT pid FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND granted "
        "AND objsubid OPERATOR(pg_catalog.=) 1 AND database OPERATOR(pg_catalog.=) (SELECT oid "
        "FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) "
        "AND ((classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) objid::pg_catalog.int8) "
        "OPERATOR(pg_catalog.=) " +
            number_of(key_),
        1, after(now(), kReply));
    if (!rows) return fail(rows.error());
    std::vector<int> pids;
    for (const Connection::Row& row : *rows) pids.push_back(std::atoi(row[0].value_or("0").c_str()));
    return held_in_this_process(pids, static_cast<std::int64_t>(key_.hash()));
  }

  /// False: the time is over.
  Result<bool> wait(Time span) {
    // The server counts in int milliseconds, and 0 is without end.
    const auto most = milliseconds(std::chrono::hours(24 * 24));
    const auto limit = std::clamp(std::chrono::ceil<milliseconds>(std::min<Time>(span, most)), milliseconds(1), most);
    const std::string timeout = span == spi::kNever ? "0" : std::to_string(limit.count()) + "ms";
    const auto until = span == spi::kNever ? spi::kNever : after(now(), limit + kReply);
    auto rows = guarded(set_timeout(timeout) + "SELECT pg_catalog.pg_advisory_xact_lock" + shared_ + "(" +
                            number_of(key_) + ");" + set_timeout(lock_timeout_) + "SELECT 1",
                        1, until);
    if (rows && rows->size() != 4) return fail(no_answer());
    if (rows) return true;
    if (rows.error().native() == kLockTimeout) return false;
    return fail(rows.error());
  }

 private:
  static Time now() { return spi::system_runtime().steady_now(); }

  std::string set_timeout(const std::string& value) {
    const std::unique_ptr<char, void (*)(void*)> quoted(PQescapeLiteral(connection_, value.c_str(), value.size()),
                                                        PQfreemem);
    return "SELECT pg_catalog.set_config('lock_timeout', " + std::string(quoted ? quoted.get() : "'0'") + ", true);";
  }

  // What is between the savepoint and its end either stands or has never been.
  Result<std::vector<Connection::Row>> guarded(const std::string& sql, int columns, Time until) {
    auto rows = exchange_.run(kBegin + sql + kEnd, columns, until);
    if (rows || PQtransactionStatus(connection_) != PQTRANS_INERROR) return rows;
    if (auto undone = exchange_.run(kUndo, 0, after(now(), kReply)); !undone) return fail(undone.error());
    return rows;
  }

  PGconn* const connection_;
  Exchange exchange_;
  const Key& key_;
  const std::string shared_;
  std::string lock_timeout_ = "0";
};

Status wait_until(TransactionLock& lock, const LockOptions& options, Time until) {
  for (;;) {
    if (options.stop.stop_requested()) return fail(Error(errc::cancelled));
    const Time now = spi::system_runtime().steady_now();
    if (now >= until) return fail(Error(errc::timeout).with_native(std::string(kLockTimeout)));
    Time span = until == spi::kNever ? spi::kNever : until - now;
    if (options.stop.stop_possible()) span = std::min(span, kSlice);
    const auto got = lock.wait(span);
    if (!got) return fail(got.error());
    if (*got) return {};
  }
}

Time deadline_of(const LockOptions& options, Time start, Time unless_told) {
  const Time span = options.timeout ? *options.timeout : options.deadline ? spi::kNever : unless_told;
  const Time until = after(start, span);
  return options.deadline ? std::min<Time>(until, options.deadline->time_since_epoch()) : until;
}

// `longest`: without timeout and deadline it waits no longer, and no longer than the connection would.
Status acquire(PGconn* connection, const Key& key, const LockOptions& options, Time longest) {
  if (auto good = check(connection, key); !good) return good;
  if (options.stop.stop_requested()) return fail(Error(errc::cancelled));
  const Time start = spi::system_runtime().steady_now();
  TransactionLock lock(connection, key, options.mode);
  const auto got = lock.attempt();
  if (!got) return fail(got.error());
  if (*got) return {};
  if (options.timeout && *options.timeout <= Time{0}) return fail(Error(errc::not_acquired));
  const auto here = lock.held_here();
  if (!here) return fail(here.error());
  if (*here) {
    return fail(errc::deadlock,
                "a locker of this process holds the key: the transaction would wait for its own process");
  }
  return wait_until(lock, options, deadline_of(options, start, std::min(longest, lock.own_timeout())));
}

Status named(Status locked, const Key& key) {
  if (locked) return locked;
  return fail(Error(locked.error()).with_key(key.string()));
}

}  // namespace

Status lock_in_transaction(PGconn* connection, const Key& key, const LockOptions& options) {
  return named(acquire(connection, key, options, kDefaultTimeout), key);
}

Status lock_in_transaction(PGconn* connection, const LockerConfig& config, const Key& key, const LockOptions& options) {
  if (config.backend() != "postgres" && config.backend() != "postgresql") {
    return fail(errc::invalid_config, "the config is not of the backend \"postgres\": its lockers lock elsewhere");
  }
  const std::string& scope = config.key_namespace();
  const Result<Key> full = scope.empty() || key.empty() ? Result<Key>(key) : key.prefixed(scope);
  if (!full) return named(fail(full.error()), key);
  return named(acquire(connection, *full, options, config.acquire_timeout()), *full);
}

Status try_lock_in_transaction(PGconn* connection, const Key& key, Mode mode) {
  return lock_in_transaction(connection, key, {.mode = mode, .timeout = Time{0}});
}

Status try_lock_in_transaction(PGconn* connection, const LockerConfig& config, const Key& key, Mode mode) {
  return lock_in_transaction(connection, config, key, {.mode = mode, .timeout = Time{0}});
}

}  // namespace lockr::postgres
