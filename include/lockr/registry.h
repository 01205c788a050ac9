// Registry: the backends a program can open. open(): from a config to a Locker.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/config.h"
#include "lockr/locker.h"
#include "lockr/observer.h"
#include "lockr/result.h"

namespace lockr {

namespace spi {
struct BackendInfo;
class Runtime;
}  // namespace spi

/// What open() takes beside the config.
struct OpenOptions {
  std::shared_ptr<Observer> observer{};
  LogHook log{};
  /// Time, park/wake, randomness and threads; the system's own when null. For tests. Must outlive the locker and all
  /// that it made.
  spi::Runtime* runtime = nullptr;
};

/// A set of backends, looked up by name. Nothing registers itself: what a program can open is what was added here.
/// A value; add() is not thread-safe, const calls are.
class LOCKR_API Registry {
 public:
  /// Empty.
  Registry() = default;
  /// Every backend this library was built with.
  static Registry builtin();

  /// Adds a backend. Errors: `invalid_config` when its name or a URL scheme of its is taken; `incompatible_plugin` when
  /// it was built for another version of the plugin interface, with both versions in the message.
  Status add(const spi::BackendInfo& backend);

  /// Loads a module, for good, and adds its backend; code of the file runs in this process. The path is absolute, and
  /// everything on it belongs to root or to this process's user and can't be written by others (docs/configuration.md).
  /// Errors: those of add(); `invalid_config` for a path that leads to no file, or to one that was loaded here before;
  /// `unsafe_setup` for one that others could replace; `access_denied`; `incompatible_plugin` for a file that is no
  /// module, or that was built for another version of the plugin interface.
  Status load(const std::string& path);

  /// The names, in the order they were added.
  std::vector<std::string> names() const;
  /// The backend of that name or URL scheme, or null. Valid for the life of the program.
  const spi::BackendInfo* find(std::string_view name) const noexcept;

  /// The JSON Schema (draft 2020-12) of a config for these backends, for editors and for checks without lockr. What no
  /// schema can say is in its $comment.
  std::string config_schema() const;

  /// Checks a config as open() would, without touching the engine. A module that it names is loaded, for good, and
  /// stands for its backend in this call alone. Errors: `unknown_backend`, `invalid_config`, `unsupported`, and for a
  /// module those of load(). `incompatible_plugin` also when the backend throws an exception.
  Status check(const LockerConfig& config) const;

  /// Opens the engine: connects and probes it within connect_timeout, never lazily.
  /// Errors: those of check(); `unsafe_setup`; `connection_lost`; `access_denied`; `capacity`; `unsupported` when the
  /// engine lacks what `require` lists; `backend_failure`.
  Result<std::unique_ptr<Locker>> open(const LockerConfig& config, OpenOptions options = {}) const;

 private:
  std::vector<const spi::BackendInfo*> backends_;
};

/// Registry::builtin().open(config, options).
LOCKR_API Result<std::unique_ptr<Locker>> open(const LockerConfig& config, OpenOptions options = {});

}  // namespace lockr
