// A program of many threads whose steps a seed chooses.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "tests/simulation/sim_runtime.h"

namespace lockr::testing {

/// Chooses as the simulated machine's randomness says.
class Dice {
 public:
  explicit Dice(SimRuntime& sim) : sim_(sim) {}
  std::uint64_t below(std::uint64_t bound) { return sim_.random() % bound; }
  bool percent(unsigned chance) { return below(100) < chance; }
  Time less_than(Time bound) { return Time(static_cast<Time::rep>(below(static_cast<std::uint64_t>(bound.count())))); }
  Time up_to(Time longest) { return less_than(longest + Time(1)); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }

 private:
  SimRuntime& sim_;
};

/// Runs run() of each client on a thread of its own, and `spoil` beside them, until all have returned. `busy`: how many
/// clients have not, for `spoil` to know when to end.
template <class Client>
void run_clients(SimRuntime& sim, std::deque<Client>& clients, std::size_t& busy, std::function<void()> spoil) {
  std::vector<std::unique_ptr<spi::Runtime::Thread>> threads;
  for (Client& client : clients) {
    ++busy;
    threads.push_back(sim.start("lockr-client", [&] {
      client.run();
      --busy;
    }));
  }
  auto spoiler = sim.start("lockr-spoiler", std::move(spoil));
  threads.clear();
}

}  // namespace lockr::testing
