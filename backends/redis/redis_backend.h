// The Redis backend: leases in one server, on few shared connections.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/redis/connector.h"
#include "backends/redis/ear.h"
#include "backends/redis/handshake.h"
#include "backends/redis/lane.h"
#include "backends/redis/link.h"
#include "backends/redis/network.h"
#include "backends/redis/options.h"
#include "backends/redis/site.h"
#include "backends/redis/upkeep.h"
#include "backends/redis/waiting.h"
#include "lockr/spi/backend.h"

namespace lockr::redis {

/// See README.md beside this file for what it promises. Its connections are the lanes, then the one of the service
/// thread, which waits, renews and looks, then the ear.
class RedisBackend final : public spi::Backend {
 public:
  RedisBackend(Options options, const spi::OpenContext& context, std::unique_ptr<Network> network);
  ~RedisBackend() override;

  Status open(spi::Sink& sink, Time until) noexcept override;
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t link, std::span<Request* const> batch) noexcept override;
  bool collect(std::uint16_t link, Time until) noexcept override;
  bool start_wait(Request& request) noexcept override;
  void stop_wait(Request& request) noexcept override;
  void pump(Time until) noexcept override;
  void wake() noexcept override;
  Result<std::vector<Holder>> inspect(const Key* key, Time until) noexcept override;
  void close(Time until) noexcept override;
  void before_fork() noexcept override { network_->before_fork(); }
  void after_fork() noexcept override { network_->after_fork(); }
  void forked() noexcept override;

 private:
  Link& service() { return *links_[options_.lanes]; }
  std::size_t ear_place() const { return links_.size(); }
  Status bring_up(std::size_t place, const Patience& patience);
  bool reconnect(std::size_t place, int stop_fd);
  void meet(const Session& session);
  void describe(const Session& session);
  void sleep(Time until);
  void drain(Time until);

  const Options options_;
  const Time connect_timeout_;
  Greeting greeting_;
  spi::Traits traits_;  // Fixed after open().
  const std::unique_ptr<Network> network_;
  Names names_;
  Leases leases_;
  Site site_;
  std::vector<std::unique_ptr<Link>> links_;
  std::optional<Upkeep> upkeep_;
  std::vector<Lane> lanes_;
  std::optional<Waiting> waiting_;
  std::optional<Ear> ear_;
  std::optional<Connector> connector_;
  std::mutex meeting_;
  std::string run_id_;                // Guarded by meeting_.
  std::atomic<bool> watched_{false};  ///< The service thread looks at the lanes by itself.
  bool closed_ = false;
  // The service thread's.
  std::vector<Network::Watch> watches_;
};

}  // namespace lockr::redis
