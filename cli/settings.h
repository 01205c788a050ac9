// Which engine a command works with: options, environment, default.
#pragma once

#include <string>
#include <string_view>

#include "lockr/config.h"
#include "lockr/result.h"

namespace lockr::cli {

/// What the command line says; empty strings where it says nothing.
struct EngineChoice {
  std::string config_file;  ///< --config
  std::string url;          ///< --backend
};

struct Settings {
  LockerConfig config;
  std::string origin;  ///< Where it came from, for people; has no secrets.
};

/// Reads --config or --backend, else the file LOCKR_CONFIG names, else LOCKR_URL, else "file:"; an empty variable
/// counts as unset. Checks the config against the backends of this build, without touching the engine.
Result<Settings> load_settings(const EngineChoice& choice);

/// Whether a connection URL contains a password, in front of its host or as a parameter. A `${…}` reference is none.
bool has_password(std::string_view url);

}  // namespace lockr::cli
