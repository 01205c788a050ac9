// The PostgreSQL backend, with a server of the test's own: through its unix socket, and over TCP with a short
// session_ttl and fencing.
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"
#include "tests/support/module_under_test.h"
#include "tests/support/postgres_server.h"

namespace {

using lockr::testing::Fault;
using lockr::testing::PostgresServer;
using lockr::testing::Psql;

// One server for all cases; none in a child that holds a key.
std::unique_ptr<PostgresServer> server;

PostgresServer& the_server() {
  if (!server) {
    server = std::make_unique<PostgresServer>();
    server->prepare_fencing();
  }
  return *server;
}

class PostgresHarness final : public lockr::testing::Harness {
 public:
  explicit PostgresHarness(std::string section) : section_(std::move(section)) {}

  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    auto config = lockr::LockerConfig::from_json(config_with(opening.fields));
    if (!config) return lockr::fail(config.error());
    return lockr::testing::registry_under_test().open(*config, opening.options);
  }
  bool excludes_across_lockers() const override { return true; }
  lockr::Result<std::unique_ptr<lockr::testing::OtherProcess>> hold_elsewhere(const lockr::Key& key) override {
    return lockr::testing::hold_in_child(config_with({}), key);
  }
  std::vector<Fault> faults() override {
    return {{"the sessions are terminated", [] { server->terminate_clients(); }},
            {"a fast restart", [] { server->restart(true); }},
            {"an immediate restart", [] { server->restart(false); }}};
  }
  std::vector<std::string> leftovers() override { return server->advisory_locks(); }

 private:
  std::string config_with(const std::string& fields) const {
    return "{" + lockr::testing::backend_under_test("postgres") + R"("postgres": {)" + section_ + "}" +
           (fields.empty() ? "" : ", " + fields) + "}";
  }

  const std::string section_;
};

std::unique_ptr<lockr::testing::Harness> over_socket() {
  return std::make_unique<PostgresHarness>(R"("dsn": ")" + the_server().dsn() + "\"");
}

std::unique_ptr<lockr::testing::Harness> over_tcp() {
  return std::make_unique<PostgresHarness>(R"("dsn": ")" + the_server().tcp_dsn() +
                                           R"(", "session_ttl": "4s", "fencing": true, "lanes": 1, "waiters": 2)");
}

}  // namespace

int main(int argc, char** argv) {
  const int status = lockr::testing::run_conformance(
      argc, argv, {{"postgres", over_socket}, {"postgres_tcp", over_tcp}}, lockr::testing::registry_under_test());
  server.reset();
  return status;
}
