// The smallest whole backend: a table of leases behind three calls. It shows what spi/polling.h leaves to write.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "lockr/spi/polling.h"

namespace lockr::testing {

using spi::Time;

/// The service: who holds which key, and for how long. Shared by the processes that use it. Thread-safe.
class MapTable {
 public:
  struct Row {
    int owner = 0;  ///< 0: nobody.
    Time until{0};
    std::uint64_t token = 0;
  };

  /// Calls `action(row)` for a key, with the service's mutex held.
  template <class Action>
  auto with(const Key& key, Action action) {
    std::lock_guard lock(mutex_);
    return action(rows_[std::string(key.string())]);
  }
  /// The rows that are held at `now`.
  std::map<std::string, Row> held(Time now) {
    std::lock_guard lock(mutex_);
    std::map<std::string, Row> rows = rows_;
    std::erase_if(rows, [&](const auto& row) { return row.second.owner == 0 || row.second.until <= now; });
    return rows;
  }
  /// Takes every lock away.
  void free_all() {
    std::lock_guard lock(mutex_);
    for (auto& [key, row] : rows_) row.owner = 0;
  }
  /// An unreachable service answers nothing.
  std::atomic<bool> reachable{true};
  /// Each user's number.
  std::atomic<int> owners{0};

 private:
  std::mutex mutex_;
  std::map<std::string, Row> rows_;
};

/// One process that uses the service.
class MapBackend final : public spi::PollingBackend {
 public:
  MapBackend(std::shared_ptr<MapTable> table, spi::Runtime& runtime, Time validity)
      : PollingBackend(runtime, traits_of(validity),
                       {.validity = validity, .poll_interval = std::chrono::milliseconds(2)}),
        table_(std::move(table)),
        validity_(validity) {}

 private:
  static spi::Traits traits_of(Time validity) {
    spi::Traits traits;
    traits.capabilities = {.backend = "map", .fencing = true, .cross_process = true, .takeover = validity};
    return traits;
  }

  Status connect(Time /*until*/) noexcept override {
    if (!table_->reachable) return fail(unreachable());
    owner_ = ++table_->owners;
    return {};
  }

  void take(std::span<spi::Request* const> batch) noexcept override {
    for (spi::Request* request : batch) {
      if (!answered(*request)) continue;
      request->answer = table_->with(*request->key, [&](MapTable::Row& row) {
        if (row.owner != 0 && row.until > now()) return spi::Answer::refused;
        row = {.owner = owner_, .until = now() + validity_, .token = row.token + 1};
        request->token = row.token;
        return spi::Answer::granted;
      });
    }
  }

  void give_back(std::span<spi::Request* const> batch) noexcept override {
    for (spi::Request* request : batch) {
      if (!answered(*request)) continue;
      request->answer = table_->with(*request->key, [&](MapTable::Row& row) {
        if (row.owner != owner_ || row.until <= now()) return spi::Answer::not_held;
        row.owner = 0;
        return spi::Answer::released;
      });
    }
  }

  Status renew(std::span<Held> batch) noexcept override {
    if (!table_->reachable) return fail(unreachable());
    for (Held& held : batch) {
      held.lost = table_->with(held.key, [&](MapTable::Row& row) {
        if (row.owner != owner_ || row.until <= now()) return true;
        row.until = now() + validity_;
        return false;
      });
    }
    return {};
  }

  static Error unreachable() { return Error(errc::connection_lost, "the table can't be reached; try again later"); }
  Time now() { return runtime().boot_now(); }
  bool answered(spi::Request& request) {
    if (table_->reachable) return true;
    request.answer = spi::Answer::failed;
    request.error = unreachable();
    return false;
  }

  const std::shared_ptr<MapTable> table_;
  const Time validity_;
  int owner_ = 0;
};

}  // namespace lockr::testing
