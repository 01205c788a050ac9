// What a backend inherits: the answers of an engine without lanes and without waiting of its own.
#include "lockr/spi/backend.h"

namespace lockr::spi {

Section::~Section() = default;
Backend::~Backend() = default;

bool Backend::collect(std::uint16_t, Time) noexcept { return true; }
bool Backend::start_wait(Request&) noexcept { return false; }
void Backend::stop_wait(Request&) noexcept {}
bool Backend::wanted_elsewhere(std::uint64_t) noexcept { return true; }
void Backend::before_fork() noexcept {}
void Backend::after_fork() noexcept {}

Result<std::vector<Descriptor>> Backend::descriptors(Seat, const Key&) noexcept { return std::vector<Descriptor>(); }

}  // namespace lockr::spi
