// What is asked of a lane: batches of takes and releases, as calls of scripts.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/redis/link.h"
#include "backends/redis/site.h"
#include "backends/redis/upkeep.h"

namespace lockr::redis {

/// Turns requests into calls and answers into done(). Called by the lane's driver.
class Lane {
 public:
  Lane(std::uint16_t number, Site& site, Link& link, Upkeep& upkeep);

  /// Releases first, then takes, then groups.
  void submit(std::span<Request* const> batch);

 private:
  struct Release {
    Request* request;  // Null where a yield's lock is given back, which its take answers.
    std::shared_ptr<const Lease> lease;
    Time keep_until;
  };
  struct Take {
    Request* request;
    TakeItem item;
  };
  struct Group {
    std::string_view rule;
    std::vector<Take> takes;
    bool plain = false;  // To be asked for by Script::take_all.
  };
  void release(std::vector<Release> releases);
  void release_one(const Release& one);
  void released(const std::vector<Release>& releases, const Outcome& outcome);
  void take_each(std::vector<Take> takes);
  void take_plainly(std::vector<Take> takes);
  void taken_plainly(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome);
  void take_anew(const std::vector<Take>& takes);
  void take_all(std::vector<Take> takes);
  void taken_all(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome);
  void take(std::string_view rule, std::vector<Take> takes);
  void taken(const std::vector<Take>& takes, const Asked& asked, const Outcome& outcome);
  void answer_take(const Take& take, const Asked& asked, const redisReply& item);
  void granted(const Take& take, const Asked& asked, std::int64_t token);
  void fail_take(const Take& take, const Outcome& outcome);
  std::vector<Group> groups_of(std::span<Request* const> batch) const;
  Take take_of(Request& request) const;
  Take take_of(Request& request, std::string value) const;
  void done(Request& request, Answer answer) const;

  const std::uint16_t number_;
  const std::string set_end_;  // Of a SET that takes a lock; encoded.
  Site& site_;
  Link& link_;
  Upkeep& upkeep_;
};

}  // namespace lockr::redis
