// Faults of what lies between workers and their engine.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "tests/support/network.h"
#include "tests/support/proxy.h"
#include "tests/torture/fault.h"

namespace lockr::torture {

/// How the engine's clients live with a bad network.
struct Temper {
  /// Whether the locks of a connection go with it.
  bool bound_to_connections;
  /// How long a client takes to give up what does not answer, and to connect anew.
  std::chrono::milliseconds reply;
  std::chrono::milliseconds loss;
};

/// slow, split, silent (for less than the reply_timeout), dead (for longer than locks are believed in), reset,
/// half_close, truncate. The proxy is the rig's, which outlives its faults.
std::vector<std::unique_ptr<Fault>> proxy_faults(testing::Proxy& proxy, const Temper& temper);

/// packet_loss, blackhole, unplug: all workers are on the client's host. The network is the rig's.
std::vector<std::unique_ptr<Fault>> packet_faults(const testing::Network& network, const Temper& temper);

}  // namespace lockr::torture
