#include "backends/redis/leases.h"

#include <algorithm>
#include <utility>

namespace lockr::redis {

Time Leases::ask() {
  const std::lock_guard lock(mutex_);
  return asking_.emplace_back(runtime_.boot_now());
}

void Leases::answered(Time asked) {
  const std::lock_guard lock(mutex_);
  asking_.erase(std::lower_bound(asking_.begin(), asking_.end(), asked));
}

void Leases::add(std::shared_ptr<const Lease> lease) {
  const std::lock_guard lock(mutex_);
  held_.erase(lease->key.string());  // The name is the older lease's.
  held_.emplace(lease->key.string(), std::move(lease));
}

std::shared_ptr<const Lease> Leases::remove(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(key.string());
  if (found == held_.end()) return nullptr;
  auto lease = std::move(found->second);
  held_.erase(found);
  return lease;
}

bool Leases::remove(const Lease& lease) { return remove(lease, false); }

bool Leases::lose(const Lease& lease) { return remove(lease, true); }

bool Leases::remove(const Lease& lease, bool gone) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(lease.key.string());
  if (found == held_.end() || found->second->value != lease.value) return false;
  found->second->gone = gone;
  held_.erase(found);
  return true;
}

bool Leases::is_gone(const Lease& lease) const {
  const std::lock_guard lock(mutex_);
  return lease.gone;
}

std::size_t Leases::size() const {
  const std::lock_guard lock(mutex_);
  return held_.size();
}

std::vector<std::shared_ptr<const Lease>> Leases::next(const Lease* last, std::size_t most) const {
  std::vector<std::shared_ptr<const Lease>> some;
  some.reserve(most);
  const std::lock_guard lock(mutex_);
  for (auto it = last ? held_.upper_bound(last->key.string()) : held_.begin(); it != held_.end(); ++it) {
    if (some.size() == most) break;
    some.push_back(it->second);
  }
  return some;
}

Time Leases::complete_since() const {
  const std::lock_guard lock(mutex_);
  const Time now = runtime_.boot_now();
  return asking_.empty() ? now : std::min(now, asking_.front());
}

void Leases::orphan(Lease lease) {
  const std::lock_guard lock(mutex_);
  orphans_.push_back(std::move(lease));
}

std::vector<Lease> Leases::orphans(std::size_t most) {
  std::vector<Lease> some;
  const std::lock_guard lock(mutex_);
  const Time now = runtime_.boot_now();
  while (!orphans_.empty() && some.size() < most) {
    if (now < orphans_.front().until) some.push_back(std::move(orphans_.front()));
    orphans_.pop_front();
  }
  return some;
}

bool Leases::has_orphans() const {
  const std::lock_guard lock(mutex_);
  return !orphans_.empty();
}

void Leases::abandon(Time until) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, lease] : held_) {
    orphans_.push_back(*lease);
    orphans_.back().until = until;
  }
  held_.clear();
}

}  // namespace lockr::redis
