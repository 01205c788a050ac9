// LockerConfig: which engine, and how.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/result.h"

namespace lockr {

namespace spi {
class Section;
}

/// A checked configuration. A value; const calls are thread-safe.
///
/// As JSON (docs/configuration.md lists every field):
///
///     { "backend": "file", "acquire_timeout": "30s", "require": ["cross_process"], "file": { "directory": "/run/x" } }
///
/// Durations are strings of one number and a unit: ns, us, ms, s, m or h. In every string `${NAME}` is the value of an
/// environment variable, `${file:/abs/path}` a file's content without its last newline, and `$${` a literal `${`.
/// Errors name the place as a JSON pointer, what was expected and, for an unknown field, the nearest known one.
class LOCKR_API LockerConfig {
 public:
  /// Reads JSON text. Errors: `invalid_config` for text that is not JSON or nests deeper than 16, a field that is
  /// unknown, duplicate or of the wrong type, a duration without a unit, a `${NAME}` that is not set.
  static Result<LockerConfig> from_json(std::string_view text);

  /// Reads a file of at most 1 MiB. Errors: those of from_json, with the path; `invalid_config` when there is no such
  /// file; `access_denied` when it can't be read; `unsafe_setup` when every user may read a password that stands in it
  /// (accept_risk "readable_config"), or when it names a module and somebody else could change it.
  static Result<LockerConfig> from_file(const std::string& path);

  /// Reads a connection URL: "memory:", "file:", "file:/abs/directory", "postgresql://…", "redis://…". The scheme
  /// chooses the backend; parameters that start with "lockr." set top-level fields
  /// ("file:/x?lockr.acquire_timeout=5s"), the others belong to the backend's section. Errors: `invalid_config`;
  /// messages never repeat a password.
  static Result<LockerConfig> from_url(std::string_view url);

  // Copied where others are moved, so that a config is never without its data.
  LockerConfig(const LockerConfig&) noexcept = default;
  LockerConfig& operator=(const LockerConfig&) noexcept = default;

  struct Limits {
    std::size_t held = 0;          ///< Keys held at once; 0: the backend's own limit.
    std::size_t waiters = 100000;  ///< Callers waiting at once.
    std::uint32_t handoff = 32;    ///< Passes between local sessions before the key is yielded to other processes.
  };

  /// The backend's name, or the scheme of the URL that this config was made from.
  const std::string& backend() const noexcept;
  /// The path of a module to load the backend from; empty for a built-in one.
  const std::string& plugin() const noexcept;
  /// Prepended to every key as a first scope; empty for none.
  const std::string& key_namespace() const noexcept;
  const std::string& label() const noexcept;
  std::chrono::nanoseconds acquire_timeout() const noexcept;  ///< Default 30 s; "forever" is written so.
  std::chrono::nanoseconds connect_timeout() const noexcept;  ///< Default 5 s.
  std::chrono::nanoseconds reply_timeout() const noexcept;    ///< Default 3 s.
  std::chrono::nanoseconds release_timeout() const noexcept;  ///< Default 5 s.
  /// What the engine must have: "shared", "fencing", "cross_process", "cross_host", "fair",
  /// "hold_at_least".
  const std::vector<std::string>& require() const noexcept;
  /// Whether the config accepts the risk of that name; see the errors of `unsafe_setup`.
  bool accepts_risk(std::string_view risk) const noexcept;
  const Limits& limits() const noexcept;
  /// The backend's own section, for the backend to read. Valid as long as this config or a copy of it.
  const spi::Section& section() const noexcept;

 private:
  struct Data;
  explicit LockerConfig(std::shared_ptr<const Data> data) noexcept;
  friend struct ConfigReader;

  std::shared_ptr<const Data> data_;
};

/// Reads "1.5s", "250ms", "forever"; `invalid_config` otherwise. Zero is allowed, negative numbers are not.
LOCKR_API Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

/// Writes a duration as parse_duration reads it, in the largest unit that keeps it exact.
LOCKR_API std::string format_duration(std::chrono::nanoseconds duration);

}  // namespace lockr
