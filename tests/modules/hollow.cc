// A module without a backend.
#include "lockr/spi/module.h"

const lockr::spi::Module lockr_module{lockr::spi::kVersion, lockr::spi::kLayout, nullptr};
