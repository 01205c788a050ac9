// The object behind a Releaser: each call goes to the table that granted it.
#include "core/core.h"

namespace lockr::core {
namespace {

Core& core_of(const Entry& entry) noexcept { return *entry.shard->table->setup().core; }

}  // namespace

Status TableGrant::release() noexcept { return core_of(*entry_).release(*this); }

void TableGrant::dispose() noexcept {
  Core& core = core_of(*entry_);
  if (!core.give_free(*this)) core.dispose(*this);
}

bool TableGrant::held() const noexcept {
  Core& core = core_of(*entry_);
  if (state_.load(std::memory_order_acquire) != State::held || core.in_child()) return false;
  const Time until = core.table().valid_until(*this);
  if (until == kNever) return true;
  // Past its validity it is lost here and now: a late answer of the engine must not revive what somebody was told.
  if (core.runtime().boot_now() >= until) core.lapse(*this);
  // If the grant ended meanwhile, the validity read may be that of the key's next holder.
  return state_.load(std::memory_order_acquire) == State::held;
}

bool TableGrant::lost() const noexcept { return !held() && state_.load(std::memory_order_acquire) == State::lost; }

std::stop_token TableGrant::lost_token() {
  Core& core = core_of(*entry_);
  return core.in_child() ? std::stop_token() : core.table().lost_token(*this);
}

std::optional<BootClock::time_point> TableGrant::valid_until() const noexcept {
  const Time until = core_of(*entry_).table().valid_until(*this);
  if (until == kNever || state_.load(std::memory_order_acquire) != State::held) return std::nullopt;
  return BootClock::time_point(until);
}

const Key& TableGrant::key() const noexcept {
  const Extra* extra = extra_.load(std::memory_order_acquire);
  return extra && extra->alias ? *extra->alias : entry_->key;
}

Result<std::uint64_t> TableGrant::fencing_token() const {
  if (token_ == 0) return fail(errc::unsupported, "this backend has no fencing tokens, or they are not switched on");
  return token_;
}

Result<std::vector<Descriptor>> TableGrant::descriptors() const { return core_of(*entry_).descriptors(*this); }

}  // namespace lockr::core
