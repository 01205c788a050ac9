// Engines behind a bad network, or on a bad host.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/support/network.h"
#include "tests/support/proxy.h"
#include "tests/support/small_disk.h"
#include "tests/torture/postgres_rig.h"
#include "tests/torture/redis_rig.h"

namespace lockr::torture {

/// Through a proxy of our own.
class PostgresProxyRig final : public PostgresRig {
 public:
  PostgresProxyRig();
  std::string name() const override { return "postgres_proxy"; }
  std::vector<std::unique_ptr<Fault>> faults() override;

 protected:
  std::string dsn() const override;

 private:
  testing::Proxy proxy_{server().port()};
};

class RedisProxyRig final : public RedisRig {
 public:
  std::string name() const override { return "redis_proxy"; }
  std::vector<std::unique_ptr<Fault>> faults() override;

 protected:
  std::string address() const override;

 private:
  testing::Proxy proxy_{server().port()};
};

/// What was sent into a dead network is not waited for any longer than the network is dead.
inline constexpr const char* kSoonAgain = R"("connect_timeout": "1s", )";

/// Workers are on another host than the server, and a router is in between. Throws Network::Refused.
class PostgresNetworkRig final : public PostgresRig {
 public:
  static std::unique_ptr<Rig> make();
  explicit PostgresNetworkRig(std::unique_ptr<testing::Network> network);
  std::string name() const override { return "postgres_network"; }
  bool enter(int /*worker*/) const override { return network_->enter_client(); }
  std::vector<std::unique_ptr<Fault>> faults() override;

 protected:
  std::string dsn() const override;
  std::string fields() const override { return kSoonAgain; }

 private:
  const std::unique_ptr<testing::Network> network_;
};

class RedisNetworkRig final : public RedisRig {
 public:
  static std::unique_ptr<Rig> make();
  explicit RedisNetworkRig(std::unique_ptr<testing::Network> network);
  std::string name() const override { return "redis_network"; }
  bool enter(int /*worker*/) const override { return network_->enter_client(); }
  std::vector<std::unique_ptr<Fault>> faults() override;

 protected:
  std::string address() const override;
  std::string fields() const override { return kSoonAgain; }

 private:
  const std::unique_ptr<testing::Network> network_;
};

/// The server's clock is set, its disk is filled. Throws SmallDisk::Refused.
class RedisHostRig final : public RedisRig {
 public:
  /// The server's host; made before the server.
  struct Host {
    testing::ServerClock clock{CLOCK_SHIM};
    std::chrono::nanoseconds ahead{0};
    testing::DaemonDirectory directory{};
    testing::SmallDisk disk{directory.path(), "size=1m,mode=777"};
  };

  static std::unique_ptr<Rig> make();
  explicit RedisHostRig(std::unique_ptr<Host> host);
  std::string name() const override { return "redis_host"; }
  std::vector<std::unique_ptr<Fault>> faults() override;

 private:
  void save_to_the_disk(bool full);

  const std::unique_ptr<Host> host_;
};

/// Locks in a directory whose disk is filled up. Throws SmallDisk::Refused.
class FileDiskRig final : public Rig {
 public:
  FileDiskRig();
  std::string name() const override { return "file_disk"; }
  std::string config(int worker) const override;
  bool enter(int /*worker*/) const override { return disk_.enter(); }
  std::vector<std::unique_ptr<Fault>> faults() override;
  Bounds bounds() const override;

 private:
  const testing::DaemonDirectory directory_;
  const testing::SmallDisk disk_{directory_.path(), "size=4m,nr_inodes=1200,mode=700"};
};

}  // namespace lockr::torture
