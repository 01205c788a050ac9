// A link: one connection that takes and gives back, and the answers it owes.
//
// What is sent and not answered yet is a queue of exchanges, each one message of the protocol with a Sync at its end:
// an error in one leaves the others alone. A link that waits has sent an exchange whose answer may take a slice long.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "backends/postgres/connection.h"
#include "backends/postgres/handshake.h"
#include "backends/postgres/statements.h"
#include "lockr/spi/backend.h"

namespace lockr::postgres {

using spi::Request;

/// What the links of a backend share. Fixed once the first of them is attached.
struct Site {
  spi::Runtime& runtime;
  spi::Sink* sink = nullptr;
  Time reply_timeout{0};
  bool fencing = false;
  bool alone = false;  ///< There is one link, which takes, waits and holds; when it ends nothing follows.
  LogHook log{};
  std::atomic<std::thread::id> service{};  ///< The thread that pumps.
  /// A link has gone down and asks for a new connection. Called with the link's mutex held.
  std::function<void(std::uint16_t link)> down{};
  /// A wait's slice ended without a grant; another process's session `holder` had the key then (0: nobody). Sets when
  /// to ask again. Called with the link's mutex held.
  std::function<void(Request& request, std::int64_t holder)> slice_over{};
  /// A notification came to the link; returns what to answer. Called with the link's mutex held.
  std::function<std::vector<std::string>(std::string_view payload)> notified{};
};

/// Thread-safe. Calls the sink with its mutex held, so that what is told of one link is told in order.
class Link {
 public:
  /// `waits`: it is a waiter, whose answers the pump alone receives.
  Link(std::uint16_t number, bool waits, Site& site) : number_(number), waits_(waits), site_(site) {}

  /// A new connection; a new life of the seat begins.
  void attach(Session session);
  /// Why requests fail while it is down.
  void set_reason(const Error& error);
  /// Ends the connection without a word to the sink.
  void close() noexcept;

  /// Sends releases, then takes, then groups; answers at once what can't be sent.
  void submit(std::span<Request* const> batch);
  /// Receives until nothing is owed, or until then (steady).
  bool collect(Time until);

  /// Waits for one lock, for a slice or less. False: it is down, or waits; or, unless it is alone, is in use or holds
  /// something.
  bool start_wait(Request& request, Time slice);
  /// Nobody needs that wait's answer any more. True: it was this link's.
  bool stop_wait(const Request& request);

  /// For the pump: what to poll for, and when to come back without an event.
  struct Watch {
    std::shared_ptr<Connection> connection;  ///< Null: down.
    short events = 0;
    Time due = spi::kNever;
  };
  Watch watch(Time now);
  /// The events happened.
  void ready(const Watch& watch, short events);
  /// Heartbeats, and replies that are overdue.
  void tend(Time now);

  using Row = Connection::Row;
  using Rows = std::vector<Row>;
  /// Sends one statement without parameters and tells `then` its rows of so many columns, as text, or why there are
  /// none; with the mutex held, from whichever thread receives.
  void ask(const std::string& sql, int columns, std::function<void(Result<Rows>)> then);
  /// Notifies the channel of the census.
  void notify(const std::string& payload);

  /// A duplicate of the socket that keeps this life's locks; none when that is over.
  std::optional<Descriptor> descriptor(std::uint32_t life);

 private:
  enum class Kind : std::uint8_t {
    give,
    take,
    take_all,
    take_any,
    undo,
    sweep,
    wait,
    after_slice,
    heartbeat,
    question
  };
  struct Item {
    Request* request;  // To be answered; null where a yield's lock is given back, which its take answers.
    std::int64_t identity;
    bool shared;
  };
  struct Exchange {
    Kind kind;
    std::vector<Item> items;
    std::vector<Item> unsure{};  // Of a take: releases of its keys that may or may not have happened before it.
    Time sent{0};                // Steady.
    Time sent_boot{0};
    Time due{0};  // Steady; later the reply is overdue.
    std::vector<std::optional<std::int64_t>> values{};
    std::vector<std::optional<std::int64_t>> tokens{};  // Second columns.
    std::size_t results = 0;                            // Statements that were answered.
    std::optional<Error> error{};
    Time first_sent{0};  // Steady; of the first attempt, when this is another one.
    std::string sql{};   // A question's, and what follows.
    std::string parameter{};
    int columns = 1;
    Rows rows{};
    std::function<void(Result<Rows>)> then{};
  };
  using Lock = std::unique_lock<std::mutex>;

  bool send_statement(Statement statement, const std::vector<const std::string*>& parameters, bool binary);
  bool send_key(Statement statement, const Item& item);
  bool send_keys(Statement statement, Statement if_exclusive, const std::vector<Item>& items);
  void send(Exchange exchange);
  bool write(const Exchange& exchange);
  bool write_wait(const Item& item);
  bool can_wait() const;
  const Exchange* waiting_for(const Request& request) const;
  void send_groups(std::span<Request* const> batch);
  void refuse_all(std::span<Request* const> batch);
  void flush();

  void receive(bool closing);
  bool take_results();
  Error ending() const;
  bool take_result(const PGresult* result);
  bool take_rows(Exchange& exchange, const PGresult* result) const;
  bool fits(const Exchange& exchange) const;
  void complete(Exchange exchange);
  void complete_give(Exchange& exchange);
  void complete_take(Exchange& exchange);
  void complete_group(Exchange& exchange);
  void complete_sweep(Exchange& exchange);
  void leave_to_takes(Exchange& gives);
  Exchange split_unsure(Exchange& takes);
  void complete_undo(Exchange& exchange);
  void complete_wait(Exchange& exchange);
  void complete_after_slice(Exchange& exchange);
  void undo(Exchange& exchange);
  void resend(Exchange& exchange);
  void grant(Request& request, const Exchange& exchange, std::int64_t value, Time at);
  static void answer(Request& request, spi::Answer answer, spi::Sink& sink);
  void confirm(const Exchange& exchange);
  void heartbeat();
  void send_question(Exchange question);
  void hear();
  void drop(const Error& cause, bool certain);
  void drop_overdue();
  bool overdue() const;
  void fail_request(Request& request, const Error& why, bool certain);
  Time now() const { return site_.runtime.steady_now(); }

  const std::uint16_t number_;
  const bool waits_;
  Site& site_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<Connection> connection_;
  Bounds bounds_;
  std::uint32_t life_ = 0;
  std::uint64_t epoch_ = 0;
  bool prepared_ = true;  // Statements are there by their names.
  Dialect dialect_;
  std::deque<Exchange> owed_;
  std::size_t held_ = 0;
  std::unordered_set<std::int64_t> held_shared_;  // A yield does not tell in which mode the key is held.
  std::optional<Error> reason_;
  bool collecting_ = false;  // A caller's thread waits for answers.
  Time muted_until_{0};      // Until then the pump leaves answers to callers' threads.
  Time last_sent_{0};
  Time confirmed_{0};  // Boot clock: when the last message that was answered had been sent.
  Time slice_{0};
};

}  // namespace lockr::postgres
