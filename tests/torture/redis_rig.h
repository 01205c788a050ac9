// A Redis server of our own, and what can be done to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/redis_server.h"
#include "tests/torture/run.h"

namespace lockr::torture {

class RedisRig : public Rig {
 public:
  /// `settings`, `prefix`, `place`: as of a RedisServer. Throws when there is no server.
  explicit RedisRig(std::vector<std::string> settings = {}, std::vector<std::string> prefix = {},
                    testing::Place place = {});
  std::string name() const override { return "redis"; }
  std::string config(int worker) const override;
  std::vector<std::unique_ptr<Fault>> faults() override;
  std::vector<std::string> leftovers(bool workers) override;
  Bounds bounds() const override;
  std::optional<std::chrono::nanoseconds> lease() const override;

  testing::RedisServer& server() { return server_; }
  const testing::RedisServer& server() const { return server_; }

 protected:
  /// How workers reach it: fields of the section.
  virtual std::string address() const { return R"("socket": ")" + server_.socket() + "\""; }
  /// More fields of the config, each before a comma.
  virtual std::string fields() const { return {}; }

 private:
  testing::RedisServer server_;
};

}  // namespace lockr::torture
