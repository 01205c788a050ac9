// TableModel: the rules of the lock table, restated as plainly as they can be. Slow and obvious on purpose.
//
//   * A key is held by one session exclusively or by several shared.
//   * A session that holds a key gets it again at once, with the same number; but not exclusively what it holds shared.
//   * Others queue in order of arrival. A newcomer may pass the queue if the key is free for it, until the first in the
//     queue is overdue: has waited for 1 ms and said so.
//   * When a key comes free the first in the queue is woken to take it; one that is overdue is granted it there and
//     then. Whoever follows and can share with it comes along.
//   * A try never queues. Who waits leaves with an error when told so, or when its session is closed.
//   * A wait is refused when it would close a circle of sessions that wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "lockr/locker.h"
#include "lockr/observer.h"

namespace lockr::testing {

class TableModel {
 public:
  using Ticket = int;  // Names one call that asks for a key, and the grant that comes of it.
  enum class State { queued, granted, failed };
  struct Claim {
    Ticket ticket;
    int session;
    Mode mode;
    bool overdue = false;
  };
  struct Result {
    State state;
    std::optional<errc> error{};
    std::vector<Ticket> repeats{};  // Re-entry: what the session holds already.
  };

  TableModel(std::size_t held_limit, std::size_t waiter_limit) : held_limit_(held_limit), waiter_limit_(waiter_limit) {}

  void add_session(int session, bool detects) { sessions_[session] = {.detects = detects, .closed = false}; }
  bool closed(int session) const { return sessions_.at(session).closed; }

  Result enter(Ticket ticket, int session, const std::string& key, Mode mode, bool is_try);
  /// The waiter looks for itself. True when it has the key now.
  bool poll(Ticket ticket, bool overdue);
  void leave(Ticket ticket, errc code);
  bool leave_if_deadlocked(Ticket ticket);
  /// Gives it back; how it had ended before that is told once.
  std::optional<errc> release(Ticket ticket);
  /// The Releaser is gone.
  void dispose(Ticket ticket);
  void close_session(int session);
  void close();

  State state(Ticket ticket) const { return outcomes_.at(ticket).state; }
  std::optional<errc> error(Ticket ticket) const { return outcomes_.at(ticket).error; }
  const std::vector<Claim>& holders(const std::string& key) { return keys_[key].holders; }
  const std::deque<Claim>& queue(const std::string& key) { return keys_[key].queue; }
  /// The one who has to be woken by now: the first in the queue, if nothing keeps it from the key.
  std::optional<Ticket> to_wake(const std::string& key);
  Stats stats() const;

 private:
  struct Session {
    bool detects;
    bool closed;
  };
  struct Key {
    std::vector<Claim> holders;
    std::deque<Claim> queue;
  };
  struct Outcome {
    State state;
    std::optional<errc> error{};
    std::optional<errc> ended_by{};  // To be told by release().
  };

  static bool conflict(Mode a, Mode b) { return a == Mode::exclusive || b == Mode::exclusive; }
  static bool free_for(const Key& key, Mode mode);
  Key& key_of(Ticket ticket) { return keys_.at(where_.at(ticket)); }
  void grant(Key& key, const Claim& claim);
  void serve(Key& key, bool first_may_take);
  void fail(Key& key, Ticket ticket, errc code);
  bool end(Key& key, Ticket ticket);  // False: it held nothing.
  std::set<int> blockers(const Key& key, const Claim& waiter) const;
  std::size_t keys_in_use() const;
  std::size_t waiting() const;

  const std::size_t held_limit_;  // 0: none.
  const std::size_t waiter_limit_;
  std::map<int, Session> sessions_;
  std::map<std::string, Key> keys_;
  std::map<Ticket, std::string> where_;
  std::map<Ticket, Outcome> outcomes_;
  Stats stats_;
};

}  // namespace lockr::testing
