// The lock table: who holds and who waits, inside this process.
//
// It locks identities for sessions: queues in order of arrival, modes, counts, hand-off, deadlock detection. Beneath it
// is an engine that the process as a whole asks, or nothing (the memory backend). The table does no I/O and calls
// nobody: each operation returns, in Effects, what is to be sent and whom to wake once its mutex is free. table.cc has
// the state x event table.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/pool.h"
#include "core/short_mutex.h"
#include "core/sleeper.h"
#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/observer.h"
#include "lockr/releaser.h"
#include "lockr/spi/backend.h"

namespace lockr::core {

using spi::kNever;
using spi::Time;

class Core;
class Table;
struct Entry;
struct Shard;
struct SessionCore;

inline constexpr std::size_t kShards = 64;
/// Sessions take turns at these: those of one stripe use the same entries again.
inline constexpr std::size_t kStripes = 4;
/// Who has waited this long is granted before any newcomer; until then newcomers may barge.
inline constexpr Time kBarging = std::chrono::milliseconds(1);
/// A key is passed between local sessions at most this long (or limits.handoff times) before others get a turn.
inline constexpr Time kHandoff = std::chrono::milliseconds(10);
/// Engine token = engine number * kTokenPasses + pass.
inline constexpr std::uint64_t kTokenPasses = 1024;

/// What a session has in one shard: a grant or a waiter. Linked under the shard's mutex.
struct Claim {
  explicit Claim(bool waits) noexcept : waiting(waits) {}

  Claim* prev;
  Claim* next;
  SessionCore* session;
  const bool waiting;
};

/// One owner of locks, as the table sees it.
struct SessionCore {
  explicit SessionCore(std::string text) : label(std::move(text)), stripe(next_stripe()) {}

  const std::string label;
  const std::uint8_t stripe;
  bool detect_deadlocks = true;
  bool one_shot = false;  // Deleted with its only grant.
  std::atomic<bool> closed{false};
  std::atomic<std::uint64_t> touched{0};  // A bit for each shard where it ever had a claim.
  std::array<Claim*, kShards> claims{};   // Each under its shard's mutex.

 private:
  static std::uint8_t next_stripe() noexcept;
};

/// A caller in a queue; lives in the caller's frame and is unlinked under the shard's mutex.
struct Waiter : Claim {
  Waiter() noexcept : Claim(true) {}

  Sleeper sleeper;
  const void* caller = this;  // Of several waiters of one call: the same for all.
  Waiter* ahead;
  Waiter* behind;
  Entry* entry;
  const Key* key;              // The caller's.
  class TableGrant* grant;     // Once it is granted.
  std::optional<Error> error;  // Once it has failed.
  Time arrived;                // Steady clock.
  Mode mode;
  bool is_try;     // Takes the answer in flight, never waits for a holder.
  bool unopposed;  // It began to wait for the engine alone: nobody here held the key or stood before it.
  bool notified;   // Woken to take a free key; no one else is woken meanwhile.
  bool overdue;    // Has waited for kBarging: nobody passes it.
};

/// One acquisition; the object behind a Releaser. Pooled: the first of an entry lies inside it.
class TableGrant final : public Claim, public Grant {
 public:
  enum class State : std::uint8_t { unused, held, released, lost, closed };

  TableGrant() noexcept : Claim(false) {}
  TableGrant(const TableGrant&) = delete;
  TableGrant& operator=(const TableGrant&) = delete;
  ~TableGrant() { delete extra_.load(std::memory_order_relaxed); }

  Status release() noexcept override;
  bool held() const noexcept override;
  bool lost() const noexcept override;
  std::stop_token lost_token() override;
  std::optional<BootClock::time_point> valid_until() const noexcept override;
  const Key& key() const noexcept override;
  Mode mode() const noexcept override { return mode_; }
  Result<std::uint64_t> fencing_token() const override;
  Result<std::vector<Descriptor>> descriptors() const override;
  void dispose() noexcept override;

 private:
  friend class Table;

