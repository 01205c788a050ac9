// What a call of lockr returns when it can fail: Result<T>, and the Error inside it.
//
// No exception crosses the API. `Result<T>` is `tl::expected<T, Error>`: test it like a bool, read the value like a
// pointer's, the error with `.error()`. The one thing that ends the program is a failed memory allocation.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

#if !__has_include(<tl/expected.hpp>)
#error "lockr needs tl/expected.hpp, a header of its own: on Debian, install libexpected-dev"
#endif
#include <tl/expected.hpp>

#include "lockr/export.h"

namespace lockr {

/// Why a call failed. Each value names who raises it and what the caller can do.
enum class errc : std::uint8_t {
  not_acquired = 1,  ///< A try, and someone else holds the key. Raised by the lock table and every backend. Try later.
  timeout,           ///< The deadline passed while waiting; nothing is held. Lock table.
  cancelled,         ///< The stop token fired while waiting; nothing is held. Lock table.
  not_released,      ///< The engine says that we did not hold what we gave back. Backends, through release().
  session_closed,    ///< The session or its locker was closed. Lock table; once from a Releaser that outlives them.
  session_busy,      ///< A dedicated session is inside another thread's call. Retry.
  connection_lost,   ///< The engine can't be reached or died under the call. Backends. A retry can help.
  lock_lost,         ///< Releasing what was lost before; nothing was given back. Lock table, once a Releaser.
  deadlock,          ///< Waiting would close a cycle of waiting sessions, or turn a shared lock exclusive. Lock table.
  capacity,          ///< A limit is reached: of the config, descriptors, disk or the engine's lock memory.
  unsupported,       ///< This backend can't do that, ever. Raised before the engine is asked.
  unsafe_setup,      ///< Opening refused: exclusion could fail silently. The message names the switch that accepts it.
  forked_process,    ///< The object was made before fork(); the child holds nothing and must open its own.
  invalid_key,       ///< A key that can't be: no scope, an empty one, ':' in a scope, over 1,024 bytes.
  invalid_config,    ///< The config is wrong; the message names the place (a JSON pointer) and what was expected.
  unknown_backend,   ///< No backend of that name; the message names those there are, and why others were left out.
  incompatible_plugin,  ///< A module of another SPI version, or not a lockr module.
  access_denied,        ///< The operating system or the engine denies us access.
  backend_failure,      ///< Anything else the engine reports; native() has its own words.
};

/// Stable spelling of a code, for example "not_acquired"; a static string. Thread-safe.
LOCKR_API const char* name_of(errc code) noexcept;

/// The category "lockr": its conditions are equal to std::errc where one fits (timeout is timed_out, cancelled is
/// operation_canceled, access_denied is permission_denied, deadlock is resource_deadlock_would_occur).
LOCKR_API const std::error_category& error_category() noexcept;

/// Lets `errc` be used as a std::error_code.
inline std::error_code make_error_code(errc code) noexcept { return {static_cast<int>(code), error_category()}; }

/// One failure: a code, and on all but the most frequent failures a sentence and details.
///
/// A value: cheap to copy (a code and one shared pointer), safe to read from many threads.
class LOCKR_API Error {
 public:
  /// A bare code; the message is then the code's general sentence. Never allocates.
  explicit Error(errc code) noexcept : code_(code) {}

  /// A code and a sentence that tells a person what happened and what to do. `retryable`: whether the same call may
  /// succeed later without anyone changing anything; connection_lost, timeout, not_acquired, capacity and session_busy
  /// are retryable by default.
  Error(errc code, std::string message);

  /// Returns *this with the engine's own words: an SQLSTATE, an errno name, a reply.
  Error with_native(std::string native) &&;
  /// Returns *this with the key that the call was about.
  Error with_key(std::string_view key) &&;
  /// Returns *this with another answer to retryable().
  Error with_retryable(bool retryable) &&;
  /// Returns *this with the moment (CLOCK_BOOTTIME) until which the engine may still hold the key for us.
  Error with_may_hold_until(std::chrono::nanoseconds boot_time) &&;

  errc code() const noexcept { return code_; }
  /// One sentence, without the code's name and without secrets.
  std::string message() const;
  /// The engine's own words, empty when there are none. Valid as long as this Error.
  std::string_view native() const noexcept;
  /// The key the call was about, empty when there is none. Valid as long as this Error.
  std::string_view key() const noexcept;
  /// Whether the same call may succeed later.
  bool retryable() const noexcept;
  /// Set when the outcome is unknown: until this time on CLOCK_BOOTTIME (nanoseconds) the engine may hold the key for a
  /// caller that was told it is not acquired. Nobody is granted the key twice because of it; it may stay taken.
  std::optional<std::chrono::nanoseconds> may_hold_until() const noexcept;

  /// "code: message (native)", for logs.
  std::string to_string() const;

 private:
  struct Detail;
  Detail& own_detail();

  errc code_;
  std::shared_ptr<const Detail> detail_;
};

/// The value of a call or the Error that stopped it.
template <class T>
using Result = tl::expected<T, Error>;

/// The result of a call that returns nothing else.
using Status = Result<void>;

/// Shorthand: `return fail(errc::capacity, "...")`.
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }
inline tl::unexpected<Error> fail(errc code, std::string message) { return fail(Error(code, std::move(message))); }

}  // namespace lockr

template <>
struct std::is_error_code_enum<lockr::errc> : std::true_type {};
