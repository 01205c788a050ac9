// Opens a Locker over one backend: the lock table, the lanes and the service thread around it.
#pragma once

#include <memory>

#include "lockr/config.h"
#include "lockr/registry.h"
#include "lockr/spi/backend.h"

namespace lockr::core {

/// `backend` is not open yet and may be null: the lock table alone is then the engine. Opens it within
/// connect_timeout and checks what `require` lists. Errors: those of Registry::open.
Result<std::unique_ptr<Locker>> open_locker(const LockerConfig& config, const spi::BackendInfo& info,
                                            std::unique_ptr<spi::Backend> backend, const OpenOptions& options);

}  // namespace lockr::core