  /// What few grants need, made at need under the shard's mutex.
  struct Extra {
    std::optional<Key> alias;  // Another key with the entry's identity; fixed before the grant is given.
    std::stop_source lost{std::nostopstate};
    std::optional<Error> reason;
    Time since{0};  // Steady; while an observer wants held times.
  };

  // Under the shard's mutex.
  Extra& extra() {
    Extra* extra = extra_.load(std::memory_order_relaxed);
    if (!extra) {
      extra = new Extra;
      extra_.store(extra, std::memory_order_release);
    }
    return *extra;
  }

  // In the order that lets the small ones fill the padding behind Claim.
  Mode mode_ = Mode::exclusive;
  std::atomic<State> state_{State::unused};
  bool reported_ = false;  // Whether release() has told how it ended.
  bool one_shot_ = false;  // Its session ends with it.
  Entry* entry_ = nullptr;
  TableGrant* prev_holder_ = nullptr;
  TableGrant* next_holder_ = nullptr;
  std::atomic<Extra*> extra_{nullptr};
  std::uint64_t token_ = 0;
};

/// Waits for the answer to a release; lives in the releasing caller's frame.
struct ReleaseWait {
  Sleeper sleeper;
  const void* caller = this;  // As of a Waiter.
  std::optional<Error> error;
};

/// A release that the closing of a session waits for.
struct PendingRelease {
  Entry* entry = nullptr;
  ReleaseWait wait;
};

/// The engine's side of an entry. Exists when there is an engine; pooled.
struct Hold {
  enum class State : std::uint8_t {
    absent,   // Nothing held, no take outstanding.
    asking,   // A take or yield is outstanding that will be answered at once.
    waiting,  // The engine waits for us, or we poll.
    held,     // Held by `seat` in `mode`.
  };

  State state = State::absent;
  Mode mode = Mode::exclusive;
  bool take_busy = false;  // `take` is with the backend; at the engine's wait, or between polls, see `polling`.
  bool give_busy = false;
  // The give is in the queue of its own link: what is queued there from now on is behind it. Set by the lane.
  std::atomic<bool> give_queued{false};
  bool polling = false;        // waiting, and nothing outstanding until `not_before`.
  bool stopping = false;       // stop_wait was sent.
  bool cleanup = false;        // `give` returns what was lost here by its validity; nobody is told if it was gone.
  std::uint32_t mourning = 0;  // Losses whose announcement is not over; the key is not asked for before.
  std::uint32_t passes = 0;
  Time handing_since{0};  // Steady; first pass since the engine's grant.
  Time not_before{0};     // Steady; no take before: an unknown outcome, a retry, a poll.
  std::atomic<spi::Seat> seat{};
  std::atomic<Time> valid_until{kNever};
  std::atomic<Time> limit{kNever};  // Boot clock; hold_at_most is over.
  Time keep_until{0};               // Boot clock; hold_at_least is over.
  std::uint64_t token = 0;
  std::optional<Error> trouble;  // Why the engine can't be asked.
  ReleaseWait* release_wait = nullptr;
  Hold* timed_prev = nullptr;
  Hold* timed_next = nullptr;
  bool timed = false;
  Entry* entry = nullptr;
  spi::Request take;
  spi::Request give;
  std::array<char, 128> label;  // Of the session that asked last.

