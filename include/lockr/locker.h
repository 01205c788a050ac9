// Locker and Session: where locks come from.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockr/key.h"
#include "lockr/releaser.h"
#include "lockr/result.h"

namespace lockr {

/// A timeout that never passes; it must be written, the default is the config's acquire_timeout (30 s).
inline constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

/// How to take a lock. With neither timeout nor deadline the config's acquire_timeout applies.
struct LockOptions {
  Mode mode = Mode::exclusive;
  /// How long to wait, on the steady clock; zero or less means try. Counted from when the call finds the key taken.
  std::optional<std::chrono::nanoseconds> timeout{};
  /// Until when to wait; the earlier of the two applies.
  std::optional<std::chrono::steady_clock::time_point> deadline{};
  /// Leaves the queue with `cancelled` when it fires. A grant that came first stands.
  std::stop_token stop{};
  /// For what must not be done twice in a while: so long after the grant the key stays taken, for this process too,
  /// even if it was released before. The engine keeps it, so the program may end; if it dies before it released, the
  /// key is free when that is noticed (Capabilities::takeover). Only with Capabilities::hold_at_least, else
  /// `unsupported`.
  std::chrono::nanoseconds hold_at_least{0};
  /// So long after the grant the lock is lost and given back if it is still held; not below hold_at_least. Not on the
  /// memory backend: `unsupported`. Both are for exclusive locks; a re-entry can prolong the one and shorten the other.
  std::chrono::nanoseconds hold_at_most = forever;
};

/// What a session is called and how it behaves.
struct SessionOptions {
  /// Shown by inspect() and `lockr who`; the config's label when empty. At most 128 bytes are kept.
  std::string label{};
  /// False for a session that threads share: its waits then take no part in deadlock detection.
  bool deadlock_detection = true;
  /// True for a session that owns a connection to the engine, opened with it and ended by close(); its locks go with
  /// it. Where the backend has none (Capabilities::dedicated): `unsupported`. See docs/guide.md on what it is for.
  ///
  /// One call that acquires at a time: another thread's is `session_busy`, at once. release() and close() may come from
  /// any thread. A connection that ended is not made anew: from then on calls say `connection_lost`, not retryable.
  /// A wait occupies the connection: a release from another thread takes up to 1.5 s then, and so does the next call
  /// after a wait that was given up.
  /// It stands beside the lock table: it is in none of its queues, deadlock detection and stats(), and its observer's
  /// events come on a notifier thread of its own. Waiting for a key that another session of its Locker holds is
  /// `deadlock` at once.
  bool dedicated = false;
};

/// Who holds, or waits for, a key.
struct Holder {
  std::string key;
  Mode mode = Mode::exclusive;
  bool waiting = false;
  std::string host;
  std::int64_t pid = 0;  ///< 0 when unknown.
  std::string label;
  std::optional<std::chrono::system_clock::time_point> since;  ///< By the holder's clock; nullopt when not recorded.
};

/// What a backend can do and promises.
struct Capabilities {
  std::string backend;
  bool shared = false;         ///< Mode::shared is served.
  bool fencing = false;        ///< fencing_token() is served.
  bool cross_process = false;  ///< Excludes other processes of this host.
  bool cross_host = false;     ///< Excludes other hosts.
  bool fair = false;           ///< Waiters of different processes are served in order of arrival.
  bool dedicated = false;      ///< Sessions may have a connection of their own: SessionOptions::dedicated.
  bool hold_at_least = false;  ///< A key may stay taken after its release: LockOptions::hold_at_least.
  /// Bound on how long a key stays taken after its holder's process died; nullopt where holder and waiter die together.
  std::optional<std::chrono::nanoseconds> takeover{};
  /// Bound on how long we may believe in a lock that the engine gave away; zero where that can't happen.
  std::chrono::nanoseconds loss{0};
  /// What else a person may want to know about this engine, in the order to print it: {"lock directory",
  /// "/run/lock/…"}. Names are a few words, unique; no secrets.
  std::vector<std::pair<std::string, std::string>> facts{};
};

/// Counters since the locker was opened, and two gauges. One snapshot, each number exact when nothing runs.
struct Stats {
  std::uint64_t acquired = 0;  ///< Grants, re-entries included, and what a lock_all gave back as it could not have all.
  std::uint64_t reentries = 0;     ///< Grants to a session that held the key already.
  std::uint64_t released = 0;      ///< Given back by call or destructor.
  std::uint64_t not_acquired = 0;  ///< Tries that found the key taken.
  std::uint64_t waited = 0;        ///< Calls that had to wait in the queue.
  std::uint64_t timeouts = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t deadlocks = 0;
  std::uint64_t handed_off = 0;  ///< Grants passed between sessions without asking the engine.
  std::uint64_t lost = 0;
  std::uint64_t not_released = 0;
  std::uint64_t engine_requests = 0;  ///< Requests sent to the engine.
  std::uint64_t engine_batches = 0;   ///< Batches they went in.
  std::uint64_t held = 0;             ///< Now: grants not yet released.
  std::uint64_t waiting = 0;          ///< Now: callers in a queue.
};

/// One owner of locks. Two sessions exclude each other; one session may take the same key again (counted: each Releaser
/// gives back its own). Exclusive covers shared within a session; shared to exclusive is `deadlock` at once.
///
/// Abstract, so that a test can replace it. Every call may be made from many threads at once, but threads that share a
/// session do not exclude each other: use one session per thread or request. Free: no connection stands behind it.
/// Destroying it is close(); no call may be running in it then.
class LOCKR_API Session {
 public:
  virtual ~Session();

