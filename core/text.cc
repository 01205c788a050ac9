#include "core/text.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>

namespace lockr::core {
namespace {

constexpr std::size_t kMostQuoted = 64;

std::size_t edit_distance(std::string_view a, std::string_view b) noexcept {
  a = a.substr(0, kMostQuoted);
  b = b.substr(0, kMostQuoted);
  std::array<std::size_t, kMostQuoted + 1> row;
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      out.append("\\x").append({kDigits[byte >> 4], kDigits[byte & 15]});
    }
  }
  return out;
}

std::string in_quotes(std::string_view text) {
  const bool cut = text.size() > kMostQuoted;
  return '"' + printable(text.substr(0, kMostQuoted)) + (cut ? "...\"" : "\"");
}

std::vector<std::string_view> split_words(const char* text) {
  std::vector<std::string_view> words;
  std::string_view rest = text ? text : "";
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    if (end > 0) words.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return words;
}

std::string_view nearest(std::string_view name, std::span<const std::string_view> known) noexcept {
  const auto closer = [&](auto a, auto b) { return edit_distance(name, a) < edit_distance(name, b); };
  if (!name.empty()) {
    const auto begun = std::find_if(known.begin(), known.end(), [&](auto one) { return one.starts_with(name); });
    if (begun != known.end()) return *begun;
  }
  const auto best = std::min_element(known.begin(), known.end(), closer);
  return best == known.end() ? std::string_view() : *best;
}

std::string suggestion(std::string_view name, std::span<const std::string_view> known) {
  if (known.empty()) return "none is known";
  const std::string_view near = nearest(name, known);
  // Farther away it is not what was meant, unless it begins in the same way.
  const bool alike = edit_distance(name, near) <= std::max<std::size_t>(2, name.size() / 3) || near.starts_with(name);
  std::string text =
      alike ? "the nearest known one is \"" + std::string(near) + "\" (known: " : "there is none like it (known: ";
  for (std::size_t i = 0; i < known.size(); ++i) text.append(i > 0 ? ", " : "").append(known[i]);
  return text + ")";
}

}  // namespace lockr::core
