// What a backend inherits: the answers of an engine without lanes and without waiting of its own.
#include "lockr/spi/backend.h"

namespace lockr::spi {

Section::~Section() = default;
Backend::~Backend() = default;

bool Backend::collect(std::uint16_t, Time) { return true; }
bool Backend::start_wait(Request&) { return false; }
void Backend::stop_wait(Request&) {}
bool Backend::wanted_elsewhere(std::uint64_t) { return true; }
void Backend::before_fork() noexcept {}
void Backend::after_fork() noexcept {}

Result<std::vector<Descriptor>> Backend::descriptors(Seat, const Key&) { return std::vector<Descriptor>(); }

}  // namespace lockr::spi
