#include "tests/torture/report.h"

#include <algorithm>
#include <cstdio>
#include <map>
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

/// What the table tells of a run, or of several of one backend.
struct Row {
  std::string name;
  int runs = 0;
  double seconds = 0;
  std::uint64_t acquisitions = 0, violations = 0, leaks = 0;
  std::map<std::string, std::uint64_t> faults{};
  std::uint64_t takeovers = 0, losses = 0;
  Nanos worst_takeover = 0, worst_loss = 0;

  void add(const Outcome& outcome) {
    const Verdict& verdict = outcome.verdict;
    ++runs;
    seconds += outcome.seconds;
    acquisitions += verdict.grants;
    for (const auto& [oracle, count] : verdict.counts) (oracle == Oracle::leak ? leaks : violations) += count;
    for (const auto& [fault, count] : outcome.struck) faults[fault] += count;
    takeovers += verdict.takeovers, losses += verdict.losses;
    worst_takeover = std::max(worst_takeover, verdict.worst_takeover);
    worst_loss = std::max(worst_loss, verdict.worst_loss);
  }
};

// What a run without a violation says of how often there is one, with a confidence of 95 %.
std::string bound_of(const Row& row) {
  if (row.violations + row.leaks != 0 || row.acquisitions == 0) return "-";
  char text[40];
  std::snprintf(text, sizeof text, "%.1e", 3 / static_cast<double>(row.acquisitions));
  return text;
}

std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << "| " << row.name << " | " << static_cast<int>(row.seconds + 0.5) << " | " << grouped(row.acquisitions)
             << " | " << list_of(row.faults) << " | " << row.violations << " | " << row.leaks << " | " << bound_of(row)
             << " | " << (row.takeovers ? duration_text(row.worst_takeover) : "-") << " | "
             << (row.losses ? duration_text(row.worst_loss) : "-") << " |\n";
}

// Each run, and behind the last of a backend that had several all of them together.
std::vector<Row> rows_of(const std::vector<std::pair<std::string, Outcome>>& outcomes) {
  std::vector<Row> rows;
  std::map<std::string, Row> backends;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const auto& [name, outcome] = outcomes[i];
    rows.push_back({.name = name});
    rows.back().add(outcome);
    Row& backend = backends[outcome.backend];
    backend.add(outcome);
    const bool last = std::none_of(outcomes.begin() + static_cast<std::ptrdiff_t>(i) + 1, outcomes.end(),
                                   [&](const auto& other) { return other.second.backend == outcome.backend; });
    if (!last || backend.runs == 1) continue;
    backend.name = "**" + outcome.backend + ", all " + std::to_string(backend.runs) + "**";
    rows.push_back(backend);
  }
  return rows;
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
  out << "| run | seconds | acquisitions | faults | violations | leaks | 95 % bound | worst takeover "
         "| worst loss detection |\n|---|---|---|---|---|---|---|---|---|\n";
  for (const Row& row : rows_of(outcomes)) out << row;
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
