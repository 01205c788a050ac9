// A Redis server of our own, and what can be done to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/redis_server.h"
#include "tests/torture/run.h"

namespace lockr::torture {

class RedisRig final : public Rig {
 public:
  /// `settings`: of the server, as on its command line. Throws when there is no server.
  explicit RedisRig(std::vector<std::string> settings = {});
  std::string name() const override { return "redis"; }
  std::string config(int worker) const override;
  std::vector<std::unique_ptr<Fault>> faults() override;
  std::vector<std::string> leftovers(bool workers) override;
  Bounds bounds() const override;
  std::optional<std::chrono::nanoseconds> lease() const override;

  testing::RedisServer& server() { return server_; }

 private:
  testing::RedisServer server_;
};

}  // namespace lockr::torture
