#include "core/config_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/risks.h"
#include "core/text.h"

namespace lockr::core {
namespace {

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

bool contains(std::string_view text, std::string_view part) noexcept { return text.find(part) != text.npos; }

// "scheme://user:password@host", or NAME=VALUE with such a name, as in connection strings.
bool has_password(std::string_view text) {
  const std::size_t start = text.find("://");
  if (start != text.npos) {
    const std::string_view authority = text.substr(start + 3, text.find_first_of("/?", start + 3) - start - 3);
    const std::size_t at = authority.rfind('@');
    const std::size_t colon = authority.find(':');
    if (at != authority.npos && colon < at && colon + 1 != at) return true;
  }
  const std::string lower = lower_case(text);
  constexpr std::string_view kName = "password";
  for (std::size_t at = lower.find(kName); at != lower.npos; at = lower.find(kName, at + 1)) {
    const std::size_t value = lower.find_first_not_of(' ', at + kName.size());
    if (value == lower.npos || lower[value] != '=') continue;
    const std::size_t first = lower.find_first_not_of(' ', value + 1);
    if (first != lower.npos && lower[first] != '&') return true;
  }
  return false;
}

bool is_secret(const Field& field) {
  const std::string name = lower_case(field.name);
  const bool named = contains(name, "password") || contains(name, "passwd") || contains(name, "secret");
  return named && !name.ends_with("file") && !field.value.text.empty();
}

// What stands in the file itself: a reference keeps its secret elsewhere.
bool has_secret(const Value& value) {
  if (value.kind == Value::Kind::string) return !value.referenced && has_password(value.text);
  return std::any_of(value.items.begin(), value.items.end(), has_secret) ||
         std::any_of(value.fields.begin(), value.fields.end(), [](const Field& field) {
           if (field.value.kind != Value::Kind::string) return has_secret(field.value);
           return !field.value.referenced && (is_secret(field) || has_password(field.value.text));
         });
}

bool is_accepted(const Value& root) {
  const Value* const risks = root.find("accept_risk");
  return risks && std::any_of(risks->items.begin(), risks->items.end(),
                              [](const Value& each) { return each.text == kReadableConfig; });
}

}  // namespace

Status check_config_file(const SmallFile& file, const Value& root, const std::string& path) {
  if (!S_ISREG(file.mode)) return {};
  const bool foreign = file.owner != 0 && file.owner != ::geteuid();
  if (root.find("plugin") && (foreign || (file.mode & S_IWOTH) != 0)) {
    return fail(errc::unsafe_setup,
                printable(path) + ": it names a module, and " +
                    (foreign ? "belongs to user " + std::to_string(file.owner) + ", who could name another"
                             : std::string("every user could make it name another; use chmod o-w on it")) +
                    (foreign ? "; it must belong to root or to this user" : ""));
  }
  if ((file.mode & S_IROTH) != 0 && has_secret(root) && !is_accepted(root)) {
    return fail(errc::unsafe_setup,
                printable(path) +
                    ": it has a password in it, and every user of this host may read it; use chmod o-r "
                    "on it, or write the password as ${file:/path} or ${NAME}, or accept the risk "
                    "with \"accept_risk\": [\"" +
                    std::string(kReadableConfig) + "\"]");
  }
  return {};
}

}  // namespace lockr::core
