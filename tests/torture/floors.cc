#include "tests/torture/floors.h"

#include <algorithm>
#include <array>

namespace lockr::torture {
namespace {

// Of the calls that no fault failed, one in so many was granted: most calls of an idle machine are, and of one that is
// so slow that every short wait runs out, the others.
constexpr std::uint64_t kGranted = 20;
// Of the times that a fault was tried, one in so many found somebody to strike.
constexpr std::uint64_t kStruck = 8;

std::uint64_t count_in(const std::map<std::string, std::uint64_t>& counts, const std::string& name) {
  const auto found = counts.find(name);
  return found == counts.end() ? 0 : found->second;
}

std::uint64_t seen(const Outcome& outcome, const std::string& what) {
  if (what == "takeovers") return outcome.verdict.takeovers;
  if (what == "losses") return outcome.verdict.losses;
  return count_in(outcome.struck, what);
}

std::string times(std::uint64_t count) { return std::to_string(count) + (count == 1 ? " time" : " times"); }

std::string missed_grants(const Outcome& outcome) {
  constexpr std::array kJudged{"granted", "not_acquired", "timeout", "cancelled"};
  std::uint64_t calls = 0;
  for (const char* answer : kJudged) calls += count_in(outcome.answers, answer);
  std::uint64_t strikes = 0;
  for (const auto& [fault, tried] : outcome.tried) strikes += count_in(outcome.struck, fault);
  const std::uint64_t granted = count_in(outcome.answers, "granted");
  if (granted != 0 && granted >= calls / kGranted && granted >= strikes) return {};
  return std::to_string(granted) + " of " + std::to_string(calls) + " calls granted, while faults struck " +
         times(strikes) + "\n";
}

}  // namespace

std::string Floors::missed(const Outcome& outcome) const {
  std::string missed = missed_grants(outcome);
  for (const auto& [fault, reason] : outcome.not_possible) missed += fault + " can't be had here: " + reason + "\n";
  for (const auto& [fault, tried] : outcome.tried) {
    const std::uint64_t struck = count_in(outcome.struck, fault);
    if (struck != 0 && struck >= tried / kStruck) continue;
    missed += fault + " was tried " + times(tried) + " and struck " + times(struck) + "\n";
  }
  for (const auto& [what, count] : wanted) {
    if (count != 0 && !outcome.tried.contains(what) && seen(outcome, what) == 0) missed += "no " + what + "\n";
  }
  return missed;
}

std::string Floors::fewer(const Outcome& outcome) const {
  std::string fewer;
  for (const auto& [what, count] : wanted) {
    const std::uint64_t is = seen(outcome, what);
    if (is >= count) continue;
    fewer += std::to_string(is) + " " + what + " of " + std::to_string(count);
    if (const auto tried = outcome.tried.find(what); tried != outcome.tried.end()) {
      fewer += ", tried " + times(tried->second);
    }
    fewer += "\n";
  }
  return fewer;
}

}  // namespace lockr::torture
