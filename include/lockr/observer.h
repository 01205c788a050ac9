// What the library tells without being asked: events for an Observer, lines for a log hook.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "lockr/result.h"

namespace lockr {

/// One thing that happened. Values, owned by the event.
struct Event {
  enum class Kind : std::uint8_t {
    lost,          ///< A lock was lost; `error` has the reason. Told before the key is asked for again.
    not_released,  ///< A destructor's release failed: the engine says that we did not hold the lock (`error` is
                   ///< `not_released`), or it could not free it, and the key may stay taken (any other code).
    long_wait,     ///< A caller has been waiting for `duration` (10 s, then every further 10 s).
    reconnected,   ///< The engine can be reached again.
    released,      ///< A lock was given back after `duration`. Only for observers that ask for held times.
  };
  Kind kind;
  std::string key;
  std::string label;  ///< Of the session.
  std::optional<Error> error;
  std::chrono::nanoseconds duration{0};
};

/// Hears events, on the library's notifier thread, one at a time (those of a dedicated session on a thread of its own,
/// beside the others). Must not throw; may call the library.
class LOCKR_API Observer {
 public:
  virtual ~Observer();
  virtual void on_event(const Event& event) noexcept = 0;
  /// True: hear `released` too; each acquisition then reads the clock twice.
  virtual bool wants_held_times() const noexcept { return false; }
};

enum class LogLevel : std::uint8_t { debug, info, warning, error };

/// Receives one line without a newline, on any thread. Must not throw and must not call the library.
using LogHook = std::function<void(LogLevel level, std::string_view line)>;

}  // namespace lockr
