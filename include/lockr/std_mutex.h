// StdMutex: a session and a key as a mutex of the standard library, for std::unique_lock, std::shared_lock and
// std::scoped_lock. The one part of lockr that throws, because their interface has no other way to say no.
#pragma once

#include <chrono>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "lockr/locker.h"

namespace lockr {

/// Meets Lockable, TimedLockable, SharedLockable and SharedTimedLockable.
///
/// As with the session behind it: one per thread. Threads that share a session do not exclude each other, and no two of
/// them may be in a call of the same StdMutex. Two StdMutex of two sessions on one key exclude each other, in this
/// process or another. Within the session locks are counted, as by a std::recursive_mutex; shared to exclusive is an
/// error, `deadlock`.
///
/// Holds what it locked: destroying it releases that. The session must outlive it.
class StdMutex {
 public:
  StdMutex(Session& session, Key key) : session_(session), key_(std::move(key)) {}
  StdMutex(const StdMutex&) = delete;
  StdMutex& operator=(const StdMutex&) = delete;

  /// Waits for the key, at most the config's acquire_timeout (30 s). Throws std::system_error with the errc of
  /// Session::lock, `timeout` included: code() == std::errc::timed_out.
  void lock() { keep(session_.lock(key_)); }
  void lock_shared() { keep(session_.lock(key_, {.mode = Mode::shared})); }

  /// False when somebody else holds the key. Throws std::system_error for every other error of Session::try_lock.
  bool try_lock() { return keep_if_free(session_.try_lock(key_)); }
  bool try_lock_shared() { return keep_if_free(session_.try_lock(key_, Mode::shared)); }

  /// False when the time passed. Throws std::system_error for every other error of Session::lock.
  template <class Rep, class Period>
  bool try_lock_for(const std::chrono::duration<Rep, Period>& timeout) {
    return lock_for(Mode::exclusive, timeout);
  }
  template <class Rep, class Period>
  bool try_lock_shared_for(const std::chrono::duration<Rep, Period>& timeout) {
    return lock_for(Mode::shared, timeout);
  }
  template <class Clock, class Duration>
  bool try_lock_until(const std::chrono::time_point<Clock, Duration>& time) {
    return lock_for(Mode::exclusive, until(time));
  }
  template <class Clock, class Duration>
  bool try_lock_shared_until(const std::chrono::time_point<Clock, Duration>& time) {
    return lock_for(Mode::shared, until(time));
  }

  /// Gives back what was locked last in this mode. Never throws, as std::unique_lock's destructor calls it: the release
  /// is sent and its answer not awaited; if that says that we did not hold the key, the observer hears it. Without a
  /// lock in this mode nothing happens.
  void unlock() noexcept { give_back(Mode::exclusive); }
  void unlock_shared() noexcept { give_back(Mode::shared); }

  /// The acquisition made last, for held(), lost_token() or fencing_token(); null without one. Valid until the next
  /// call of a function above.
  const Releaser* held() const noexcept { return held_.empty() ? nullptr : &held_.back(); }
  const Key& key() const noexcept { return key_; }

 private:
  [[noreturn]] static void raise(const Error& error) { throw std::system_error(error.code(), error.message()); }

  void keep(Result<Releaser> got) {
    if (!got) raise(got.error());
    held_.push_back(*std::move(got));
  }
  bool keep_if_free(Result<Releaser> got) {
    if (!got && (got.error().code() == errc::not_acquired || got.error().code() == errc::timeout)) return false;
    keep(std::move(got));
    return true;
  }
  // time - now() in seconds: as whole ticks the difference of two far moments overflows.
  template <class Clock, class Duration>
  static std::chrono::duration<double> until(const std::chrono::time_point<Clock, Duration>& time) {
    using Seconds = std::chrono::duration<double>;
    return Seconds(time.time_since_epoch()) - Seconds(Clock::now().time_since_epoch());
  }
  template <class Rep, class Period>
  bool lock_for(Mode mode, const std::chrono::duration<Rep, Period>& timeout) {
    using Seconds = std::chrono::duration<double>;
    // What nanoseconds can't hold is for ever, or past.
    const Seconds seconds(timeout);
    const auto limit = seconds <= Seconds::zero()       ? std::chrono::nanoseconds::zero()
                       : seconds < Seconds(forever) / 2 ? std::chrono::duration_cast<std::chrono::nanoseconds>(timeout)
                                                        : forever;
    return keep_if_free(session_.lock(key_, {.mode = mode, .timeout = limit}));
  }
  void give_back(Mode mode) noexcept {
    for (auto last = held_.rbegin(); last != held_.rend(); ++last) {
      if (last->mode() != mode) continue;
      held_.erase(std::next(last).base());
      return;
    }
  }

  Session& session_;
  const Key key_;
  std::vector<Releaser> held_;
};

}  // namespace lockr