  void reset(Entry& owner) noexcept;
};

/// One identity that someone holds, waits for or still refers to.
struct Entry {
  Waiter* tail = nullptr;
  Key key = Key::none();  // Empty while the entry is unused.
  Shard* shard = nullptr;
  Hold* hold = nullptr;
  Waiter* head = nullptr;
  TableGrant* holders = nullptr;
  std::uint32_t exclusive = 0;  // Grants of each mode among the holders.
  std::uint32_t shared = 0;
  std::uint32_t references = 0;  // Grants of any state that a Releaser still refers to.
  union {
    std::uint32_t index = 0;  // In the shard's slab.
    std::uint32_t next_free;  // While it is unused.
  };
  bool counted = false;     // Against limits.held.
  std::uint8_t stripe = 0;  // Of the session that brought it into use.
  TableGrant first;
};

/// Something to tell after the mutex is free.
struct Notice {
  std::optional<Event> event{};
  std::optional<std::stop_source> fire{};
  Entry* mourned = nullptr;  // Told: Table::mourned() follows.
};

/// What an operation asks to be done once its mutex is free.
struct Effects {
  spi::Request* send = nullptr;  // To submit, in order.
  spi::Request** send_tail = &send;
  spi::Request* wait = nullptr;      // To start_wait().
  std::vector<spi::Request*> stops;  // To stop_wait().
  Wakes wakes;
  const void* self = nullptr;   // The Waiter::caller that this thread is: it needs no waking.
  bool rearm = false;           // A timer became due earlier than the service thread expects.
  SessionCore* dead = nullptr;  // A one-shot session to delete.
  bool orphan = false;          // Table::orphans counts this; to be taken back when all else is done.
  std::unique_ptr<std::vector<Notice>> notices;

  Effects() noexcept {}
  Effects(const Effects&) = delete;
  Effects& operator=(const Effects&) = delete;
  bool empty() const noexcept { return wakes.empty() && !rearm && !notices && !has_requests(); }
  bool has_requests() const noexcept { return send || wait || !stops.empty(); }
  void add_send(spi::Request& request) noexcept {
    request.next = nullptr;
    *send_tail = &request;
    send_tail = &request.next;
  }
  /// Takes the list to send. The members of a group stand together in it, after all others.
  spi::Request* take_send() noexcept;
};

/// Counters of one shard, under its mutex.
using Counters = Stats;

/// What the sessions of one stripe write in each lock and release, beside their own entry: between the processors of
/// two threads it does not travel.
struct alignas(64) Stripe {
  Slab<Entry>::FreeList free;
  std::uint64_t acquired = 0;
  std::uint64_t released = 0;
};

/// 1/64 of the table. Slots are an open-addressed index of the slab; linear probing, no tombstones.
struct alignas(64) Shard {
  struct Slot {
    std::uint32_t tag;    // Low half of the hash.
    std::uint32_t index;  // Of the entry, from 1; 0: free.
  };
  static constexpr std::uint32_t kFew = 4;
  static std::uint32_t tag_of(std::uint64_t hash) noexcept { return static_cast<std::uint32_t>(hash); }

  // What every lock and release writes is one cache line, while few keys are held: it travels between processors.
  ShortMutex mutex;
  std::uint32_t mask = kFew - 1;
  std::uint32_t used = 0;
  std::uint64_t next_token = 0;
  Slot* slots = few.data();
  std::array<Slot, kFew> few{};
  std::array<Stripe, kStripes> stripes;  // All under the mutex.
  // Read only, or seldom written.
  std::unique_ptr<Slot[]> many;
  Table* table = nullptr;
  std::uint32_t number = 0;
  bool closed = false;
  Slab<Entry> entries;
  Pool<Hold> holds;
  Pool<TableGrant> grants;
  Hold* timed = nullptr;
  Counters counters;  // But for the stripes'.
};

/// What the table knows of the world: fixed after construction.
struct TableSetup {
  spi::Runtime* runtime = nullptr;
  spi::Backend* backend = nullptr;  // Null: nothing beneath. Asked wanted_elsewhere() only.
  bool identity_is_hash = false;
  bool fencing = true;
  std::size_t held_limit = 0;  // 0: none.
  std::size_t waiter_limit = 0;
  std::uint32_t handoff = 32;
  bool observed = false;  // Someone hears events.
  bool held_times = false;
  std::size_t seats = 0;
  Core* core = nullptr;  // For grants: release() goes through it.
};

enum class Entered : std::uint8_t { granted, queued, failed };

class Table {
 public:
  explicit Table(const TableSetup& setup);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  /// The common case alone, without an engine: takes a key that nobody waits for, or that a newcomer may have. Null:
  /// see enter(). Inline, without effects.
  TableGrant* take_free(SessionCore& session, const Key& key, Mode mode);
  /// Its counterpart: ends a grant that nobody waits for. False: see dispose().
  bool give_free(TableGrant& grant) noexcept;

