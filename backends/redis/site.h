// What the parts of one backend share.
#pragma once

#include <algorithm>
#include <array>
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
  std::int64_t least_token;
};

/// Which keys were somebody else's when they were last asked for. Only a part of the hash tells: it may be wrong.
class Refusals {
 public:
  bool expects(std::uint64_t identity) const noexcept { return of(identity).load(std::memory_order_relaxed); }
  void note(std::uint64_t identity, bool refused) noexcept {
    auto& mine = refused_[identity % refused_.size()];
    if (mine.load(std::memory_order_relaxed) != refused) mine.store(refused, std::memory_order_relaxed);
  }

 private:
  const std::atomic<bool>& of(std::uint64_t identity) const noexcept { return refused_[identity % refused_.size()]; }

  std::array<std::atomic<bool>, 256> refused_{};
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
  Refusals refusals{};

  /// A request to take something is about to be sent; Leases::answered() follows.
  Asked ask() const { return {.at = leases.ask(), .epoch = epoch, .least_token = least_token}; }
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

/// The arguments of Script::release. `lease_of` tells an item's lease, `keep_of` until when it is kept.
template <class Items, class LeaseOf, class KeepOf>
Arguments release_arguments(const Site& site, const Items& items, LeaseOf lease_of, KeepOf keep_of) {
  const Time now = site.runtime.boot_now();
  Arguments arguments;
  arguments.reserve(kItemBytes * items.size());
  for (const auto& each : items) add_names(arguments, site.names, lease_of(each).key);
  arguments.add(site.names.prefix()).add(in_milliseconds(kReserved));
  for (const auto& item : items) {
    const Lease& each = lease_of(item);
    const auto keep = std::chrono::ceil<std::chrono::milliseconds>(std::max(keep_of(item) - now, Time{0}));
    arguments.add(letter(each.mode)).add(each.value).add(keep.count());
  }
  return arguments;
}

/// One item of Script::take: what is to be taken, and as what to wait.
struct TakeItem {
  std::shared_ptr<const Lease> lease;
  std::string member{};
};

inline void add_least_token(Arguments& arguments, const Site& site) {
  if (site.options.fencing) {
    arguments.add(site.least_token.load(std::memory_order_relaxed));
  } else {
    arguments.add("");
  }
}

/// The arguments of Script::take. `item_of` tells what is to be taken.
template <class Items, class ItemOf = std::identity>
Arguments take_arguments(const Site& site, std::string_view rule, const Items& items, ItemOf item_of = {}) {
  const Names& names = site.names;
  Arguments arguments;
  arguments.reserve(kItemBytes * (items.size() + 1));
  arguments.add(names.token());
  for (const auto& each : items) add_names(arguments, names, item_of(each).lease->key);
  arguments.add(names.prefix()).add(in_milliseconds(kReserved)).add(names.process());
  arguments.add(in_milliseconds(site.kept()));
  add_least_token(arguments, site);
  arguments.add(rule);
  for (const auto& item : items) {
    const TakeItem& each = item_of(item);
    arguments.add(letter(each.lease->mode)).add(each.lease->value).add(each.member);
  }
  return arguments;
}

}  // namespace lockr::redis
