// A PostgreSQL server of our own, and what can be done to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/postgres_server.h"
#include "tests/torture/run.h"

namespace lockr::torture {

class PostgresRig : public Rig {
 public:
  /// `session_ttl`: as in the config, "2s"; empty for none. `place`, `settings`: of the server. Throws when there is no
  /// server.
  explicit PostgresRig(std::string session_ttl = {}, testing::Place place = {}, std::vector<std::string> settings = {});
  std::string name() const override { return "postgres"; }
  std::string config(int worker) const override;
  std::vector<std::unique_ptr<Fault>> faults() override;
  std::vector<std::string> leftovers(bool workers) override;
  Bounds bounds() const override;
  std::optional<std::chrono::nanoseconds> lease() const override;

  testing::PostgresServer& server() { return server_; }
  const testing::PostgresServer& server() const { return server_; }

 protected:
  /// How workers reach it.
  virtual std::string dsn() const { return server_.dsn(); }
  /// More fields of the config, each before a comma.
  virtual std::string fields() const { return {}; }

 private:
  testing::PostgresServer server_;
  const std::string session_ttl_;
};

}  // namespace lockr::torture
