// One connection to the server: libpq without blocking calls, and what it takes to end it in a forked child.
#pragma once

#include <libpq-fe.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lockr/result.h"
#include "lockr/spi/runtime.h"

namespace lockr::postgres {

using spi::Time;

/// The sockets of a backend. libpq closes its descriptor as soon as it finds the connection broken, and another thread
/// may be given that number at once. So no number of libpq's is used after the call that told it: each socket has a
/// second descriptor, which is ours and is closed here only. A forked child closes both without a word to the server.
/// Thread-safe. Locked while a socket is opened and added, or removed and closed; and across a fork().
class Sockets {
 public:
  /// May take as long as a name is looked up.
  void lock() { changing_.lock(); }
  void unlock();
  /// A second descriptor of libpq's socket, CLOEXEC; -1 with errno. While locked.
  int add(int libpqs) noexcept;
  /// Closes what add() returned. While locked.
  void remove(int ours) noexcept;
  /// Ends a connection and then removes its socket (-1: none), now or when it is unlocked: does not wait.
  void end(PGconn* connection, int ours);
  /// In the child. Async-signal-safe.
  void forked() noexcept;
  bool in_child() const noexcept { return in_child_.load(std::memory_order_relaxed); }

 private:
  struct Socket {
    int ours = -1;
    int libpqs = -1;  // Its number when it was added.
  };
  std::array<Socket, 512> sockets_;  // Guarded by changing_.
  std::atomic<bool> in_child_{false};
  std::mutex changing_;
  std::mutex ended_mutex_;
  std::vector<std::pair<PGconn*, int>> ended_;  // Guarded by ended_mutex_.

  std::vector<std::pair<PGconn*, int>> take_ended();
  void end_all();
};

/// Until when a blocking call may take, and what ends it before.
struct Patience {
  spi::Runtime& runtime;
  Time until;        ///< Steady clock.
  int stop_fd = -1;  ///< Readable: give up.
};

/// Sleeps until one of `events` or until the patience ends; false then.
bool wait_for(int fd, short events, const Patience& patience);

/// What a connection is made from.
struct Target {
  std::string dsn;
  std::string application_name;
  bool accept_clear_text = false;
};

/// Not thread-safe, but for shut_down() and fd().
class Connection {
 public:
  using Row = std::vector<std::optional<std::string>>;

  /// Errors: those of errors.h; `unsafe_setup` when the server asks for the password in clear text over a network.
  /// A fork() waits while a host's name is looked up here.
  static Result<std::shared_ptr<Connection>> open(const Target& target, Sockets& sockets, const Patience& patience);
  /// Takes over one that is being made.
  Connection(PGconn* raw, Sockets& sockets);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();
  /// Takes hold of the socket that libpq has now; after each call that may have changed it. With the sockets locked.
  /// Errors: `capacity`.
  Status adopt_socket();

  PGconn* raw() const noexcept { return raw_; }
  /// A descriptor of its socket that libpq does not know: open until destruction, whatever becomes of the connection.
  int fd() const noexcept { return fd_; }
  bool over_network() const noexcept;

  static std::vector<Row> rows_of(const PGresult* result);

  /// Statements, as one message and so one transaction, and the rows of the last one, of so many columns, as text; for
  /// what is asked once. `what` as in errors.h.
  Result<std::vector<Row>> ask(const std::string& sql, int columns, const Patience& patience, std::string_view what);

  /// Sends what is queued; false when the connection broke.
  bool flush() noexcept;
  bool has_unsent() const noexcept { return unsent_; }
  /// Reads what has arrived; false when the connection broke. The call that reads the server's last words still
  /// succeeds, the next one fails.
  bool read() noexcept;
  /// Why it ended, by what the server said last.
  Error ending() const;
  /// Ends the stream in both directions and wakes who waits for it; the descriptor stays until destruction.
  void shut_down() noexcept;

 private:
  static void on_notice(void* self, const PGresult* notice);
  Status establish(const Target& target, const Patience& patience);
  std::optional<Error> clear_text_asked(const Target& target, const Patience& patience, bool& wait_more) const;
  Result<PostgresPollingStatusType> poll_connect();
  void end_if_connected_to_itself();
  Error failed_connect() const;

  PGconn* const raw_;
  Sockets& sockets_;
  int fd_ = -1;
  int connected_to_itself_ = 0;  // Times, while it was made.
  bool unsent_ = false;
  std::string last_sqlstate_;
  std::string last_words_;
};

}  // namespace lockr::postgres
