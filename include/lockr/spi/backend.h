// The plugin interface: what a backend implements, and what it may expect of the core.
//
// A backend speaks to one engine. It takes and gives back *identities* for the process as a whole; sessions, queues,
// counts, timeouts, deadlock detection, hand-off and statistics are the core's, written once in its lock table. A
// backend with no waiting of its own and blocking calls is a page of code: see spi/polling.h.
//
// One identity has at most one `take` and one `give_back` outstanding. They are owned by the core's table entry, never
// by a caller's frame, so a caller may leave at any time and the answer still has somewhere to go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/observer.h"
#include "lockr/releaser.h"
#include "lockr/result.h"
#include "lockr/spi/runtime.h"
#include "lockr/spi/section.h"

namespace lockr::spi {

/// The version of this interface; a backend built for another one is refused. It grows with every change of the headers
/// in spi/, of a type that crosses them (Key, Error, Holder, …, their private parts included) or of what a call means.
inline constexpr std::uint32_t kVersion = 2;

/// Which connection or lease holds a grant, and which incarnation of it: the release goes there. Aligned so that
/// an atomic one is a word to every compiler; clang would call libatomic.
struct alignas(8) Seat {
  std::uint16_t link = 0;
  std::uint32_t life = 0;
  friend bool operator==(const Seat&, const Seat&) = default;
};

enum class Op : std::uint8_t {
  take,       ///< Nothing is held; take `mode`.
  give_back,  ///< Give back what `seat` holds.
  yield,      ///< Give back what `seat` holds, let others go first, then try to take `mode`: one statement.
};

/// How requests of one submit() that carry the same non-zero group belong together.
enum class Group : std::uint8_t {
  all,  ///< All are granted or none is; then each is answered `refused`.
  any,  ///< At most one is granted: the first that is free, in the order given; the others are `refused`.
};

enum class Answer : std::uint8_t {
  pending,   ///< Not answered yet.
  granted,   ///< take, yield: held by `seat`.
  refused,   ///< take, yield: somebody else holds it. A yield has given back all the same.
  released,  ///< give_back: given back.
  not_held,  ///< give_back: the engine says that we did not hold it.
  failed,    ///< Certainly not held by us; `error` says why.
  unknown,   ///< Can't be told. Not asked for again before `ask_again`; `error` says why.
};

/// One request to the engine. Fields above the line are the core's, those below the backend's to fill before done().
struct Request {
  Op op = Op::take;
  Mode mode = Mode::exclusive;
  bool quiet = false;  ///< Nobody waits for the answer (a destroyed Releaser).
  Group group_rule = Group::all;
  std::uint32_t group = 0;     ///< 0: on its own.
  std::uint64_t identity = 0;  ///< The key's hash. With Traits::identity_is_hash it is what the engine locks.
  const Key* key = nullptr;    ///< Valid until done().
  std::string_view label;      ///< The session that asks; valid until done().
  Seat seat;                   ///< give_back, yield: who holds it. Filled by the backend on a grant.
  /// give_back: until then, on the boot clock, the engine goes on to keep the key from everyone; 0: it is free at once.
  /// Not 0 only with Capabilities::hold_at_least.
  Time keep_until = Time{0};
  // ---
  Answer answer = Answer::pending;
  Time valid_until = kNever;  ///< Boot clock; counted from the moment the request was sent. kNever: does not run out.
  Time ask_again = Time{0};   ///< Steady clock; refused or failed: when to poll; unknown: from when on it may be asked.
  std::uint64_t token = 0;    ///< Fencing number of the grant, below 2^53; 0 where Traits::fencing is false.
  Time since = Time{0};       ///< Steady clock: when it was granted, for a `who`; 0: the engine records it.
  Error error{errc::backend_failure};
  // ---
  Request* next = nullptr;  ///< The core's, while the request is queued.
  void* owner = nullptr;    ///< The core's: the table entry.
};

/// The core, as a backend sees it. Thread-safe. Never calls the backend from inside one of these.
class LOCKR_API Sink {
 public:
  /// The request's answer is filled in; the backend forgets the request. Exactly once per submit() or start_wait().
  virtual void done(Request& request) noexcept = 0;
  /// The identity is perhaps free now: ask again, if anyone still waits.
  virtual void hint(std::uint64_t identity) noexcept = 0;
  /// A heartbeat or renewal succeeded: everything held by the seat is valid until then (boot clock).
  virtual void alive(Seat seat, Time valid_until) noexcept = 0;
  /// What the seat holds is lost: one key, or with a null key everything.
  virtual void lost(Seat seat, const Key* key, const Error& error) noexcept = 0;
  /// The engine can be reached again: requests that failed may be asked again at once.
  virtual void reconnected() noexcept = 0;
  /// What this process holds and waits for, for an engine where holders answer a remote `who`.
  virtual std::vector<Holder> describe() noexcept = 0;

