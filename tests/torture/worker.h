// How a worker is started: as this program again, with these arguments.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockr::torture {

inline constexpr const char* kWorkerArgument = "--lockr-torture-worker";

/// `fd`: of the arena, which the worker inherits.
std::vector<std::string> worker_command(int fd, int worker, std::uint16_t incarnation);

}  // namespace lockr::torture
