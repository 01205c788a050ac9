// Waiting for locks that others hold: in the server's queue, until somebody names us or it is time to look again.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "backends/redis/link.h"
#include "backends/redis/site.h"
#include "backends/redis/upkeep.h"

namespace lockr::redis {

/// Thread-safe. Calls the sink without a lock of its own.
class Waiting {
 public:
  Waiting(Site& site, Link& link, Upkeep& upkeep) : site_(site), link_(link), upkeep_(upkeep) {}

  void start(Request& request);
  void stop(const Request& request);

  /// A release named us for this key.
  void named(std::string_view key);
  /// The link is up again. Looks again at all keys: what we were told may have been lost.
  void look_again();
  /// Looks again at those that are due. Returns when the next one is (steady).
  Time run(Time now);

 private:
  struct Wait {
    Request* request;
    std::string member;
    std::uint64_t number = 0;  // Of this wait, among all.
    bool asked = false;        // A question is outstanding.
    bool again = false;        // Somebody named us meanwhile.
    bool stopped = false;
    Time due{0};  // Steady.
  };
  using Waits = std::map<std::string, Wait, std::less<>>;
  using Lock = std::unique_lock<std::mutex>;

  void ask(Lock& lock, Wait& wait);
  void answered(const std::shared_ptr<const Lease>& lease, std::uint64_t number, const Asked& asked,
                const Outcome& outcome);
  void granted(Lock& lock, Waits::iterator at, const Lease& lease, const Asked& asked, std::int64_t token);
  void refused(Lock& lock, Waits::iterator at, std::int64_t left);
  void failed(Lock& lock, Waits::iterator at, const Outcome& outcome);
  void leave(const Key& key, const std::string& member);
  void leave_later(std::string key, std::string member);
  void leave_strays();
  Time strays_due();

  Site& site_;
  Link& link_;
  Upkeep& upkeep_;
  std::mutex mutex_;
  Waits waits_;  // By key; guarded by mutex_, as is the next.
  std::uint64_t next_number_ = 0;
  std::mutex strays_mutex_;
  // Guarded by strays_mutex_.
  std::set<std::pair<std::string, std::string>> strays_;  // Key and member.
  Time strays_due_{0};                                    // Steady.
};

}  // namespace lockr::redis
