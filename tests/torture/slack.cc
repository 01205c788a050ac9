#include "tests/torture/slack.h"

#include <algorithm>

namespace lockr::torture {

Slack::Slack(const History& history) {
  const std::size_t workers = static_cast<std::size_t>((history.slots + history.threads - 1) / history.threads);
  of_worker_.resize(workers + 1);
  const auto take = [&](int worker, Nanos begin, Nanos end) {
    if (worker != kEveryone) {
      of_worker_[static_cast<std::size_t>(worker)].push_back({begin, end});
    } else {
      for (Spans& spans : of_worker_) spans.push_back({begin, end});
    }
  };
  for (const Stall& stall : history.stalls) {
    take(stall.worker, stall.begin, stall.end);
    if (stall.worker != kEveryone) continue;
    stalled_ += stall.end - stall.begin;
    longest_ = std::max(longest_, stall.end - stall.begin);
  }
  for (const FaultRecord& fault : history.faults) {
    if ((fault.effects & (kDisturbs | kStops)) == 0) continue;
    take(fault.worker, fault.begin, std::max(fault.settled, fault.end == 0 ? history.end : fault.end));
  }
  for (Spans& spans : of_worker_) tidy(spans);
}

Nanos Slack::within(Nanos from, Nanos to, int worker) const {
  if (to <= from) return 0;
  const Spans& spans = worker == kEveryone ? of_worker_.back() : of_worker_[static_cast<std::size_t>(worker)];
  return taken_until(spans, to) - taken_until(spans, from);
}

void Slack::tidy(Spans& spans) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  Spans disjoint;
  for (const Span& span : spans) {
    if (!disjoint.empty() && span.begin <= disjoint.back().end) {
      disjoint.back().end = std::max(disjoint.back().end, span.end);
    } else {
      disjoint.push_back(span);
    }
  }
  Nanos before = 0;
  for (Span& span : disjoint) {
    span.before = before;
    before += span.end - span.begin;
  }
  spans = std::move(disjoint);
}

Nanos Slack::taken_until(const Spans& spans, Nanos time) {
  const auto next =
      std::upper_bound(spans.begin(), spans.end(), time, [](Nanos t, const Span& span) { return t < span.begin; });
  if (next == spans.begin()) return 0;
  const Span& last = *std::prev(next);
  return last.before + std::min(time, last.end) - last.begin;
}

}  // namespace lockr::torture
