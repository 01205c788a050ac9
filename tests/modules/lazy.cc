// A module whose backend has no factory: with nothing beneath it the lock table would exclude nobody else.
#include "lockr/spi/module.h"

namespace {

const lockr::spi::BackendInfo kLazy{
    .name = "lazy", .schemes = nullptr, .summary = "", .schema = "{}", .create = nullptr};

}  // namespace

LOCKR_MODULE(kLazy);
