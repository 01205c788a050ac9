// From an address to a connection that may be used: who we are, what the server is, and what is refused.
#pragma once

#include <memory>
#include <string>

#include "backends/redis/connection.h"
#include "backends/redis/network.h"
#include "backends/redis/options.h"
#include "lockr/result.h"

namespace lockr::redis {

struct Greeting {
  std::string client_name;
  Time reply_timeout{0};
  bool accept_clear_text = false;
  bool accept_eviction = false;
};

struct Session {
  std::shared_ptr<Connection> connection;
  std::string run_id;  ///< Of the server's process; another one is another keeper of locks.
  std::string version;
  std::int64_t microseconds = 0;  ///< The server's clock, a moment ago.
};

/// Errors: those of connecting; `access_denied`; `unsafe_setup` for a replica, Redis Cluster, an evicting server and a
/// password in clear text over a network; `unsupported` for a server that is too old.
Result<Session> make_session(const Options& options, const Greeting& greeting, Network& network,
                             const Patience& patience);
/// The same of a stream that is open.
Result<Session> greet(std::unique_ptr<Stream> stream, const Options& options, const Greeting& greeting,
                      const Patience& patience);

}  // namespace lockr::redis