 protected:
  ~Sink() = default;
};

/// What the backend is, fixed after open().
struct Traits {
  Capabilities capabilities;
  /// True: the engine locks the key's 64-bit hash, and two keys of one hash are one lock.
  bool identity_is_hash = false;
  /// 0: submit() may be called from any thread at once and calls done() before it returns. Otherwise the number of
  /// links, numbered from 0, that answer later through collect().
  std::uint16_t lanes = 0;
  /// Most requests in one submit() to a lane; a group is not divided, so one that is larger goes beyond it.
  std::uint16_t batch = 64;
  /// Keys held at once unless the config says otherwise; 0: no limit of the backend's.
  std::size_t held_limit = 0;
  /// Seat::link is below this; needed for Sink::alive() only.
  std::size_t seats = 0;
};

/// One open engine. Calls come from any thread unless said otherwise; none waits for a lock's holder.
///
/// None should throw, and one that can't is best written `noexcept`. An exception is a fault of the backend: out of
/// inspect() or descriptors() it becomes their `backend_failure`. Out of any other call it leaves unknown what the
/// engine granted, so the backend is not called again but for close(): what it holds is lost, and what is asked of it
/// fails as `backend_failure`. (Of a backend that is built into the library it ends the program.) A thread that is
/// inside a call must not be cancelled with pthread_cancel: that, too, ends the program.
class LOCKR_API Backend {
 public:
  virtual ~Backend();

  /// Connects and probes, once, first; nothing else is called before it succeeded, and the sink not before it returned.
  /// `until`: steady clock.
  virtual Status open(Sink& sink, Time until) = 0;
  virtual const Traits& traits() const noexcept = 0;

  /// Sends the requests as one batch to `link` (0 without lanes). One thread per link at a time. Requests of a group
  /// stand next to each other. A request that names a seat is sent on that seat's link. May call done().
  virtual void submit(std::uint16_t link, std::span<Request* const> batch) = 0;
  /// Receives answers of a lane and calls done() for each, until none is outstanding (true) or `until` (steady; false).
  /// Overdue replies are the backend's to judge: it drops the link, answers what is outstanding and calls lost().
  virtual bool collect(std::uint16_t link, Time until);

  /// Waits for a refused identity in the engine's own way; done() follows with `granted`, `refused` (poll at ask_again)
  /// or `failed`. False: no waiter is free; the core then polls with submit() at request.ask_again or, when that is 0,
  /// every 20 ms with jitter. Never blocks. The base class returns false.
  virtual bool start_wait(Request& request);
  /// Nobody waits any more. A wish: done() still follows, `granted` included. Of a request that is not in start_wait()
  /// (any more): nothing.
  virtual void stop_wait(Request& request);

  /// Whether another process may be waiting for this identity: hand-off then ends at its bound. A cheap guess, called
  /// under the table's mutex; the base class says true.
  virtual bool wanted_elsewhere(std::uint64_t identity);

  /// Service thread only: waits, heartbeats, renewals, and noticing lanes whose deferred answers arrived (once per
  /// submit; it returns then, the core calls collect()). Sleeps until `until` (steady), an event it handled, or wake().
  virtual void pump(Time until) = 0;
  /// Makes the current or next pump() return. Any thread.
  virtual void wake() = 0;

  /// Who holds and waits, of `key` or of all; this process included if the engine lists it.
  virtual Result<std::vector<Holder>> inspect(const Key* key, Time until) = 0;
  /// Duplicates, CLOEXEC, of the descriptors that keep this seat's lock on the key. The base class returns none.
  virtual Result<std::vector<Descriptor>> descriptors(Seat seat, const Key& key);

  /// Ends every connection; what is held is given up with it. No Sink call afterwards. `until`: steady clock.
  virtual void close(Time until) = 0;
  /// Before a fork(), on the thread that forks: waits until each descriptor that another thread is opening or closing
  /// is where forked() finds it or gone, and keeps it so; a mutex around "open and note it" does. Then, in the parent,
  /// after_fork(); in the child, forked(). The base class does nothing. Any time after construction.
  virtual void before_fork() noexcept;
  virtual void after_fork() noexcept;
  /// In a forked child, instead of close(): closes descriptors without a word on the wire. Async-signal-safe.
  virtual void forked() noexcept = 0;
};

/// What a backend is made from. References are valid for the life of the backend, `section` for the call.
struct OpenContext {
  const Section& section;
  Runtime& runtime;
  Time connect_timeout;
  Time reply_timeout;
  std::string label;
  std::function<bool(std::string_view risk)> accepts_risk;
  LogHook log;
  /// For one dedicated session (Capabilities::dedicated): one lane, which waits too, and is not connected anew when it
  /// ends; what fails then is not retryable.
  bool dedicated = false;
};

/// One backend as a Registry knows it; static for the life of the program.
struct BackendInfo {
  std::uint32_t spi_version = kVersion;
  const char* name;     ///< As in the config, and the name of its section.
  const char* schemes;  ///< URL schemes, separated by spaces: "redis rediss"; null for none. The section of a URL is
                        ///< {"url": "…"}.
  const char* summary;  ///< One line for `lockr backends`.
  const char* schema;   ///< JSON Schema of its section.
  /// What OpenContext::accepts_risk may be asked for, separated by spaces; null for none. A config that accepts another
  /// risk is refused.
  const char* risks = nullptr;
  /// create() may make nothing: the lock table is then the engine, with nothing beneath it (memory). Of another backend
  /// that is `incompatible_plugin`: its locks would exclude nobody outside the table.
  bool table_alone = false;
  /// Reads the section and makes a backend that is not open yet. Never null. An exception out of it becomes
  /// `incompatible_plugin`.
  Result<std::unique_ptr<Backend>> (*create)(const OpenContext& context);
};

}  // namespace lockr::spi
