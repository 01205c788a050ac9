// What values of the API ask of the system; a module has this code too.
#include <time.h>
#include <unistd.h>

#include "lockr/releaser.h"

namespace lockr {

BootClock::time_point BootClock::now() noexcept {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return time_point(std::chrono::seconds(now.tv_sec) + duration(now.tv_nsec));
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace lockr
