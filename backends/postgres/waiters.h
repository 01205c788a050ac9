// Waiting in the server's queue, in slices.
//
// A wait that blocks pins a snapshot, deadlocks with CREATE INDEX CONCURRENTLY beyond deadlock_timeout, and outlives a
// dead client, so it is cut into slices. Each cut loses the place in the queue: where the key keeps changing hands, the
// slices grow. Between slices the few waiters go round the many keys.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "backends/postgres/link.h"

namespace lockr::postgres {

/// Thread-safe.
class Waiters {
 public:
  /// `links` outlive this.
  Waiters(std::span<const std::unique_ptr<Link>> links, spi::Runtime& runtime) : links_(links), runtime_(runtime) {}

  bool start(Request& request);
  void stop(const Request& request);
  /// For Site::slice_over.
  void slice_over(Request& request, std::int64_t holder);

 private:
  struct Slice {
    Time length;
    std::int64_t holder = 0;
  };
  Time slice_for(std::uint64_t identity);

  const std::span<const std::unique_ptr<Link>> links_;
  spi::Runtime& runtime_;
  std::atomic<bool> turned_away_{false};  ///< A key found no waiter free.
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Slice>
      slices_;  // Guarded by mutex_. Of keys whose last slice ended without a grant.
};

}  // namespace lockr::postgres
