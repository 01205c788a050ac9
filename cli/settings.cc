#include "cli/settings.h"

#include <cstdlib>

#include "cli/text.h"
#include "lockr/registry.h"

namespace lockr::cli {
namespace {

std::string variable(const char* name) {
  const char* value = secure_getenv(name);
  return value == nullptr ? "" : value;
}

Error told(const std::string& origin, const Error& error) {
  return Error(error.code(), origin + ": " + error.message()).with_native(std::string(error.native()));
}

Result<Settings> with_origin(const Result<LockerConfig>& config, std::string origin) {
  if (!config) return fail(told(origin, config.error()));
  if (auto checked = Registry::builtin().check(*config); !checked) return fail(told(origin, checked.error()));
  return Settings{*config, std::move(origin)};
}

// `from` is what named the file.
Result<Settings> from_file(const std::string& from, const std::string& path) {
  const std::string file = printable(path);
  auto config = LockerConfig::from_file(path);
  if (config || !config.error().message().starts_with(file + ": ")) return with_origin(config, from + file);
  return with_origin(config, from.substr(0, from.size() - 1));  // The error names the file itself.
}

// True for what must not be seen: not for nothing, and not for a reference to a variable or file.
bool secret(std::string_view value) {
  return !value.empty() && !(value.starts_with("${") && value.find('}') == value.size() - 1);
}

// The text in front of the '@' of "scheme://name:password@host", also when the password is not encoded as it should be.
std::string_view user_part(std::string_view url) {
  const std::size_t start = url.find("://");
  if (start == url.npos) return {};
  const std::string_view rest = url.substr(start + 3);
  const std::size_t query = std::min(rest.find('?'), rest.size());
  std::size_t at = rest.substr(0, query).rfind('@');
  if (at == rest.npos && rest.substr(query, rest.find('@', query) - query).find('=') == rest.npos) {
    at = rest.find('@', query);
  }
  return at == rest.npos ? std::string_view() : rest.substr(0, at);
}

int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

std::string decoded_lower_case(std::string_view text) {
  std::string out;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_value(lower(text[i + 1])) : -1;
    const int low = high >= 0 ? hex_value(lower(text[i + 2])) : -1;
    out += lower(low >= 0 ? static_cast<char>(high * 16 + low) : text[i]);
    if (low >= 0) i += 2;
  }
  return out;
}

bool names_password(std::string_view parameter) {
  const std::size_t equals = parameter.find('=');
  if (equals == parameter.npos || !secret(parameter.substr(equals + 1))) return false;
  const std::string name = decoded_lower_case(parameter.substr(0, equals));
  if (name == "passfile" || name.ends_with("_file")) return false;
  return name.find("pass") != name.npos || name.find("secret") != name.npos;
}

}  // namespace

Result<Settings> load_settings(const EngineChoice& choice) {
  if (!choice.config_file.empty()) {
    return from_file("--config ", choice.config_file);
  }
  if (!choice.url.empty()) return with_origin(LockerConfig::from_url(choice.url), "--backend");
  if (const std::string file = variable("LOCKR_CONFIG"); !file.empty()) {
    return from_file("LOCKR_CONFIG=", file);
  }
  if (const std::string url = variable("LOCKR_URL"); !url.empty()) {
    return with_origin(LockerConfig::from_url(url), "LOCKR_URL");
  }
  const std::string directory = variable("LOCKR_DIR");
  return with_origin(LockerConfig::from_url("file:"),
                     directory.empty() ? "the default, \"file:\"" : "LOCKR_DIR=" + printable(directory));
}

bool has_password(std::string_view url) {
  const std::string_view user = user_part(url);
  if (const std::size_t colon = user.find(':'); colon != user.npos && secret(user.substr(colon + 1))) return true;
  std::size_t from = 0;
  while (from < url.size()) {
    const std::size_t to = std::min(url.find_first_of("?&; ", from), url.size());
    if (names_password(url.substr(from, to - from))) return true;
    from = to + 1;
  }
  return false;
}

}  // namespace lockr::cli
