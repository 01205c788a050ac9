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

/// When something was asked for, and of which process of the server.
struct Asked {
  Time at;  ///< Boot clock.
  std::uint32_t epoch;
};

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

  /// A request to take something is about to be sent; Leases::answered() follows.
  Asked ask() const { return {.at = leases.ask(), .epoch = epoch}; }
  /// Until when a grant counts that was asked for then (boot clock).
  Time valid_from(Time asked) const { return asked + options.ttl - options.margin; }
  /// How long the server keeps a lock that it does not hear of.
  Time kept() const { return options.ttl + options.lock_delay; }
  /// Until when the server may hold what was asked for at most now.
  Time held_until() const { return runtime.boot_now() + kept(); }
};

/// Why locks of another process of the server are lost.
inline Error server_changed() {
  return Error(errc::lock_lost, "Redis was restarted, or another server has taken its place");
}

inline std::int64_t in_milliseconds(Time time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

/// Lock and queue of a key, as the scripts want them.
inline void add_names(Arguments& keys, const Names& names, const Key& key) {
  keys.add(names.locks(), key.string()).add(names.queues(), key.string());
}

/// About how many bytes an item takes in the arguments of a script.
inline constexpr std::size_t kItemBytes = 256;

/// The arguments of Script::release. `lease_of` tells an item's lease.
template <class Items, class LeaseOf = std::identity>
Arguments release_arguments(const Site& site, const Items& items, LeaseOf lease_of = {}) {
  const Time now = site.runtime.boot_now();
  Arguments arguments;
  arguments.reserve(kItemBytes * items.size());
  for (const auto& each : items) add_names(arguments, site.names, lease_of(each).key);
  arguments.add(site.names.prefix()).add(in_milliseconds(kReserved));
  for (const auto& item : items) {
    const Lease& each = lease_of(item);
    const auto keep = std::chrono::ceil<std::chrono::milliseconds>(std::max(each.keep_until - now, Time{0}));
    arguments.add(letter(each.mode)).add(each.value).add(keep.count());
  }
  return arguments;
}

/// One item of Script::take: what is to be taken, and as what to wait.
struct TakeItem {
  Lease lease;
  std::string member{};
};

/// The arguments of Script::take. `item_of` tells what is to be taken.
template <class Items, class ItemOf = std::identity>
Arguments take_arguments(const Site& site, std::string_view rule, const Items& items, ItemOf item_of = {}) {
  const Names& names = site.names;
  Arguments arguments;
  arguments.reserve(kItemBytes * (items.size() + 1));
  arguments.add(names.token());
  for (const auto& each : items) add_names(arguments, names, item_of(each).lease.key);
  arguments.add(names.prefix()).add(in_milliseconds(kReserved)).add(names.process());
  arguments.add(in_milliseconds(site.kept()));
  if (site.options.fencing) {
    arguments.add(site.least_token.load(std::memory_order_relaxed));
  } else {
    arguments.add("");
  }
  arguments.add(rule);
  for (const auto& item : items) {
    const TakeItem& each = item_of(item);
    arguments.add(letter(each.lease.mode)).add(each.lease.value).add(each.member);
  }
  return arguments;
}

}  // namespace lockr::redis
