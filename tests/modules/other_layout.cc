// A module that was built with another standard library.
#include "lockr/spi/module.h"

const lockr::spi::Module lockr_module{lockr::spi::kVersion, lockr::spi::kLayout + 1, nullptr};
