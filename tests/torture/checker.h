// The judge: reads a history and tells what in it lockr must not have done. Pure: no clock, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/torture/history.h"

namespace lockr::torture {

/// What a violation is found by.
enum class Oracle : std::uint8_t {
  exclusion,   ///< Two holders at once, both inside their validity, and no fault that takes locks away.
  witness,     ///< The shared witness met somebody where the times show nobody.
  fence,       ///< A token that is not larger than an earlier one of its key, or 0 where the engine has tokens.
  stale,       ///< The guarded resource was written with an old token, or refused the newest.
  refusal,     ///< A try was refused though nobody held, wanted or had just had the key.
  wake_up,     ///< Somebody waited for a key that was free.
  takeover,    ///< The same after its holder was killed.
  loss,        ///< A loss without a fault that takes locks away, told too late or not at all.
  error,       ///< A code that nothing explains.
  late,        ///< A call that returned after its timeout and the reply_timeout, or never.
  early,       ///< A timeout before its time.
  leak,        ///< Something was left behind: a lock, a waiter, a descriptor, a thread, a connection.
  accounting,  ///< Counters that do not add up.
};
std::string_view name_of(Oracle oracle) noexcept;

struct Violation {
  Oracle oracle;
  std::string text;  ///< One sentence.
  /// The shortest piece of the history that shows it: indices of attempts and faults.
  std::vector<std::size_t> attempts{};
  std::vector<std::size_t> faults{};
};

struct Verdict {
  std::vector<Violation> violations;       ///< At most kKept of an oracle.
  std::map<Oracle, std::uint64_t> counts;  ///< All of them.
  std::uint64_t attempts = 0;
  std::uint64_t grants = 0;
  std::uint64_t excused = 0;         ///< Overlaps that a fault which takes locks away explains, within the loss bound.
  std::uint64_t killed_holders = 0;  ///< Grants whose process was killed.
  std::uint64_t killed_waiters = 0;
  std::uint64_t losses = 0;
  std::uint64_t takeovers = 0;  ///< Times that somebody was waiting when the holder was killed, and got the key.
  Nanos worst_takeover = 0;
  Nanos worst_loss = 0;                           ///< From the end of the fault to the holder's knowing.
  Nanos worst_wake = 0;                           ///< From a release to the grant of somebody who waited.
  std::vector<std::uint64_t> last_tokens;         ///< The largest of each key, for the next stretch.
  std::vector<std::uint64_t> last_writer_tokens;  ///< Of its writers.

  static constexpr std::size_t kKept = 20;
  void add(Violation violation);
  bool clean() const noexcept { return counts.empty(); }
};

/// Judges one stretch. The history is taken, as it is put in order on the way, and given back in `judged` if asked for,
/// for the indices of the violations to be read.
Verdict check(History history, History* judged = nullptr);

/// The piece of history that a violation names, a line each, times in ms since `origin`.
std::string describe(const Violation& violation, const History& history, Nanos origin);

}  // namespace lockr::torture
