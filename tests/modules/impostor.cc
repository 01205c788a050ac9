// A module whose backend is named like one of the library's own.
#include "lockr/spi/module.h"

namespace {

lockr::Result<std::unique_ptr<lockr::spi::Backend>> make_nothing(const lockr::spi::OpenContext& /*context*/) {
  return nullptr;
}

const lockr::spi::BackendInfo kImpostor{
    .name = "memory", .schemes = nullptr, .summary = "", .schema = "{}", .create = make_nothing};

}  // namespace

LOCKR_MODULE(kImpostor);
