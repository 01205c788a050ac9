// The scripted engine: a backend over a ScriptedServer. Each connection stands for one process.
//
// It sleeps only in the server's Runtime, so it runs under a simulator on one thread as well as under real threads.
// Answers arrive `latency` after the request was sent; with lanes through collect(), without inside submit(). Waits,
// heartbeats, losses and hints are told from pump().
#pragma once

#include <memory>
#include <string_view>

#include "lockr/locker.h"
#include "lockr/registry.h"
#include "lockr/spi/backend.h"
#include "tests/support/scripted_server.h"

namespace lockr::testing {

/// A backend that is not open yet; open() connects the server's next process.
std::unique_ptr<spi::Backend> connect_to(std::shared_ptr<ScriptedServer> server);

/// Opens a locker, in the server's Runtime, that stands for one more process. `fields` are top-level members of the
/// config, for example `"namespace": "a"`; empty for none.
Result<std::unique_ptr<Locker>> open_scripted(std::shared_ptr<ScriptedServer> server, std::string_view fields = {},
                                              OpenOptions options = {});

}  // namespace lockr::testing
