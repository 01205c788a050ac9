// Where the modules of the tests are, and configs that name them.
#pragma once

#include <cstdlib>
#include <string>

#include "lockr/lockr.h"

namespace lockr {

inline std::string built(const std::string& name) {
  const char* folder = std::getenv("LOCKR_TEST_MODULES");
  return std::string(folder ? folder : "/LOCKR_TEST_MODULES-is-not-set") + "/" + name + ".so";
}

/// A config of the backend "thrower"; `section` are the fields of its section.
inline LockerConfig thrower_config(const std::string& module, const std::string& section = {}) {
  return LockerConfig::from_json(R"({"backend": "thrower", "plugin": ")" + module + R"(", "thrower": {)" + section +
                                 "}}")
      .value();
}

}  // namespace lockr
