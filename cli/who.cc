// lockr who: the holders and waiters, as a table or as JSON.
#include <algorithm>
#include <array>
#include <iostream>
#include <string>
#include <tuple>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/holders.h"
#include "cli/settings.h"
#include "cli/text.h"

namespace lockr::cli {
namespace {

using Row = std::array<std::string, 7>;

Row row_of(const Holder& holder) {
  return {printable(holder.key),
          mode_of(holder),
          state_of(holder),
          printable(holder.host),
          holder.pid == 0 ? "-" : std::to_string(holder.pid),
          holder.since ? local_time(*holder.since) : "-",
          printable(holder.label)};
}

void print_table(const std::vector<Holder>& holders) {
  std::vector<Row> rows = {{"KEY", "MODE", "STATE", "HOST", "PID", "SINCE", "LABEL"}};
  std::transform(holders.begin(), holders.end(), std::back_inserter(rows), row_of);
  std::array<std::size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i + 1 < row.size(); ++i) {
      line += row[i] + std::string(widths[i] - width(row[i]) + 2, ' ');
    }
    std::cout << line << row.back() << '\n';
  }
}

void print_json(const std::vector<Holder>& holders) {
  std::string text = "[";
  for (const Holder& holder : holders) text += (text.size() == 1 ? "\n  {" : ",\n  {") + json_fields(holder) + '}';
  std::cout << text << (holders.empty() ? "]\n" : "\n]\n");
}

}  // namespace

int who(const Arguments& arguments) {
  const auto parsed = parse_who(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const WhoOptions& options = std::get<WhoOptions>(parsed);
  const auto settings = load_settings(options.engine);
  if (!settings) return failed(describe(settings.error()));
  auto holders = ask_engine(*settings, options.key ? &*options.key : nullptr);
  if (!holders) return kFailed;
  std::stable_sort(holders->begin(), holders->end(), [](const Holder& a, const Holder& b) {
    return std::tie(a.key, a.waiting, a.since) < std::tie(b.key, b.waiting, b.since);
  });
  if (options.json) {
    print_json(*holders);
  } else {
    print_table(*holders);
  }
  return kSuccess;
}

}  // namespace lockr::cli
