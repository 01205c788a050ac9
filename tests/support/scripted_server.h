// The server half of the scripted engine: a lock server in memory, and the script that spoils its service.
//
// Several processes connect to one server; each is a spi::Backend (scripted_engine.h). The server is the witness of a
// test: it records who holds and waits for what, grants nothing that conflicts, and notes every breach of the plugin
// contract by the core above (violations()).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "lockr/spi/backend.h"

namespace lockr::testing {

using spi::Time;

/// What becomes of one request. Decided when it is sent.
enum class Fate : std::uint8_t {
  serve,         ///< As the state of the server demands.
  refuse,        ///< take, yield: refused although it may be free. A yield has given back all the same.
  forget,        ///< give_back: the server had dropped the lock; answered `not_held`.
  fail,          ///< Answered `failed`; what was held is given back, what was asked for is not taken.
  lose_request,  ///< Never arrives; answered `unknown`. What was held stays at the server until it forgets it.
  lose_answer,   ///< Served, but answered `unknown`; what it took stays at the server until it forgets it.
  cut,           ///< The link breaks before the request arrives.
};

/// The fate of the next request that it fits; used once.
struct Rule {
  Fate fate = Fate::serve;
  std::optional<spi::Op> op{};  ///< Any when absent; a wait is a take.
  std::string key{};            ///< Any when empty.
  Time delay{0};                ///< How much later than the latency the answer arrives.
  bool ignore_stop = false;     ///< A wait goes on for `stop_delay` after it was told to stop: late grants.
};

/// Fates by chance, each out of 1,000 requests. None by default.
struct Chances {
  unsigned refuse = 0;
  unsigned forget = 0;
  unsigned fail = 0;
  unsigned lose_request = 0;
  unsigned lose_answer = 0;
  unsigned cut = 0;
  unsigned delay = 0;
  unsigned ignore_stop = 0;
  unsigned idle_hint = 0;  ///< A hint for the key although nothing changed.
  Time longest_delay{0};
};

struct ScriptedOptions {
  std::uint16_t lanes = 2;    ///< 0: requests are answered inside submit().
  std::uint16_t waiters = 0;  ///< Links that wait at the server, for each process; 0: every wait is polled.
  std::uint16_t batch = 64;
  bool identity_is_hash = false;
  bool shared = true;
  bool fencing = true;
  bool hints = true;  ///< A process that was refused is told when the key becomes free.
  /// How long the server keeps a grant that is not renewed; heartbeats renew everything at a third of it.
  Time validity = spi::kNever;
  Time latency{0};                               ///< From sending to the answer.
  Time reply_timeout = std::chrono::seconds(3);  ///< A link whose answer is later than this is dropped.
  Time poll{0};  ///< A refused request may be asked again after this; 0 leaves it to the core.
  Time forgets_after = std::chrono::milliseconds(5);  ///< How long the server keeps what nobody knows to hold.
  Time reconnect_after = std::chrono::milliseconds(1);
  Time stop_delay = std::chrono::milliseconds(20);
  std::uint64_t seed = 1;
  Chances chances{};
};

/// Wakes everyone who sleeps on it; each sleeps on a word of its own, since Runtime::wake() wakes one.
class Bell {
 public:
  explicit Bell(spi::Runtime& runtime) noexcept : runtime_(runtime) {}

  /// To be read before what the sleep depends on is looked at.
  std::uint64_t rings() const;
  /// Sleeps until it rings for the first time after `seen`, or until then (steady clock).
  void sleep(std::uint64_t seen, Time until);
  void ring();

 private:
  spi::Runtime& runtime_;
  mutable std::mutex mutex_;
  std::uint64_t rings_ = 0;                              // Guarded by mutex_.
  std::vector<std::atomic<std::uint32_t>*> sleepers_{};  // Guarded by mutex_.
};

/// One row of the server's record.
struct Record {
  int process = 0;
  spi::Seat seat{};
  Mode mode = Mode::exclusive;
  std::string key;
  bool waiting = false;
  bool forgotten = false;  ///< Kept for a while though no process knows to hold it: an unknown outcome, a dead link.
};

/// Thread-safe. Sleeps nowhere. Every clock is the runtime's.
class ScriptedServer {
 public:
  ScriptedServer(ScriptedOptions options, spi::Runtime& runtime);

  // The script.

  /// Decides the fate of the next request that fits; rules are tried in the order they were given.
  void next(Rule rule);
  /// Replaces the chances; what next() asks for comes first.
  void set_chances(const Chances& chances);
  /// Every link of the process breaks. The server keeps what they held for `keeps`, then drops it.
  void cut(int process, Time keeps = Time{0});
  /// Answers and heartbeats of the process no longer arrive, or arrive again.
  void stall(int process, bool stalled);
  /// Takes one lock away from whoever holds it, and tells them.
  void revoke(const Key& key);
  /// Every lock is dropped and every link breaks.
  void restart();
  /// While down, nothing can connect; going down is a restart().
  void set_down(bool down);

  // The witness.

  std::vector<Record> records() const;
  /// Breaches of the plugin contract by the core, one sentence each.
  std::vector<std::string> violations() const;
  int processes() const;
  const ScriptedOptions& options() const noexcept { return options_; }
  spi::Runtime& runtime() const noexcept { return runtime_; }

