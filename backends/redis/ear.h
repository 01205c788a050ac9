// The connection that hears our name: a subscription to this process's channel.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "backends/redis/connection.h"

namespace lockr::redis {

/// Thread-safe; heard() runs on the thread that receives.
class Ear {
 public:
  Ear(std::function<void(std::string_view message)> heard, std::function<void()> went_down)
      : heard_(std::move(heard)), went_down_(std::move(went_down)) {}

  /// Subscribes. Errors: `access_denied` and those of the connection.
  Status attach(std::shared_ptr<Connection> connection, const std::string& channel, const Patience& patience);
  void close() noexcept;
  /// Null: down.
  std::shared_ptr<Connection> connection() const;
  /// Takes in what has arrived, without waiting.
  void receive();

 private:
  const std::function<void(std::string_view message)> heard_;
  const std::function<void()> went_down_;
  mutable std::mutex mutex_;
  std::shared_ptr<Connection> connection_;  // Guarded by mutex_.
};

}  // namespace lockr::redis
