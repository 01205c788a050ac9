// What lockr and its guard send each other: packets over a pair of sockets.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "cli/guard.h"

namespace lockr::cli {

/// lockr to guard.
struct Order {
  enum class Kind : int {
    keep,     ///< Descriptors ride along.
    token,    ///< More text of LOCKR_FENCING_TOKEN.
    go,       ///< Start the command.
    pass_on,  ///< Send it the signal `value`.
    resumed,  ///< lockr runs again after a stop; continue the command.
    end,      ///< End it.
  };
  static constexpr std::size_t kMostText = 4096;
  static constexpr std::size_t kMostDescriptors = 200;  // The kernel takes 253.

  Kind kind{};
  int value = 0;
  int text_size = 0;
  char text[kMostText];
};

/// The body of the guard process. `socket` is its end of the pair.
[[noreturn]] void guard_main(const GuardedCommand& command, pid_t lockr, int socket);

}  // namespace lockr::cli
