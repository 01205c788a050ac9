// A module whose backend is named like that of thrower.cc.
#include "lockr/spi/module.h"

namespace {

const lockr::spi::BackendInfo kTwin{
    .name = "thrower", .schemes = nullptr, .summary = "", .schema = "{}", .create = nullptr};

}  // namespace

LOCKR_MODULE(kTwin);
