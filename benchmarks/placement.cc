#include "placement.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>

namespace lockr::bench {
namespace {

cpu_set_t available() {
  static const cpu_set_t all = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) give_up("sched_getaffinity failed");
    return set;
  }();
  return all;
}

// The n-th CPU that we may use, as a set.
cpu_set_t only(int n) {
  const cpu_set_t all = available();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all) || n-- > 0) continue;
    CPU_SET(cpu, &set);
    return set;
  }
  give_up("client and server can't be given different CPUs: there is one only");
}

void set_affinity(int pid, const cpu_set_t& set) {
  if (sched_setaffinity(pid, sizeof set, &set) != 0) give_up("sched_setaffinity failed");
}

}  // namespace

void give_up(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

void place(Placement placement, const std::vector<int>& server_pids) {
  const bool anywhere = placement == Placement::anywhere;
  set_affinity(0, anywhere ? available() : only(0));
  for (const int pid : server_pids) {
    set_affinity(pid, anywhere ? available() : only(placement == Placement::apart ? 1 : 0));
  }
}

}  // namespace lockr::bench
