// How much of a stretch of time the machine, a worker, or a fault that disturbs took away.
#pragma once

#include <vector>

#include "tests/torture/history.h"

namespace lockr::torture {

/// Bounds hold for processes that run and engines that are let alone. What was measured to be otherwise is added to
/// them, to the nanosecond and nothing more.
class Slack {
 public:
  explicit Slack(const History& history);

  /// How much of [from, to] was taken from this worker, from everyone if kEveryone.
  Nanos within(Nanos from, Nanos to, int worker) const;

  /// All that was taken from everyone by stalls, and the longest stall.
  Nanos stalled() const noexcept { return stalled_; }
  Nanos longest_stall() const noexcept { return longest_; }

 private:
  struct Span {
    Nanos begin;
    Nanos end;
    Nanos before = 0;  // Length of all earlier spans.
  };
  using Spans = std::vector<Span>;  // Disjoint, in order.

  static void tidy(Spans& spans);
  static Nanos taken_until(const Spans& spans, Nanos time);

  std::vector<Spans> of_worker_;  // Each has everyone's, too; the last are everyone's alone.
  Nanos stalled_ = 0;
  Nanos longest_ = 0;
};

}  // namespace lockr::torture
