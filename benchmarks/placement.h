// Which CPUs the two sides of a benchmark run on.
#pragma once

#include <string>
#include <vector>

namespace lockr::bench {

/// One thread's round trip takes several times longer when client and server have different CPUs.
enum class Placement { apart, together, anywhere };
/// Places the calling thread, and the server's processes given.
void place(Placement placement, const std::vector<int>& server_pids);

[[noreturn]] void give_up(const std::string& why);

}  // namespace lockr::bench
