// Percentiles of what was measured.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace lockr::bench {

/// The least value that at least so many thousandths of all are not above: of ten values the 500th is the fifth. Of too
/// few to tell them apart from the largest there is none: the 999th takes a thousand.
inline std::optional<double> percentile(const std::vector<double>& sorted, std::size_t permille) {
  if (sorted.size() * (1000 - permille) < 1000) return std::nullopt;
  const std::size_t rank = (sorted.size() * permille + 999) / 1000;
  return sorted[rank == 0 ? 0 : rank - 1];
}

}  // namespace lockr::bench
