// A PostgreSQL server for tests, and plain connections to it.
#pragma once

#include <libpq-fe.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/port.h"

namespace lockr::testing {

/// A plain libpq connection, as a foreign program would have one. Throws std::runtime_error when a call fails.
class Psql {
 public:
  explicit Psql(const std::string& dsn);
  Psql(const Psql&) = delete;
  Psql& operator=(const Psql&) = delete;
  ~Psql() { PQfinish(connection_); }

  /// Runs one statement; every row is its columns joined with '|', NULL as "".
  std::vector<std::string> rows(const std::string& sql);
  /// The first row.
  std::string row(const std::string& sql);
  int backend_pid() const { return PQbackendPID(connection_); }
  PGconn* get() const { return connection_; }

 private:
  PGconn* connection_;
};

/// One cluster of its own: trust authentication for local users, fsync off. Throws std::runtime_error when PostgreSQL
/// is not installed or does not start.
class PostgresServer {
 public:
  /// `settings`: more of them, "name=value". `place`: as of a Daemon.
  explicit PostgresServer(std::vector<std::string> settings = {}, Place place = {});
  /// A hot standby of a running one.
  PostgresServer(const PostgresServer& primary, std::vector<std::string> settings);
  ~PostgresServer();

  /// Through the unix socket, and over TCP.
  std::string dsn(const std::string& user = "postgres", const std::string& database = "postgres") const;
  std::string tcp_dsn(const std::string& user = "postgres", const std::string& database = "postgres") const;
  std::uint16_t port() const { return port_.number(); }
  const DaemonDirectory& directory() const { return directory_; }
  pid_t pid() const { return daemon_->pid(); }

  void start();
  /// Ends every connection and stops; `fast` in good order, otherwise as after a crash.
  void stop(bool fast);
  void restart(bool fast);
  /// Replaces pg_hba.conf and has the server read it.
  void set_hba(const std::string& text);

  /// Ends every connection that lockr opened, and waits until they are gone.
  void terminate_clients();
  /// Makes what fencing needs in the database "postgres", as `lockr postgres init` does.
  void prepare_fencing();
  /// Advisory locks and waits for them, a line each.
  std::vector<std::string> advisory_locks();

 private:
  std::vector<std::string> settings_;
  const Place place_;
  DaemonDirectory directory_;
  Port port_;
  std::unique_ptr<Daemon> daemon_;
};

/// A pooler before a server; ended with the object. Throws std::runtime_error when it is not installed or does not
/// start.
class PgBouncer {
 public:
  /// `mode`: "session", "transaction" or "statement"; so many server sessions for all its clients.
  PgBouncer(const PostgresServer& server, const std::string& mode, int pool_size);
  ~PgBouncer();

  std::string dsn() const {
    return "host=127.0.0.1 user=postgres dbname=postgres port=" + std::to_string(port_.number());
  }

 private:
  DaemonDirectory directory_;
  Port port_;
  std::unique_ptr<Daemon> daemon_;
};

/// The path of one of PostgreSQL's programs; throws when it is not installed.
std::string postgres_program(const std::string& name);

}  // namespace lockr::testing
