// What the parts of one backend share.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>

#include "backends/redis/encoding.h"
#include "backends/redis/leases.h"
#include "backends/redis/link.h"
#include "backends/redis/names.h"
#include "backends/redis/options.h"
#include "lockr/spi/backend.h"

namespace lockr::redis {

using spi::Answer;
using spi::Request;

/// Fixed after open(), but for what is atomic or thread-safe.
struct Site {
  spi::Runtime& runtime;
  const Options& options;
  Names& names;
  Leases& leases;
  spi::Sink* sink = nullptr;
  LogHook log{};
  std::function<void()> wake{};         ///< The service thread has something to do.
  std::atomic<std::uint32_t> epoch{1};  ///< Which process of the server: the life of every seat.
  /// The server's clock (µs) at a moment since it began: above every token of its predecessors.
  std::atomic<std::int64_t> least_token{0};

  /// Until when a grant counts that was asked for then (boot clock).
  Time valid_from(Time asked) const { return asked + options.ttl - options.margin; }
  /// How long the server keeps a lock that it does not hear of.
  Time kept() const { return options.ttl + options.lock_delay; }
  /// Until when the server may hold what was asked for at most now.
  Time held_until() const { return runtime.boot_now() + kept(); }
};

inline std::int64_t in_milliseconds(Time time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

/// Lock and queue of a key, as the scripts want them.
inline void add_names(Arguments& keys, const Names& names, const Key& key) {
  keys.add(names.locks(), key.string()).add(names.queues(), key.string());
}

/// The arguments of Script::release.
inline Arguments release_arguments(const Site& site, std::span<const Lease> leases) {
  const Time now = site.runtime.boot_now();
  Arguments arguments;
  for (const Lease& each : leases) add_names(arguments, site.names, each.key);
  arguments.add(site.names.prefix()).add(in_milliseconds(kReserved));
  for (const Lease& each : leases) {
    const std::int64_t keep = in_milliseconds(std::max(each.keep_until - now, Time{0}));
    arguments.add(letter(each.mode)).add(each.value).add(keep);
  }
  return arguments;
}

/// One item of Script::take: what is to be taken, and as what to wait.
struct TakeItem {
  Lease lease;
  std::string member{};
};

/// The arguments of Script::take.
inline Arguments take_arguments(const Site& site, std::string_view rule, std::span<const TakeItem> items) {
  const Names& names = site.names;
  Arguments arguments;
  arguments.add(names.token());
  for (const TakeItem& each : items) add_names(arguments, names, each.lease.key);
  arguments.add(names.prefix()).add(in_milliseconds(kReserved)).add(names.process());
  arguments.add(in_milliseconds(site.kept()));
  if (site.options.fencing) {
    arguments.add(site.least_token.load(std::memory_order_relaxed));
  } else {
    arguments.add("");
  }
  arguments.add(rule);
  for (const TakeItem& each : items) arguments.add(letter(each.lease.mode)).add(each.lease.value).add(each.member);
  return arguments;
}

}  // namespace lockr::redis