  /// How a caller wants a key. With a group, the key is only asked for if nobody here holds or waits for it.
  struct Intent {
    Mode mode = Mode::exclusive;
    bool is_try = false;
    std::uint32_t group = 0;
    spi::Group rule = spi::Group::all;
    Time asked{0};  // Steady; 0: now.
  };
  /// Takes the key for the session, or queues the waiter, or fails; waiter.grant or waiter.error tell.
  Entered enter(SessionCore& session, const Key& key, const Intent& intent, Waiter& waiter, Effects& effects);

  /// For a waiter that was nudged or woke by itself: takes the key if it is the waiter's turn. True when decided.
  bool poll(Waiter& waiter, Effects& effects);
  /// Makes the waiter leave with `code`, unless it was decided first (then returns false). `timeout` becomes
  /// connection_lost when the engine can't be asked.
  bool leave(Waiter& waiter, errc code, Effects& effects);
  /// Whether the waiter's wait closes a cycle; it has left with `deadlock` then.
  bool leave_if_deadlocked(Waiter& waiter, Effects& effects);

  /// Gives a grant back. Nullopt: the engine's answer is still to come and `wait` will be told.
  std::optional<Status> release(TableGrant& grant, ReleaseWait& wait, Effects& effects);
  /// The releaser stops waiting for the answer; false when it came.
  bool forget(Entry& entry, ReleaseWait& wait);
  static Entry& entry_of(TableGrant& grant) noexcept { return *grant.entry_; }
  /// The event of a long wait, for the observer.
  std::vector<Notice> long_wait(const Waiter& waiter, Time waited);
  /// Ends the grant object, giving it back if it is held.
  void dispose(TableGrant& grant, Effects& effects);
  std::stop_token lost_token(TableGrant& grant);
  /// Boot clock; kNever when the grant does not run out.
  Time valid_until(const TableGrant& grant) const noexcept;
  /// The key stays taken until the one moment, and is lost at the other if still held (boot clock).
  void set_window(TableGrant& grant, Time keep_until, Time limit, Effects& effects);
  std::optional<spi::Seat> seat_of(const TableGrant& grant);

  /// Releases all that the session holds; its waiters leave with session_closed.
  void close_session(SessionCore& session, Effects& effects, std::deque<PendingRelease>& pending);
  /// The same for every session, for good.
  void close(Effects& effects);
  /// Whether an answer of the engine is still to come.
  bool owed_by_engine();
  /// What may still use the table: one for the locker, the grants that live on in their Releasers after its close(),
  /// and the Effects of grants that ended before. Who takes away the last one destroys the table.
  std::atomic<std::size_t> orphans{1};

  // From the engine.
  void done(spi::Request& request, Effects& effects);
  /// start_wait() was asked for: it began, or no waiter was free.
  void wait_begun(Entry& entry, Effects& effects);
  void wait_refused(Entry& entry, Effects& effects);
  void hint(std::uint64_t identity, Effects& effects);
  void alive(spi::Seat seat, Time valid_until);
  void lost(spi::Seat seat, const Key* key, const Error& error, Effects& effects);
  /// The key's grants are lost from here on if their validity has run out, whatever the engine confirms later.
  void lapse(const TableGrant& grant, Effects& effects);
  void reconnected(Effects& effects);
  void mourned(Entry& entry, Effects& effects);
  /// Polls, retries and expiries that are due. Returns when the next one is (steady clock).
  Time run_timers(Effects& effects);

  Stats count();
  /// Adds this process's holders and waiters, without host and pid; since when it holds, where the engine told.
  void describe(std::vector<Holder>& out, const Key* only);

  const TableSetup& setup() const noexcept { return setup_; }

 private:
  struct SeatLife {
    std::atomic<std::uint64_t> life{0};
    std::atomic<Time> valid_until{Time{0}};
  };

