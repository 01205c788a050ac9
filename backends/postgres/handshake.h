// What is asked of a server before a connection is used, and how the session is set up.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "backends/postgres/connection.h"
#include "backends/postgres/statements.h"

namespace lockr::postgres {

/// How long things may take until one side gives the other up.
struct Bounds {
  Time server = spi::kNever;     ///< The server keeps a silent session at least so long.
  Time validity = spi::kNever;   ///< How long a lock is believed in after a message that was answered.
  Time heartbeat = spi::kNever;  ///< A connection that is silent for so long is asked for a sign of life.
};

/// What to do about a pooler: a connection whose server session is another than the one that greeted us.
enum class Pooler : std::uint8_t {
  refuse,
  check,
  keeps_sessions,  ///< Checked: each connection has a server session of its own.
  accept,          ///< Whatever it does.
};

struct Demands {
  bool fencing = false;
  std::optional<Time> session_ttl;
  Pooler pooler = Pooler::check;
  std::string channel;  ///< To listen on; empty: none.
};

/// What was found. `epoch` is the timeline of the server; tokens start with it.
struct Session {
  std::shared_ptr<Connection> connection;
  Bounds bounds;
  std::uint64_t epoch = 0;
  bool pooled = false;
  bool kept = true;  ///< All is done in one server session: it is set up, and statements are there by their names.
  int server_pid = 0;
  std::string version;
  std::string database;
  Dialect dialect;
};

/// Fencing tokens: the timeline above, the sequence's number below.
inline constexpr unsigned kSequenceBits = 43;
inline constexpr std::uint64_t kMostEpoch = (std::uint64_t{1} << (53 - kSequenceBits)) - 1;

/// Stands before what is asked while the settings of role and database still hold: in this message alone, no
/// statement is cut short, and none waits for other transactions.
inline constexpr const char* kUnhindered =
    "SET LOCAL statement_timeout = 0;SET TRANSACTION ISOLATION LEVEL READ COMMITTED;";

/// Connects, probes, sets up and prepares. Errors: those of Connection::open; `unsafe_setup` for a hot standby, for
/// settings that do not hold, and for a pooler unless each of its connections keeps a server session of its own;
/// `unsupported` for a server before 14; `access_denied` and `backend_failure` where fencing lacks its sequence.
Result<Session> make_session(const Target& target, const Demands& demands, Sockets& sockets, const Patience& patience);

Error standby_refused();
/// Two connections that share a server session.
Error pooler_refused(std::string_view kind);

}  // namespace lockr::postgres
