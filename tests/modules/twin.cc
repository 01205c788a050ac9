// A module whose backend is named like that of thrower.cc.
#include "lockr/spi/module.h"

namespace {

lockr::Result<std::unique_ptr<lockr::spi::Backend>> make_nothing(const lockr::spi::OpenContext& /*context*/) {
  return nullptr;
}

const lockr::spi::BackendInfo kTwin{
    .name = "thrower", .schemes = nullptr, .summary = "", .schema = "{}", .create = make_nothing};

}  // namespace

LOCKR_MODULE(kTwin);
