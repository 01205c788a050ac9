// A link: one connection, and the answers it owes. Commands are pipelined; answers come in order.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "backends/redis/connection.h"
#include "backends/redis/scripts.h"
#include "lockr/spi/runtime.h"

namespace lockr::redis {

/// How a command ended: the reply, or the error why there is none.
struct Outcome {
  const redisReply* reply = nullptr;  ///< Not an error reply; a script's has the form that it gives.
  std::optional<Error> error;
  bool certain = false;    ///< With an error: the command was not carried out, nor will it be.
  bool half_done = false;  ///< With an error: a script may have done a part of its work.
};

/// Thread-safe. Handlers are called without a lock of the link's, each once.
class Link {
 public:
  using Then = std::function<void(const Outcome&)>;

  /// `went_down`: the connection has ended; called without a lock of the link's.
  Link(spi::Runtime& runtime, Time reply_timeout, std::function<void()> went_down)
      : runtime_(runtime), reply_timeout_(reply_timeout), went_down_(std::move(went_down)) {}

  void attach(std::shared_ptr<Connection> connection);
  /// Why commands fail while it is down.
  void set_reason(const Error& error);
  bool is_up() const;
  /// Ends the connection; what it owes is forgotten.
  void close() noexcept;

  /// Queues a script call for flush(). While the link is down `then` is told at once.
  void call(Script script, std::size_t keys, Arguments arguments, Then then);
  /// The same with a plain command.
  void call(Arguments command, Then then);
  /// The same with several, which are encoded. `then` is told once, when all are answered: the reply is an array of
  /// theirs, error replies among them. `fits`: whether one can be the answer to the command of that number.
  using Fits = std::function<bool(std::size_t number, const redisReply& reply)>;
  void call_each(std::string_view commands, std::size_t count, Fits fits, Then then);
  void flush();

  /// Receives until nothing is owed, or until then (steady). For the thread that drives a lane.
  bool collect(Time until);
  /// Takes in what has arrived, without waiting.
  void receive();
  /// Ends the connection if a reply is overdue.
  void tend(Time now);

  struct Watch {
    std::shared_ptr<Connection> connection;  ///< Null: down.
    bool unsent = false;
    bool collecting = false;        ///< A thread waits for the answers.
    Time oldest = spi::kNever;      ///< Steady; when the first command that is not answered was sent.
    Time overdue_at = spi::kNever;  ///< Steady.
  };
  Watch watch() const;

 private:
  struct Call {
    std::optional<Script> script;
    std::size_t keys = 0;
    Arguments arguments;
    Then then;
    Time sent{0};
    bool with_text = false;
    // Of several commands.
    std::size_t count = 1;
    Fits fits;
    std::vector<Reply> replies;
  };
  struct Ended {
    std::deque<Call> calls;
    std::optional<Error> why;
  };
  using Lock = std::unique_lock<std::mutex>;

  bool is_overdue(Time now) const;
  void owe(Call call);
  static void write(std::string& out, const Call& call);
  bool take_replies(Lock& lock);
  void end_turn();
  void await_turn(Lock& lock);
  static bool answers(const Call& call, const redisReply& reply) noexcept;
  void finish(Lock& lock, Call call, const redisReply& reply);
  void finish_each(Lock& lock);
  void refuse(Lock& lock, const Then& then);
  void end(Lock& lock, const Error& why);

  spi::Runtime& runtime_;
  const Time reply_timeout_;
  const std::function<void()> went_down_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<Connection> connection_;
  std::optional<Error> reason_;
  std::string outgoing_;
  std::deque<Call> owed_;
  // One thread at a time reads: receives, or hands out what it received, with the mutex free in between.
  bool collecting_ = false;
  bool taking_ = false;
  bool turn_awaited_ = false;
  std::atomic<std::uint32_t> turns_{0};  // Parked on.
};

}  // namespace lockr::redis
