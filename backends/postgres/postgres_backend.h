// The PostgreSQL backend: session advisory locks on few shared connections.
#pragma once

#include <poll.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/postgres/census.h"
#include "backends/postgres/connector.h"
#include "backends/postgres/link.h"
#include "backends/postgres/options.h"
#include "backends/postgres/process_sessions.h"
#include "backends/postgres/waiters.h"
#include "lockr/spi/backend.h"

namespace lockr::postgres {

/// See README.md beside this file for what it promises. Links are the lanes, then the waiters.
class PostgresBackend final : public spi::Backend, private ProcessSessions {
 public:
  PostgresBackend(Options options, const spi::OpenContext& context);
  ~PostgresBackend() override;

  Status open(spi::Sink& sink, Time until) noexcept override;
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t link, std::span<Request* const> batch) noexcept override;
  bool collect(std::uint16_t link, Time until) noexcept override;
  bool start_wait(Request& request) noexcept override;
  void stop_wait(Request& request) noexcept override;
  void pump(Time until) noexcept override;
  void wake() noexcept override;
  Result<std::vector<Holder>> inspect(const Key* key, Time until) noexcept override;
  Result<std::vector<Descriptor>> descriptors(spi::Seat seat, const Key& key) noexcept override;
  void close(Time until) noexcept override;
  void before_fork() noexcept override { sockets_.lock(); }
  void after_fork() noexcept override { sockets_.unlock(); }
  void forked() noexcept override;

 private:
  Demands demands_for(std::size_t link) const;
  std::vector<int> server_sessions() override;
  bool holds(std::int64_t identity) override;
  Result<Session> connect(std::size_t link, const Patience& patience);
  Status connect_others(const Patience& patience);
  bool reconnect(std::uint16_t link, int stop_fd);
  static std::string way_of(const Connection& connection);
  void describe(const Session& session);
  void poll_links(Time until);

  const Options options_;
  Target target_;
  const Time connect_timeout_;
  spi::Traits traits_;  // Fixed after open().
  Demands demands_;
  Sockets sockets_;
  Site site_;
  std::vector<std::unique_ptr<Link>> links_;
  std::optional<Waiters> waiters_;
  std::optional<Census> census_;
  std::optional<Connector> connector_;
  std::array<std::atomic<int>, 128> server_pids_{};  ///< Of the links' sessions; 0: it is down.
  Descriptor wake_event_;
  bool closed_ = false;
  // The service thread's.
  bool known_ = false;
  std::vector<Link::Watch> watches_;
  std::vector<pollfd> polls_;
};

}  // namespace lockr::postgres
