#include "core/url.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <utility>

#include "core/text.h"

namespace lockr::core {
namespace {

constexpr std::string_view kPrefix = "lockr.";

// Not "backend", which the scheme names, nor "plugin": a URL from the environment shall not load code.
constexpr std::array<std::string_view, 6> kStrings{"namespace",       "label",         "acquire_timeout",
                                                   "connect_timeout", "reply_timeout", "release_timeout"};
constexpr std::array<std::string_view, 2> kLists{"require", "accept_risk"};
constexpr std::array<std::string_view, 3> kLimits{"limits.held", "limits.waiters", "limits.handoff"};

bool contains(std::span<const std::string_view> names, std::string_view name) noexcept {
  return std::find(names.begin(), names.end(), name) != names.end();
}

tl::unexpected<Error> invalid(std::string message) { return fail(errc::invalid_config, std::move(message)); }

Value string_value(std::string_view text) { return {.kind = Value::Kind::string, .text = std::string(text)}; }

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nullopt for a '%' without two hexadecimal digits and for a NUL byte, which would end a path early.
std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (text.front() != '%') {
      out += text.front();
      text.remove_prefix(1);
      continue;
    }
    if (text.size() < 3) return std::nullopt;
    const int high = hex_digit(text[1]);
    const int low = hex_digit(text[2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    text.remove_prefix(3);
  }
  return out;
}

Value list_value(std::string_view text) {
  Value list{.kind = Value::Kind::array};
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    list.items.push_back(string_value(text.substr(start, end - start)));
    start = end + 1;
  }
  return list;
}

// What is no integer stays a string, for the reader of the field to refuse.
Value number_value(std::string_view text) {
  Value number{.kind = Value::Kind::integer};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number.integer);
  return error == std::errc() && end == text.data() + text.size() ? number : string_value(text);
}

Status unknown_parameter(std::string_view name) {
  std::vector<std::string_view> known(kStrings.begin(), kStrings.end());
  known.insert(known.end(), kLists.begin(), kLists.end());
  known.insert(known.end(), kLimits.begin(), kLimits.end());
  return invalid("the URL has an unknown parameter that starts with \"lockr.\"; without that, " +
                 suggestion(name, known));
}

Status add_parameter(std::string_view parameter, Value& fields) {
  const std::size_t equals = std::min(parameter.find('='), parameter.size());
  std::string_view name = parameter.substr(0, equals);
  const bool limit = contains(kLimits, name);
  if (!limit && !contains(kStrings, name) && !contains(kLists, name)) return unknown_parameter(name);
  const std::string place = "the URL's parameter lockr." + std::string(name);
  if (equals == parameter.size()) return invalid(place + " has no value; write lockr." + std::string(name) + "=VALUE");
  const auto text = percent_decoded(parameter.substr(equals + 1));
  if (!text) return invalid(place + ": expected two hexadecimal digits after each '%', and no NUL byte");

  Value* object = &fields;
  if (limit) {
    const Value* limits = fields.find("limits");
    if (!limits) fields.fields.push_back({"limits", {.kind = Value::Kind::object}});
    object = &std::find_if(fields.fields.begin(), fields.fields.end(), [](const Field& f) {
                return f.name == "limits";
              })->value;
    name.remove_prefix(std::string_view("limits.").size());
  }
  if (object->find(name)) return invalid(place + " is given twice; give it once");
  Value value = limit ? number_value(*text) : contains(kLists, name) ? list_value(*text) : string_value(*text);
  object->fields.push_back({std::string(name), std::move(value)});
  return {};
}

bool is_scheme(std::string_view text) noexcept {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto other = [](char c) { return (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'; };
  return !text.empty() && text.size() <= 64 && letter(text.front()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || other(c); });
}

}  // namespace

Result<ConfigUrl> parse_config_url(std::string_view url) {
  if (std::any_of(url.begin(), url.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; })) {
    return invalid("the URL has a control character in it; write it as '%' and two hexadecimal digits");
  }
  const std::size_t colon = url.find(':');
  if (colon == url.npos || !is_scheme(url.substr(0, colon))) {
    return invalid("the URL has no scheme; write for example \"file:\" or \"file:/run/lock/app\"");
  }
  ConfigUrl parsed{.scheme = std::string(url.substr(0, colon)),
                   .parameters = {.kind = Value::Kind::object},
                   .section = {.kind = Value::Kind::object}};
  for (char& c : parsed.scheme) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;

  const std::size_t question = std::min(url.find('?', colon), url.size());
  std::string rest = parsed.scheme + std::string(url.substr(colon, question - colon));
  char separator = '?';
  for (std::size_t start = question + 1; start <= url.size();) {
    const std::size_t end = std::min(url.find('&', start), url.size());
    const std::string_view parameter = url.substr(start, end - start);
    start = end + 1;
    if (parameter.starts_with(kPrefix)) {
      const Status added = add_parameter(parameter.substr(kPrefix.size()), parsed.parameters);
      if (!added) return fail(added.error());
    } else {
      rest.append(1, std::exchange(separator, '&')).append(parameter);
    }
  }
  parsed.section.fields.push_back({"url", string_value(rest)});
  return parsed;
}

std::string place_in_url(std::string_view pointer) {
  std::string name(pointer.substr(1));
  std::replace(name.begin(), name.end(), '/', '.');
  return "the URL's parameter lockr." + name;
}

std::string place_is_url(std::string_view) { return "the URL"; }

}  // namespace lockr::core
