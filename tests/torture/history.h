// What a run writes down: every attempt to take a key, every fault, every moment in which the machine stood still.
//
// Times are nanoseconds on CLOCK_MONOTONIC, one clock for all processes of a host. Records lie in memory that the
// processes share, so what a worker wrote is there after it was killed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockr::torture {

using Nanos = std::int64_t;

inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

Nanos now() noexcept;

enum class Call : std::uint8_t { lock, try_lock, lock_all };

/// Answers, beside the values of lockr::errc.
inline constexpr std::uint8_t kSuccess = 0;
inline constexpr std::uint8_t kPending = 0xff;

/// What a holder or a fault did to one attempt.
enum Mark : std::uint8_t {
  kShared = 1,
  kLost = 2,        ///< The holder was told, or found out, that the lock is lost; `left` is when.
  kStoppable = 4,   ///< The call had a stop token that may fire.
  kMet = 8,         ///< Inside, the witness showed somebody who must not be there.
  kStale = 16,      ///< The guarded resource refused the token: a newer one had been there.
  kOverwrote = 64,  ///< The guarded resource took the token though a newer one had been there: it does not look.
  kKilled = 32,     ///< Set by the checker: its process was killed before the attempt ended.
};

/// One call that takes a key, and what became of it. lock_all writes one for each key.
struct Attempt {
  Nanos asked = 0;     ///< Just before the call.
  Nanos answered = 0;  ///< Just after it; 0: it did not return.
  Nanos left = 0;      ///< When the holder stopped to touch the thing: just before the release, or at a loss; 0: never.
  Nanos released = 0;  ///< Just after the release; 0: it did not return.
  /// Granted: until when it was provably held, as the holder saw it last; 0 when it does not run out. Refused: until
  /// when the engine may keep the key for nobody; 0 when it does not.
  Nanos valid_until = 0;
  std::uint64_t token = 0;       ///< Fencing token; 0: none.
  std::uint32_t timeout_us = 0;  ///< Of the call; 0: it only tries.
  std::uint16_t key = 0;         ///< Number of the key.
  std::uint16_t slot = 0;  ///< Number of the session: those of worker w are w * threads … w * threads + threads - 1.
  std::uint16_t incarnation = 0;  ///< Of the worker's process, from 1.
  Call call = Call::lock;
  std::uint8_t answer = kPending;          ///< Of the call.
  std::uint8_t release_answer = kPending;  ///< Of the release; kPending also when nobody waited for it.
  std::uint8_t marks = 0;

  bool shared() const noexcept { return (marks & kShared) != 0; }
  bool granted() const noexcept { return answer == kSuccess; }
};
static_assert(sizeof(Attempt) == 64);

/// What a fault may do to the locks of those whom it hits. What is not said here, it must not do.
enum Effect : std::uint16_t {
  kKills = 1,      ///< The worker's process ends.
  kStops = 2,      ///< The worker's process stands still.
  kMayLose = 4,    ///< Locks may be lost, within the backend's loss bound.
  kLosesAll = 8,   ///< All locks are lost, and each holder must be told within the loss bound.
  kDisturbs = 16,  ///< Calls may take as much longer as the fault lasts, until it has settled.
  kCuts = 32,      ///< Calls may fail with connection_lost.
  kFails = 64,     ///< Calls may fail with backend_failure.
  kExhausts = 128  ///< Calls may fail with capacity.
};

inline constexpr int kEveryone = -1;

struct FaultRecord {
  std::uint16_t kind = 0;  ///< Index into History::fault_names.
  std::uint16_t effects = 0;
  std::int16_t worker = kEveryone;
  std::uint16_t incarnation = 0;  ///< Of the worker; 0 with kEveryone.
  Nanos begin = 0;
  Nanos end = 0;      ///< 0: still going on when the history ends.
  Nanos settled = 0;  ///< When the engine must be as good as before.
};

/// A thread that only sleeps woke up so late: nobody's bound runs meanwhile.
struct Stall {
  std::int16_t worker = kEveryone;  ///< Whose thread it was; the coordinator's stand for the machine.
  Nanos begin = 0;
  Nanos end = 0;
};

/// What the backend promises, and what the harness may judge by it.
struct Bounds {
  Nanos takeover = 0;  ///< From a holder's death to the next grant.
  Nanos loss = 0;      ///< From a loss to the holder's knowing.
  Nanos wake = 0;      ///< From a release to the grant of somebody who waits.
  Nanos reserve = 0;   ///< How long a free key may be refused, because it is kept for somebody who was waiting.
  Nanos reply = 0;     ///< reply_timeout.
  Nanos release = 0;   ///< release_timeout.
};

/// One stretch of a run, at whose end every worker had given back what it held.
struct History {
  std::vector<Attempt> attempts;  ///< Each slot's in the order in which it made them; slots one after the other.
  std::vector<FaultRecord> faults;
  std::vector<Stall> stalls;
  std::vector<std::string> fault_names;
  /// The largest of each key in earlier stretches, of all and of the writers; empty: none.
  std::vector<std::uint64_t> last_tokens{}, last_writer_tokens{};
  Bounds bounds;
  int threads = 1;  ///< Slots of a worker.
  int slots = 1;
  int keys = 1;
  Nanos end = 0;  ///< When everybody had left.

  int worker_of(const Attempt& attempt) const noexcept { return attempt.slot / threads; }
};

}  // namespace lockr::torture
