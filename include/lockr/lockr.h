// The header to include, and to read first.
//
//     auto locker  = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
//     auto session = locker->open_session().value();
//     if (auto held = session->lock({"tenant", "42", "invoice"})) {
//       ...                                      // held is a Releaser; nobody else is here
//     }                                          // released
//
// In reading order: key.h (names), locker.h (Locker and Session), releaser.h (what a lock gives you), result.h
// (errors), config.h and registry.h (from JSON to a Locker), observer.h (events). Not included here: std_mutex.h, for
// std::unique_lock and its kin, and postgres.h, for locks in a transaction of yours. A backend's author reads
// spi/backend.h. In prose: docs/guide.md, docs/semantics.md.
#pragma once

#include "lockr/config.h"
#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/observer.h"
#include "lockr/registry.h"
#include "lockr/releaser.h"
#include "lockr/result.h"
#include "lockr/version.h"
