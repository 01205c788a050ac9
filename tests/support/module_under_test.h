// The backend that a harness opens: the one in the library, or the module that LOCKR_TEST_MODULE names.
#pragma once

#include <cstdlib>
#include <string>

#include "lockr/lockr.h"

namespace lockr::testing {

inline std::string module_under_test() {
  const char* path = std::getenv("LOCKR_TEST_MODULE");
  return path ? path : "";
}

/// Two backends of one name are refused, so the module is opened where there is no other.
inline Registry registry_under_test() { return module_under_test().empty() ? Registry::builtin() : Registry(); }

/// The members of a config that choose the backend: `"backend": "file", `, and the module's path.
inline std::string backend_under_test(const std::string& name) {
  const std::string module = module_under_test().empty() ? "" : R"("plugin": ")" + module_under_test() + "\", ";
  return R"("backend": ")" + name + "\", " + module;
}

}  // namespace lockr::testing