  /// Waits for the key and takes it. Errors: `timeout`; `cancelled`; `deadlock`; `not_acquired` when the timeout was
  /// zero or less; `session_closed`; `capacity`, at once; `unsupported` (mode); `invalid_key` (an empty key);
  /// `connection_lost` once the deadline passed while the engine could not be reached; `forked_process`;
  /// `access_denied` and `backend_failure` from the engine. After an error nothing is held for the caller (see
  /// Error::may_hold_until). Keys are taken in order of arrival: who has waited over 1 ms is granted before any
  /// newcomer.
  virtual Result<Releaser> lock(const Key& key, const LockOptions& options = {}) = 0;

  /// Takes the key if no one holds it; never waits for a holder, only for the engine's answer (at most reply_timeout,
  /// 3 s, then `connection_lost`). Errors: `not_acquired`, and those of lock() but for the waiting ones.
  virtual Result<Releaser> try_lock(const Key& key, Mode mode = Mode::exclusive) = 0;

  /// Takes all keys or none, in one canonical order whatever the order given, so that two lock_all never deadlock with
  /// each other; one round trip when all are free. One Releaser a key, in the order given; a key given twice is taken
  /// twice. No keys: `invalid_key`. Errors as lock(); error().key() names the key that could not be had.
  virtual Result<std::vector<Releaser>> lock_all(std::span<const Key> keys, const LockOptions& options = {}) = 0;

  /// Takes the first of the keys, in the order given, that is free; one round trip. Releaser::key() tells which.
  /// Errors as try_lock; `not_acquired` when none is free.
  virtual Result<Releaser> try_lock_any(std::span<const Key> keys, Mode mode = Mode::exclusive) = 0;

  /// Releases everything the session holds and makes its waiters leave with `session_closed`; bounded by the config's
  /// release_timeout (5 s). Idempotent: the first call reports, later ones succeed.
  /// Errors: `connection_lost` when the engine did not answer in time; `forked_process`; the first of those that
  /// Releaser::release has from the engine.
  virtual Status close() = 0;

  virtual std::string_view label() const noexcept = 0;

  /// The same with the key's scopes: `lock({"tenant", "42"})`. Adds `invalid_key` as Key::from_scopes words it.
  Result<Releaser> lock(std::initializer_list<std::string_view> scopes, const LockOptions& options = {});
  Result<Releaser> try_lock(std::initializer_list<std::string_view> scopes, Mode mode = Mode::exclusive);
};

/// A configured connection to one engine; makes sessions. Made by lockr::open().
///
/// Abstract, so that a test can replace it. Every call may be made from many threads at once. Destroying it closes it;
/// sessions and releasers may outlive it and then say `session_closed`.
class LOCKR_API Locker {
 public:
  virtual ~Locker();

  /// Makes an owner of locks. Errors: `session_closed` after close(); `forked_process`. A dedicated one connects,
  /// within connect_timeout, and adds `unsupported` and the errors of lockr::open().
  virtual Result<std::unique_ptr<Session>> open_session(SessionOptions options = {}) = 0;

  /// Takes a key with a session of its own, which ends with the Releaser. Errors as Session::lock.
  virtual Result<Releaser> lock(const Key& key, const LockOptions& options = {}) = 0;
  virtual Result<Releaser> try_lock(const Key& key, Mode mode = Mode::exclusive) = 0;

  /// Who holds and who waits, of every process as far as the engine can tell; of `key` alone when given, to which the
  /// config's namespace is added as lock() adds it (Holder::key has it). A snapshot.
  /// Errors: `connection_lost`, `access_denied`, `backend_failure`, `session_closed`, `forked_process`, `invalid_key`.
  virtual Result<std::vector<Holder>> inspect(const Key* key = nullptr) = 0;

  virtual Stats stats() const = 0;
  virtual const Capabilities& capabilities() const noexcept = 0;

  /// Closes every session and the connection to the engine; waits at most the config's release_timeout (5 s) in all.
  /// Idempotent. Errors as Session::close.
  virtual Status close() = 0;

  Result<Releaser> lock(std::initializer_list<std::string_view> scopes, const LockOptions& options = {});
  Result<Releaser> try_lock(std::initializer_list<std::string_view> scopes, Mode mode = Mode::exclusive);
};

}  // namespace lockr
