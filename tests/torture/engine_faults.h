// A fault of an engine: something that is done once, and what it excuses.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/torture/fault.h"

namespace lockr::torture {

/// One that `strike` describes; it may throw, which ends the run.
class EngineFault final : public Fault {
 public:
  using Strike = std::function<bool(const std::string& name, Random&, Scene&)>;
  EngineFault(std::string name, double pace, Strike strike)
      : name_(std::move(name)), pace_(pace), strike_(std::move(strike)) {}
  std::string name() const override { return name_; }
  double pace() const override { return pace_; }
  bool strike(Random& random, Scene& scene) override { return strike_(name_, random, scene); }

 private:
  const std::string name_;
  const double pace_;
  const Strike strike_;
};

/// Some time from the one to the other.
inline std::chrono::milliseconds between(Random& random, int least_ms, int most_ms) {
  return std::chrono::milliseconds(least_ms +
                                   static_cast<int>(random() % static_cast<unsigned>(most_ms - least_ms + 1)));
}

}  // namespace lockr::torture
