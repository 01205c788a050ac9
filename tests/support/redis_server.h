// A Redis server for tests, and plain connections to it.
#pragma once

#include <hiredis/hiredis.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/port.h"

namespace lockr::testing {

/// A plain hiredis connection, as a foreign program would have one. Throws std::runtime_error when a call fails.
class RedisClient {
 public:
  explicit RedisClient(const std::string& socket);
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;
  ~RedisClient() { redisFree(context_); }

  /// Runs one command; the elements of an array, joined with '|' where they are arrays themselves, or one value. An
  /// error reply is "!" and its words.
  std::vector<std::string> all(const std::vector<std::string>& command);
  /// The first of them, "" for none.
  std::string one(const std::vector<std::string>& command);
  /// A number out of INFO: "cmdstat_publish:calls=12,…" is info("commandstats", "cmdstat_publish:calls=").
  long long info(const std::string& section, const std::string& start);
  redisContext* get() const { return context_; }

 private:
  redisContext* context_;
};

/// The wall clock of a server. Throws std::runtime_error when it can't be made.
class ServerClock {
 public:
  /// `shim`: path of the library that is preloaded into the server; by default the one that LOCKR_TEST_CLOCK names.
  explicit ServerClock(const std::string& shim = {});
  ServerClock(const ServerClock&) = delete;
  ServerClock& operator=(const ServerClock&) = delete;
  ~ServerClock();
  /// Shows so much more than the machine's.
  void set(std::chrono::nanoseconds ahead);
  /// What goes before a server's command.
  std::vector<std::string> command() const;

 private:
  DaemonDirectory directory_;
  volatile std::int64_t* ahead_;
};

/// A server of its own, without persistence: on a unix socket, a port of 127.0.0.1, and another one for TLS with a
/// certificate of its own. Throws std::runtime_error when redis-server is not installed or does not start.
class RedisServer {
 public:
  /// `settings`: more of them, as on the command line: {"--maxmemory", "3mb"}.
  /// `prefix`: what goes before the program, as of ServerClock. `place`: as of a Daemon.
  explicit RedisServer(std::vector<std::string> settings = {}, std::vector<std::string> prefix = {}, Place place = {});
  ~RedisServer();

  std::string socket() const { return directory_ / "redis.sock"; }
  std::uint16_t port() const { return port_.number(); }
  std::uint16_t tls_port() const { return tls_port_.number(); }
  /// The certificate of the server, for "localhost" and 127.0.0.1, which signed itself.
  std::string certificate() const { return directory_ / "server.crt"; }
  std::string url(const std::string& parameters = {}) const { return "redis+unix://" + socket() + parameters; }
  const DaemonDirectory& directory() const { return directory_; }
  pid_t pid() const { return daemon_->pid(); }

  void start();
  void stop();
  /// Forgets everything.
  void restart();

  /// Locks and queues that are stored under the prefix.
  std::vector<std::string> leftovers(const std::string& prefix = "lockr:");

 private:
  std::vector<std::string> settings_;
  std::vector<std::string> prefix_;
  const Place place_;
  DaemonDirectory directory_;
  Port port_;
  Port tls_port_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace lockr::testing
