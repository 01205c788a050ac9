#include "tests/torture/road_rigs.h"

#include <chrono>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/torture/host_faults.h"
#include "tests/torture/network_faults.h"
#include "tests/torture/process_faults.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using testing::Network;
using testing::RedisClient;

using Faults = std::vector<std::unique_ptr<Fault>>;

// A little more than what the backends tell with the configs of these rigs.
constexpr Temper kPostgresTemper{.bound_to_connections = true, .reply = 1s, .loss = 2500ms};
constexpr Temper kRedisTemper{.bound_to_connections = false, .reply = 1s, .loss = 1500ms};

Faults joined(Faults some, Faults more) {
  some.insert(some.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  return some;
}

std::string tcp_dsn(const std::string& host, std::uint16_t port) {
  return "host=" + host + " user=postgres dbname=postgres sslmode=disable port=" + std::to_string(port);
}

std::string tcp_address(const std::string& host, std::uint16_t port) {
  return R"("host": ")" + host + R"(", "port": )" + std::to_string(port);
}

}  // namespace

// ---- proxies

PostgresProxyRig::PostgresProxyRig() : PostgresRig("2s") {}
std::string PostgresProxyRig::dsn() const { return tcp_dsn("127.0.0.1", proxy_.port()); }
Faults PostgresProxyRig::faults() { return joined(process_faults(lease()), proxy_faults(proxy_, kPostgresTemper)); }

std::string RedisProxyRig::address() const { return tcp_address("127.0.0.1", proxy_.port()); }
Faults RedisProxyRig::faults() { return joined(process_faults(lease()), proxy_faults(proxy_, kRedisTemper)); }

// ---- networks

std::unique_ptr<Rig> PostgresNetworkRig::make() {
  return std::make_unique<PostgresNetworkRig>(std::make_unique<Network>());
}
PostgresNetworkRig::PostgresNetworkRig(std::unique_ptr<Network> network)
    : PostgresRig("2s", {.network = network->server()},
                  {std::string("listen_addresses=127.0.0.1,") + Network::kServer}),
      network_(std::move(network)) {
  server().set_hba("local all all trust\nhost all all 0.0.0.0/0 trust\n");
}
std::string PostgresNetworkRig::dsn() const { return tcp_dsn(Network::kServer, server().port()); }
Faults PostgresNetworkRig::faults() {
  return joined(process_faults(lease()), packet_faults(*network_, kPostgresTemper));
}

std::unique_ptr<Rig> RedisNetworkRig::make() { return std::make_unique<RedisNetworkRig>(std::make_unique<Network>()); }
RedisNetworkRig::RedisNetworkRig(std::unique_ptr<Network> network)
    : RedisRig({"--bind", "127.0.0.1", Network::kServer, "--protected-mode", "no"}, {}, {.network = network->server()}),
      network_(std::move(network)) {}
std::string RedisNetworkRig::address() const { return tcp_address(Network::kServer, server().port()); }
Faults RedisNetworkRig::faults() { return joined(process_faults(lease()), packet_faults(*network_, kRedisTemper)); }

// ---- hosts

std::unique_ptr<Rig> RedisHostRig::make() { return std::make_unique<RedisHostRig>(std::make_unique<Host>()); }
RedisHostRig::RedisHostRig(std::unique_ptr<Host> host)
    : RedisRig({"--dir", host->directory.path()}, host->clock.command(), {.mounts = host->disk.mounts()}),
      host_(std::move(host)) {}

Faults RedisHostRig::faults() {
  Faults faults = process_faults(lease());
  const auto move = [this](std::chrono::nanoseconds by) { host_->clock.set(host_->ahead += by); };
  faults.push_back(clock_forward(move, *lease()));
  faults.push_back(clock_back(move, *lease()));
  faults.push_back(no_descriptors());
  // What it refuses to take back stays for the rest of its lease.
  faults.push_back(full_disk(host_->disk, kFails | kMayLose | kDisturbs, *lease() + 1s,
                             [this](bool full) { save_to_the_disk(full); }));
  return faults;
}

// A server that could not save refuses to be written to, until it could.
void RedisHostRig::save_to_the_disk(bool full) {
  RedisClient control(server().socket());
  if (full) control.one({"CONFIG", "SET", "save", "3600 1"});
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  do {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the server does not feel its disk");
    control.one({"BGSAVE"});
    while (control.info("persistence", "rdb_bgsave_in_progress:") != 0) std::this_thread::sleep_for(1ms);
  } while (control.one({"SET", "written", "1"}).starts_with("!MISCONF") != full);
  if (!full) control.one({"CONFIG", "SET", "save", ""});
}

FileDiskRig::FileDiskRig() : Rig({}) {}
std::string FileDiskRig::config(int /*worker*/) const { return "file:" + directory_.path(); }
Bounds FileDiskRig::bounds() const { return {.wake = 50 * kMillisecond, .reserve = 60 * kMillisecond}; }
Faults FileDiskRig::faults() {
  Faults faults = process_faults(std::nullopt);
  faults.push_back(no_descriptors());
  faults.push_back(full_disk(disk_, 0, 0s));  // It allocates what it needs when it opens the directory.
  return faults;
}

}  // namespace lockr::torture
