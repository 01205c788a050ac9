// What values of the API ask of the system; a module has this code too.
#include <time.h>
#include <unistd.h>

#include <array>

#include "lockr/releaser.h"
#include "lockr/spi/runtime.h"

namespace lockr {

BootClock::time_point BootClock::now() noexcept {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return time_point(std::chrono::seconds(now.tv_sec) + duration(now.tv_nsec));
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

std::string spi::host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

}  // namespace lockr
