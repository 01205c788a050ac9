// What an exception says that left the code of a backend.
#pragma once

#include <exception>
#include <string>

namespace lockr::core {

/// Call it in a handler: what() of the exception that is handled there.
inline std::string thrown_text() {
  try {
    throw;
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace lockr::core
