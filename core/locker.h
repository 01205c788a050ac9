// Opens a Locker over one backend: the lock table, the lanes and the service thread around it.
#pragma once

#include <functional>
#include <memory>

#include "lockr/config.h"
#include "lockr/registry.h"
#include "lockr/spi/backend.h"

namespace lockr::core {

/// Makes a backend that is not open yet.
using MakeBackend = std::function<Result<std::unique_ptr<spi::Backend>>()>;

/// `backend` is not open yet and may be null: the lock table alone is then the engine. Opens it within
/// connect_timeout and checks what `require` lists. `make_dedicated`: for dedicated sessions, where the backend has
/// them. Errors: those of Registry::open.
Result<std::unique_ptr<Locker>> open_locker(const LockerConfig& config, const spi::BackendInfo& info,
                                            std::unique_ptr<spi::Backend> backend, const OpenOptions& options,
                                            MakeBackend make_dedicated = {});

}  // namespace lockr::core
