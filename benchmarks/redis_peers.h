// What the Redis benchmarks have in common: a private server, lockr over it, and the client that everybody writes by
// hand.
#pragma once

#include <hiredis/hiredis.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "lockr/lockr.h"
#include "placement.h"
#include "tests/support/redis_server.h"

namespace lockr::bench {

/// The private server; it is started at first use and ends with the program. Without Redis the program ends with an
/// error. Everybody here speaks to its TCP port on loopback.
testing::RedisServer& redis_server();

/// lockr with 2 lanes and a ttl of 10 s, as by default. What can't be had ends the program.
std::unique_ptr<Locker> open_redis(std::uint16_t port, bool fencing = true);

/// hiredis by hand: one connection, SET NX PX and a script that compares and deletes. What fails ends the program.
class BareRedis {
 public:
  explicit BareRedis(std::uint16_t port);
  BareRedis(const BareRedis&) = delete;
  BareRedis& operator=(const BareRedis&) = delete;
  ~BareRedis() { redisFree(context_); }

  /// Takes the key under a value of its own; false: somebody has it.
  bool lock(const std::string& key);
  /// Gives back what was locked under this value.
  bool unlock(const std::string& key, const std::string& value);
  /// The value of the last lock().
  const std::string& value() const { return value_; }
  void ping();

 private:
  using Reply = std::unique_ptr<redisReply, void (*)(void*)>;
  Reply call(std::initializer_list<std::string_view> words);

  redisContext* context_;
  std::string digest_;
  std::string name_;
  std::uint64_t count_ = 0;
  std::string value_;
};

}  // namespace lockr::bench