  // What a backend uses.

  struct Event {
    enum class Kind : std::uint8_t { cut, granted, hint, revoked, resumed };
    Kind kind;
    std::uint64_t identity = 0;  ///< hint
    std::uint64_t ticket = 0;    ///< granted
    std::uint64_t token = 0;     ///< granted
    spi::Seat seat{};            ///< revoked
    std::optional<Key> key{};    ///< revoked
    Time keeps{0};               ///< cut
  };

  /// One request as it arrives. `seat` is what it gives back, `link` where it was sent.
  struct Ask {
    spi::Op op;
    Mode mode;
    std::uint32_t group = 0;
    spi::Group group_rule = spi::Group::all;
    std::uint64_t identity = 0;
    Key key;
    std::string label;
    spi::Seat seat;
    spi::Seat link;
  };
  struct Reply {
    spi::Answer answer = spi::Answer::pending;
    std::uint64_t token = 0;
    Time delay{0};
    bool cut = false;
  };

  /// Connects a process and returns its number; -1 while down. Its events ring the bell.
  int connect(std::shared_ptr<Bell> bell);
  void disconnect(int process);
  bool down() const;
  bool stalled(int process) const;
  /// Serves the requests of one batch, in order; groups as a whole.
  std::vector<Reply> serve(int process, std::span<const Ask> asks);
  /// Queues a wait. Granted: told by an event. The reply is pending unless its fate decides otherwise; `ignore_stop`
  /// tells how it takes stop_wait.
  Reply wait(int process, const Ask& ask, std::uint64_t ticket, bool& ignore_stop);
  /// False: it was granted already, the event is under way.
  bool cancel(std::uint64_t ticket);
  void drop_link(int process, std::uint16_t link, Time keeps);
  void renew(int process);
  /// Whether the seat holds the key; without one, whether it holds anything.
  bool holds(int process, spi::Seat seat, const Key* key = nullptr) const;
  bool wanted_elsewhere(int process, std::uint64_t identity) const noexcept;
  std::vector<Event> take_events(int process);
  /// Drops what has run out; returns when the next one does (boot clock).
  Time expire();
  std::vector<Holder> list(const Key* key) const;
  void violation(std::string what);

 private:
  struct Hold {
    int process;
    spi::Seat seat;
    Mode mode;
    Key key;
    std::uint64_t identity;
    std::string label;
    Time since;
    Time ends;  // Boot clock.
    bool forgotten;
  };
  struct Wait {
    int process;
    std::uint64_t ticket;
    Ask ask;
    Time since;
  };
  struct Entry {
    std::vector<Hold> holds;
    std::deque<Wait> waits;
    std::map<int, std::uint64_t> refused;  // Who was refused since it was last free, and the identity they asked for.
    std::uint64_t token = 0;
  };
  struct Process {
    std::shared_ptr<Bell> bell;
    std::vector<Event> events;
    bool connected = false;
    bool stalled = false;
  };
  struct Verdict {
    Fate fate = Fate::serve;
    Time delay{0};
    bool ignore_stop = false;
  };
  class Access;

  std::string name_of(const Ask& ask) const;
  Entry& entry_of(const Ask& ask) { return entries_[name_of(ask)]; }
  bool one_of(unsigned chance);
  Verdict judge(const Ask& ask);
  Verdict by_chance(const Ask& ask);
  void post(int process, Event event);
  static bool fits(const Entry& entry, Mode mode);
  void hold(Entry& entry, int process, const Ask& ask, spi::Seat seat, bool forgotten);
  bool give_back(Entry& entry, int process, const Ask& ask);
  void forget_later(Entry& entry, int process, const Ask& ask, Time after);
  void settle(Entry& entry);
  void refuse(Entry& entry, int process, const Ask& ask);
  void want(std::uint64_t identity, std::uint32_t who);
  void expire_due();
  std::vector<Reply> serve_group(int process, std::span<const Ask> asks);
  Reply serve_one(int process, const Ask& ask, Fate fate);
  Reply serve_take(int process, const Ask& ask, Fate fate);
  Reply serve_give_back(int process, const Ask& ask, Fate fate);
  Reply serve_yield(int process, const Ask& ask, Fate fate);
  void cut_link(int process, std::optional<std::uint16_t> link, Time keeps);
  void check_take(const Entry& entry, int process, const Ask& ask);

  const ScriptedOptions options_;
  spi::Runtime& runtime_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::mt19937_64 random_;
  Chances chances_;
  std::deque<Rule> rules_;
  std::map<std::string, Entry> entries_;
  std::vector<Process> processes_;
  std::vector<std::string> violations_;
  std::vector<std::shared_ptr<Bell>> to_ring_;
  Time earliest_end_ = spi::kNever;  // No hold ends before this.
  bool down_ = false;

  // A guess read without the mutex: 0 nobody, n + 1 process n, kMany several.
  static constexpr std::uint32_t kMany = 0xffffffff;
  static constexpr std::size_t kWantedSlots = 256;
  std::vector<std::atomic<std::uint32_t>> wanted_;
};

}  // namespace lockr::testing
