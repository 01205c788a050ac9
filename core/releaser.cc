#include "lockr/releaser.h"

#include <time.h>
#include <unistd.h>

#include "lockr/locker.h"
#include "lockr/observer.h"

namespace lockr {
namespace {

tl::unexpected<Error> nothing_held() {
  return fail(Error(errc::not_acquired, "this Releaser is empty: it holds no lock").with_retryable(false));
}

}  // namespace

Status Releaser::release() noexcept { return grant_ ? grant_->release() : Status(); }

std::stop_token Releaser::lost_token() const { return grant_ ? grant_->lost_token() : std::stop_token(); }

std::optional<BootClock::time_point> Releaser::valid_until() const noexcept {
  return grant_ ? grant_->valid_until() : std::nullopt;
}

const Key& Releaser::key() const noexcept { return grant_ ? grant_->key() : Key::none(); }

Result<std::uint64_t> Releaser::fencing_token() const {
  if (!grant_) return nothing_held();
  return grant_->fencing_token();
}

Result<std::vector<Descriptor>> Releaser::descriptors() const {
  if (!grant_) return nothing_held();
  return grant_->descriptors();
}

// The destructors are out of line so that each class has its virtual table in this library alone.
Session::~Session() = default;
Locker::~Locker() = default;
Observer::~Observer() = default;

Result<Releaser> Session::lock(std::initializer_list<std::string_view> scopes, const LockOptions& options) {
  const auto key = Key::from_scopes(scopes);
  if (!key) return fail(key.error());
  return lock(*key, options);
}

Result<Releaser> Session::try_lock(std::initializer_list<std::string_view> scopes, Mode mode) {
  const auto key = Key::from_scopes(scopes);
  if (!key) return fail(key.error());
  return try_lock(*key, mode);
}

Result<Releaser> Locker::lock(std::initializer_list<std::string_view> scopes, const LockOptions& options) {
  const auto key = Key::from_scopes(scopes);
  if (!key) return fail(key.error());
  return lock(*key, options);
}

Result<Releaser> Locker::try_lock(std::initializer_list<std::string_view> scopes, Mode mode) {
  const auto key = Key::from_scopes(scopes);
  if (!key) return fail(key.error());
  return try_lock(*key, mode);
}

}  // namespace lockr
