// What the PostgreSQL benchmarks have in common: a private server, lockr over it, and the client that everybody writes
// by hand.
#pragma once

#include <libpq-fe.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockr/lockr.h"
#include "placement.h"
#include "tests/support/postgres_server.h"

namespace lockr::bench {

/// The private server; it is started at first use and ends with the program. Without PostgreSQL the program ends with
/// an error.
const testing::PostgresServer& postgres_server();
/// Its dsn, over the unix socket.
const std::string& server_dsn();

/// lockr with 2 lanes and 4 waiters, as by default; `top` fields of the config start with a comma. What can't be had
/// ends the program.
std::unique_ptr<Locker> open_postgres(const std::string& dsn, const std::string& top = {});

/// libpq by hand: one connection, statements prepared once, binary parameters. What fails ends the program.
class Bare {
 public:
  explicit Bare(const std::string& dsn);
  Bare(const Bare&) = delete;
  Bare& operator=(const Bare&) = delete;
  ~Bare() { PQfinish(connection_); }

  bool try_lock(std::int64_t key) { return call("try_lock", key); }
  /// Waits in the server's queue.
  void lock(std::int64_t key) { call("lock", key); }
  void unlock(std::int64_t key) { call("unlock", key); }
  void lock_shared(std::int64_t key) { call("lock_shared", key); }
  void unlock_shared(std::int64_t key) { call("unlock_shared", key); }
  /// Locks so many keys in one statement.
  void lock_range(std::int64_t first, std::size_t count);
  /// The round trip that many pools and packages make before they use a connection.
  void ping();
  int server_pid() const { return PQbackendPID(connection_); }

 private:
  bool call(const char* statement, std::int64_t key);

  PGconn* connection_;
};

/// The server's processes for lockr's connections.
std::vector<int> lockr_server_pids(const std::string& dsn);

}  // namespace lockr::bench
