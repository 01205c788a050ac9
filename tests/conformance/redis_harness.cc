// The Redis backend, with a server of the test's own: through its unix socket, and over TLS without fencing.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"
#include "tests/support/module_under_test.h"
#include "tests/support/redis_server.h"

namespace {

using lockr::testing::Fault;
using lockr::testing::RedisClient;
using lockr::testing::RedisServer;

// One server for all cases; none in a child that holds a key.
std::unique_ptr<RedisServer> server;

RedisServer& the_server() {
  if (!server) server = std::make_unique<RedisServer>();
  return *server;
}

class RedisHarness final : public lockr::testing::Harness {
 public:
  explicit RedisHarness(std::string section) : section_(std::move(section)) {}

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
    return {{"everything is deleted", [] { RedisClient(server->socket()).one({"FLUSHALL"}); }},
            {"a restart without persistence", [] { server->restart(); }}};
  }
  std::vector<std::string> leftovers() override { return server->leftovers(); }

 private:
  std::string config_with(const std::string& fields) const {
    return "{" + lockr::testing::backend_under_test("redis") + R"("redis": {)" + section_ + R"(, "ttl": "3s"})" +
           (fields.empty() ? "" : ", " + fields) + "}";
  }

  const std::string section_;
};

std::unique_ptr<lockr::testing::Harness> over_socket() {
  return std::make_unique<RedisHarness>(R"("socket": ")" + the_server().socket() + "\"");
}

std::unique_ptr<lockr::testing::Harness> over_tls() {
  return std::make_unique<RedisHarness>(R"("port": )" + std::to_string(the_server().tls_port()) +
                                        R"(, "tls": true, "tls_ca": ")" + the_server().certificate() +
                                        R"(", "fencing": false, "lanes": 1)");
}

}  // namespace

int main(int argc, char** argv) {
  const int status = lockr::testing::run_conformance(argc, argv, {{"redis", over_socket}, {"redis_tls", over_tls}},
                                                     lockr::testing::registry_under_test());
  server.reset();
  return status;
}
