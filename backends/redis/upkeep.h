// Renewing what is held, and giving back what was left behind. The service thread's.
#pragma once

#include "backends/redis/link.h"
#include "backends/redis/site.h"

namespace lockr::redis {

/// add() and has_work() are thread-safe; handlers run on the thread that receives on the link.
class Upkeep {
 public:
  Upkeep(Site& site, Link& link) : site_(site), link_(link) {}

  /// Something is held now: renewals begin.
  void add(std::shared_ptr<const Lease> lease);
  /// Sends what is due. Service thread.
  void run(Time now);
  /// When to run next (steady).
  Time due() const noexcept { return due_.load(std::memory_order_relaxed); }
  /// The link is up again.
  void hurry();
  /// The core knows of a grant that was added. It is lost if that was told too early for the core: when it is of a
  /// former process of the server, or was gone when it was to be renewed.
  void granted(const Lease& lease, spi::Seat seat);
  /// Something is to be given back as soon as that can be asked; the server forgets it then by itself (boot clock).
  void give_back_later(Lease lease, Time until);
  /// Whether something of that kind is outstanding.
  bool is_clean() const { return !giving_back_.load() && !site_.leases.has_orphans(); }

 private:
  struct Round;
  void renew(const std::shared_ptr<Round>& round);
  void renewed(Round& round, const std::vector<std::shared_ptr<const Lease>>& part, const redisReply& reply);
  void end_round(const Round& round, bool complete);
  void check_clock(const redisReply& time);
  void give_back(Time now);

  Site& site_;
  Link& link_;
  std::atomic<Time> due_{spi::kNever};
  std::atomic<bool> renewing_{false};
  std::atomic<bool> giving_back_{false};
  std::atomic<Time> next_round_{spi::kNever};
  std::atomic<Time> next_giving_{spi::kNever};
  std::optional<Time> clock_ahead_;  // The server's wall clock against our boot clock, when it was looked at last.
};

}  // namespace lockr::redis
