// What this process holds at the server, and what it may have left behind there.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/key.h"
#include "lockr/releaser.h"
#include "lockr/spi/runtime.h"

namespace lockr::redis {

using spi::Time;

/// One lock in the server's books.
struct Lease {
  Key key;
  std::string value;
  Mode mode;
  std::uint16_t lane = 0;     ///< Where its release goes.
  Time until = spi::kNever;   ///< Of an orphan: boot clock; later the server has forgotten it.
  Time keep_until = Time{0};  ///< Its release leaves it at the server until then (boot clock).
  mutable bool gone = false;  ///< The server no longer had it when it was to be renewed. Under the mutex of Leases.
};

/// Thread-safe.
class Leases {
 public:
  explicit Leases(spi::Runtime& runtime) : runtime_(runtime) {}

  /// A request to take something is about to be sent: what it takes is valid from now on (boot clock).
  Time ask();
  /// Its answer came, after add(), or will not come.
  void answered(Time asked);
  /// What was taken.
  void add(std::shared_ptr<const Lease> lease);
  /// Takes it off the books, before the release is sent: from then on nothing renews it. Null: it is not on them.
  std::shared_ptr<const Lease> remove(const Key& key);
  /// The same if it is still this acquisition.
  bool remove(const Lease& lease);
  /// The same of one that the server no longer has.
  bool lose(const Lease& lease);
  bool is_gone(const Lease& lease) const;
  std::size_t size() const;

  /// The next few in the order of their keys; those behind `last`, or the first.
  std::vector<std::shared_ptr<const Lease>> next(const Lease* last, std::size_t most) const;
  /// A moment before which all that may be added was asked for: what is renewed from now on is all there is (boot).
  Time complete_since() const;

  /// Something that the server may hold for us though nobody wants it: to be given back once that can be asked.
  void orphan(Lease lease);
  /// Takes some; those that the server has forgotten by itself are dropped.
  std::vector<Lease> orphans(std::size_t most);
  bool has_orphans() const;
  /// The server has changed: all becomes orphans.
  void abandon(Time until);

 private:
  bool remove(const Lease& lease, bool gone);

  spi::Runtime& runtime_;
  mutable std::mutex mutex_;
  std::map<std::string_view, std::shared_ptr<const Lease>> held_;  // By the lease's own key; guarded, as are the next.
  std::deque<Time> asking_;                                        // In order.
  std::deque<Lease> orphans_;
};

}  // namespace lockr::redis
