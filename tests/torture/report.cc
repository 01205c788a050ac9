#include "tests/torture/report.h"

#include <cstdio>
#include <sstream>

namespace lockr::torture {
namespace {

// 1234567 as "1,234,567".
std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

std::string list_of(const std::map<std::string, std::uint64_t>& counts) {
  std::string list;
  for (const auto& [name, count] : counts) {
    if (count != 0) list += (list.empty() ? "" : ", ") + grouped(count) + " " + name;
  }
  return list.empty() ? "none" : list;
}

std::uint64_t count_of(const Outcome& outcome, Oracle oracle) {
  const auto found = outcome.verdict.counts.find(oracle);
  return found == outcome.verdict.counts.end() ? 0 : found->second;
}

}  // namespace

std::string duration_text(Nanos time) {
  char text[40];
  if (time >= kSecond) {
    std::snprintf(text, sizeof text, "%.2f s", static_cast<double>(time) / kSecond);
  } else {
    std::snprintf(text, sizeof text, "%.3f ms", static_cast<double>(time) / kMillisecond);
  }
  return text;
}

std::string table_of(const std::vector<std::pair<std::string, Outcome>>& outcomes) {
  std::ostringstream out;
  out << "| run | seconds | acquisitions | faults | violations | leaks | worst takeover | worst loss detection |\n"
         "|---|---|---|---|---|---|---|---|\n";
  for (const auto& [name, outcome] : outcomes) {
    const Verdict& verdict = outcome.verdict;
    std::uint64_t violations = 0;
    for (const auto& [oracle, count] : verdict.counts) violations += oracle == Oracle::leak ? 0 : count;
    out << "| " << name << " | " << static_cast<int>(outcome.seconds + 0.5) << " | " << grouped(verdict.grants) << " | "
        << list_of(outcome.struck) << " | " << violations << " | " << count_of(outcome, Oracle::leak) << " | "
        << (verdict.takeovers ? duration_text(verdict.worst_takeover) : "-") << " | "
        << (verdict.losses ? duration_text(verdict.worst_loss) : "-") << " |\n";
  }
  for (const auto& [name, outcome] : outcomes) {
    const Verdict& verdict = outcome.verdict;
    out << "\n"
        << name << ": " << grouped(verdict.attempts) << " calls (" << list_of(outcome.answers) << "); "
        << grouped(verdict.killed_holders) << " holders and " << grouped(verdict.killed_waiters)
        << " waiters were killed, " << grouped(verdict.takeovers) << " takeovers by somebody who waited; "
        << grouped(verdict.losses) << " locks lost, " << grouped(verdict.excused)
        << " overlaps within the loss bound after a fault that takes locks away; longest wait for a free key "
        << duration_text(verdict.worst_wake) << "; the machine stood still for " << duration_text(outcome.stalled)
        << " in all, which was added to bounds, at most " << duration_text(outcome.longest_stall)
        << " at once; checked at " << grouped(static_cast<std::uint64_t>(outcome.checker_rate)) << " records/s.\n";
    for (const auto& [fault, reason] : outcome.not_possible) {
      out << name << ": NOT POSSIBLE HERE: " << fault << ": " << reason << "\n";
    }
  }
  return out.str();
}

std::string failure_of(const std::string& name, const Rig& rig, const Run& run, const Outcome& outcome) {
  if (outcome.passed()) return {};
  std::ostringstream out;
  out << name << " FAILED: seed " << run.seed << ", " << run.workers << " workers with " << run.threads << " sessions, "
      << run.keys << " keys, config " << rig.config(0) << "\nby oracle:";
  for (const auto& [oracle, count] : outcome.verdict.counts) out << " " << name_of(oracle) << " " << count;
  out << "\n" << outcome.explanations;
  return out.str();
}

}  // namespace lockr::torture
