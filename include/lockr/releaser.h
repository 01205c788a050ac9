// Releaser: the proof of one acquisition. Grant: what stands behind it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

#include "lockr/key.h"
#include "lockr/result.h"

namespace lockr {

/// exclusive: one session at a time. shared: many sessions, none of them exclusive.
enum class Mode : std::uint8_t { shared, exclusive };

/// A moment on CLOCK_BOOTTIME, the clock that also runs while the machine is suspended; lock validity is counted on it.
struct LOCKR_API BootClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<BootClock>;
  static constexpr bool is_steady = true;
  static time_point now() noexcept;
};

/// An open file descriptor that is closed with this object. Made by Releaser::descriptors().
class LOCKR_API Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// The other side of a Releaser. The library implements it; implement it yourself only to fake a lock in a test.
/// Every call may come from any thread; the Releaser above makes one of release(), dispose() at a time.
class LOCKR_API Grant {
 public:
  /// Gives the lock back and waits for the engine's answer. The first call reports; later calls return success.
  virtual Status release() noexcept = 0;
  /// Whether the lock is held and provably so at this moment.
  virtual bool held() const noexcept = 0;
  /// Whether it was lost: held once, and no longer provable. Never turns false again.
  virtual bool lost() const noexcept = 0;
  /// Fires when it is lost. Valid after this object.
  virtual std::stop_token lost_token() = 0;
  virtual std::optional<BootClock::time_point> valid_until() const noexcept = 0;
  virtual const Key& key() const noexcept = 0;
  virtual Mode mode() const noexcept = 0;
  virtual Result<std::uint64_t> fencing_token() const = 0;
  virtual Result<std::vector<Descriptor>> descriptors() const = 0;
  /// Called once, last: gives back what is still held without waiting for the answer, and ends this object.
  virtual void dispose() noexcept = 0;

 protected:
  ~Grant() = default;
};

/// The proof of one acquisition: move-only, releases once, by call or by destruction.
///
/// It may be moved between threads and released on any of them; it is not itself thread-safe, except that held(),
/// lost(), valid_until() and the token of lost_token() may be read from any thread while it is neither moved nor
/// destroyed. It may outlive its Session and its Locker: their closing releases the lock, and release() then reports
/// `session_closed` once.
class LOCKR_API Releaser {
 public:
  /// An empty Releaser: holds nothing, every call says so.
  Releaser() noexcept = default;
  /// Takes over a grant; it is disposed of, never deleted. For fakes, and for the library itself.
  explicit Releaser(Grant* grant) noexcept : grant_(grant) {}
  Releaser(Releaser&& other) noexcept : grant_(std::exchange(other.grant_, nullptr)) {}
  Releaser& operator=(Releaser&& other) noexcept {
    if (this != &other) {
      reset();
      grant_ = std::exchange(other.grant_, nullptr);
    }
    return *this;
  }
  /// Releases without waiting for the engine's answer; the request is sent before this returns, unless nothing could be
  /// sent for the config's reply_timeout: then it follows as soon as it can be. Never throws. If the
  /// engine then says that we did not hold the key, the observer hears it and `stats().not_released` counts it.
  ~Releaser() { reset(); }

  /// Gives the lock back and waits for the engine's answer, at most the config's release_timeout (5 s); it never waits
  /// behind an acquisition. Idempotent: the first call reports, later ones succeed.
  /// Errors: `lock_lost` when it was lost before; `not_released` when the engine says that we did not hold it;
  /// `session_closed` when session or locker were closed, which released it; `connection_lost` when no answer came
  /// (with may_hold_until where the engine may keep the lock for a while); `forked_process`; `access_denied` and
  /// `backend_failure` from the engine.
  Status release() noexcept;

  /// Whether the lock is held and provably so now: not released, not lost, inside its validity. On backends with a
  /// validity this reads the clock; when that has run out, the loss is announced then and there, and the lock given
  /// back in the background. A false here means: stop touching the thing.
  bool held() const noexcept { return grant_ && grant_->held(); }
  /// Whether the lock was lost (see Error codes: lock_lost). False for an empty or released one.
  bool lost() const noexcept { return grant_ && grant_->lost(); }
  /// Fires when the lock is lost, on a thread of the library; callbacks should be short. Made on first use.
  std::stop_token lost_token() const;
  /// Until when the lock is provably held, on CLOCK_BOOTTIME; nullopt when it does not run out by itself, and when it
  /// is not held any more.
  std::optional<BootClock::time_point> valid_until() const noexcept;
  /// The key; of an empty Releaser an empty key. Valid as long as this Releaser, also after release().
  const Key& key() const noexcept;
  Mode mode() const noexcept { return grant_ ? grant_->mode() : Mode::exclusive; }
  /// A number that strictly grows with each acquisition of this key, for the guarded resource to compare; re-entry by
  /// the same session has the same number. Shared holders of different processes are in no order among themselves:
  /// theirs are larger than those of all who held it exclusively before, and smaller than those who do so after.
  /// Below 2^63, never 0. `unsupported` where the engine has none.
  Result<std::uint64_t> fencing_token() const;
  /// Duplicates of the descriptors whose being open keeps this lock at the engine: a guard process that inherits them
  /// keeps the lock when we die. CLOEXEC. Empty where nothing outside the process holds it (memory).
  /// Errors: `capacity` without free descriptors, `lock_lost`, `session_closed`.
  Result<std::vector<Descriptor>> descriptors() const;
  /// Whether there is an acquisition behind this object, held, lost or released.
  explicit operator bool() const noexcept { return grant_ != nullptr; }

 private:
  void reset() noexcept {
    if (grant_) std::exchange(grant_, nullptr)->dispose();
  }

  Grant* grant_ = nullptr;
};

}  // namespace lockr
