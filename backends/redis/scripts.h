// What the server runs. What users send are KEYS and ARGV, never part of a script.
//
// Of each key there are two names: "<prefix>l:<key>" is the lock, "<prefix>q:<key>" who waits for it.
//
// - An exclusive lock is a string: the value of its holder, which no other acquisition of it ever has. One that is free
//   is taken without a script, by SET NX; scripts are for all else.
// - A shared lock is a sorted set: of each holder the value, by the moment (ms) at which its lease runs out.
// - A waiting process is a member of a sorted set, "x <process> …" or "s <process> …", by its arrival (µs).
// - A release names the first who waits and still listens: takes it off the queue, publishes the key to its channel
//   "<prefix>p:<process>", and keeps the lock for it, as "r <process>", for kReserved. Readers at the front of the
//   queue are named together.
#pragma once

#include <hiredis/hiredis.h>

#include <cstddef>
#include <string>

#include "lockr/spi/runtime.h"

namespace lockr::redis {

enum class Script : std::uint8_t {
  /// KEYS: the token's name, then lock and queue of each item. ARGV: prefix, reservation (ms), process, ttl (ms),
  /// the least token or "" for none, "each" | "all" | "any", then of each item: "x" | "s", value, and as what to wait
  /// or "".
  /// Returns a number for each: token (or 1) when granted; 0 when refused; below 0 when it waits now: -1 - what is left
  /// of the holder's lease (ms), an hour if that never ends; "WRONGTYPE …" when the name is in use for something else.
  take,
  /// All of many exclusive locks if each is free. KEYS: the token's name, then the locks. ARGV: ttl (ms), the least
  /// token or "" for none, the value of all.
  /// Returns the last of their tokens, or how many they are; 0: nothing is taken, Script::take tells why.
  take_all,
  /// KEYS: lock and queue of each item. ARGV: prefix, reservation (ms), then of each: "x" | "s", value, and for
  /// how long (ms) nobody shall have it yet: then it stays, as "k" and the value.
  /// Returns 1 for each that was held, 0 for others.
  release,
  /// The same for one exclusive lock that is free at once. KEYS: lock, queue. ARGV: value, prefix, reservation (ms).
  /// Returns 1 or 0.
  release_one,
  /// KEYS: lock and queue of each item. ARGV: prefix, reservation (ms), process, then of each: as what it waited.
  /// It waits no longer, and what is reserved for it goes to the next. Returns 1.
  leave,
  /// KEYS: the locks. ARGV: ttl (ms), then of each: "x" | "s", value.
  /// Returns the server's time (ms), and the numbers, from 1, of those that are not held.
  renew,
  /// KEYS: lock and queue of each item. ARGV: prefix. Returns of each how many hold it, and rows: holders' values with
  /// "x " or "s " before them, then waiters that still listen.
  inspect,
};
inline constexpr std::size_t kScripts = 7;

/// How long a lock is kept for a waiter that was named.
inline constexpr spi::Time kReserved = std::chrono::milliseconds(500);

/// Whether the reply has the form that is said above, for a call with so many KEYS. What has not is no answer to that
/// call.
bool fits(Script script, std::size_t keys, const redisReply& reply) noexcept;

/// The same of an INCRBY of the tokens' counter.
bool fits_token(const redisReply& reply) noexcept;

/// Of an item of Script::take's answer: what it says is a grant.
inline bool is_grant(const redisReply& item) noexcept { return item.type == REDIS_REPLY_INTEGER && item.integer > 0; }

const std::string& text_of(Script script);
/// The SHA-1 by which the server knows it.
const std::string& digest_of(Script script);

}  // namespace lockr::redis