  Shard& shard_of(std::uint64_t hash) noexcept { return shards_[hash >> 58]; }
  /// Calls visit for each entry; it may end the entry it was given, and none else.
  template <class Visit>
  void for_each(Shard& shard, Visit visit) {
    for (std::uint32_t index = 1; index <= shard.entries.size(); ++index) {
      if (Entry& entry = shard.entries.at(index); !entry.key.empty()) visit(entry);
    }
  }
  Entry* find(Shard& shard, const Key& key) const noexcept;
  Entry& insert(Shard& shard, const Key& key, const SessionCore& session);
  std::uint32_t free_entry(Shard& shard, std::uint8_t stripe);
  bool count_in(Entry& entry) noexcept;
  void grow(Shard& shard);
  void erase_if_idle(Entry& entry) noexcept;
  void erase(Shard& shard, Entry& entry) noexcept;

  bool admit(SessionCore& session, Shard& shard) noexcept;
  void link(Claim& claim, SessionCore& session, Shard& shard) noexcept;
  void unlink(Claim& claim, Shard& shard) noexcept;
  void enqueue(Waiter& waiter, Entry& entry, SessionCore& session, const Key& key, const Intent& intent);
  void dequeue(Waiter& waiter) noexcept;
  void wake(Waiter& waiter, Sleeper::State state, Effects& effects) noexcept;
  void fail_waiter(Waiter& waiter, Error error, Effects& effects);
  void fail_tries(Entry& entry, const Error& error, Effects& effects);
  void fail_all(Entry& entry, const Error& error, Effects& effects);

  const TableGrant* held_by(const Entry& entry, const SessionCore& session) const noexcept;
  bool compatible(const Entry& entry, Mode mode) const noexcept;
  bool may_join(Entry& entry, Mode mode);
  bool covers(const Entry& entry, Mode mode) const noexcept;
  bool handoff_over(Entry& entry);
  bool is_kept(const Hold& hold) const noexcept;
  void end_window(Hold& hold) noexcept;
  TableGrant* add_grant(Entry& entry, SessionCore& session, const Key& key, Mode mode, std::uint64_t token);
  std::uint64_t next_token(Entry& entry) noexcept;
  Error with_bound(const spi::Request& request);
  void grant_to(Waiter& waiter, Effects& effects);
  void end_grant(TableGrant& grant, TableGrant::State state) noexcept;
  void tell_held_time(TableGrant& grant, Effects& effects);
  void recycle(TableGrant& grant, Effects& effects) noexcept;
  Status report(TableGrant& grant);

  void settle(Entry& entry, bool direct, Effects& effects);
  bool last_release(const Entry& entry) const noexcept;
  bool may_follow_give(const Hold& hold) const noexcept;
  void serve_queue(Entry& entry, bool direct, Effects& effects);
  void begin_take(Entry& entry, spi::Op op, Effects& effects);
  void begin_give(Entry& entry, ReleaseWait* wait, Effects& effects);
  void take_answered(Entry& entry, Effects& effects);
  void take_refused(Entry& entry, Effects& effects);
  void take_failed(Entry& entry, Effects& effects);
  void give_answered(Entry& entry, Effects& effects);
  void lose(Entry& entry, const Error& error, Effects& effects);
  bool expire(Entry& entry, Effects& effects);
  void run_timer(Hold& hold, Effects& effects);
  void start_polling(Entry& entry, Effects& effects);
  void ask_again(Entry& entry, Effects& effects);
  Time valid_until(const Hold& hold) const noexcept;
  void set_timer(Hold& hold, Effects& effects);
  void clear_timer(Hold& hold) noexcept;
  Time due(const Hold& hold) const noexcept;
  bool holds_anything(SessionCore& session);
  bool closes_cycle(const Waiter& waiter) const;
  void notice(Effects& effects, Notice notice);
  Time now() noexcept { return setup_.runtime->steady_now(); }

  const TableSetup setup_;
  std::array<Shard, kShards> shards_;
  std::vector<SeatLife> seats_;
  std::atomic<std::size_t> held_entries_{0};  // Only where there is a limit.
  std::atomic<std::size_t> waiters_{0};
  std::atomic<Time> next_due_{kNever};
};

}  // namespace lockr::core
