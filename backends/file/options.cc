#include "backends/file/options.h"

#include <grp.h>

#include <cerrno>
#include <charconv>
#include <string_view>
#include <vector>

namespace lockr::file {

const char kSchema[] = R"({
  "type": "object",
  "additionalProperties": false,
  "if": {"required": ["url"]},
  "then": {"maxProperties": 1},
  "properties": {
    "url": {
      "type": "string",
      "pattern": "^file:|\\$\\{",
      "description": "file:, file:/absolute/directory or file:/absolute/directory?group=NAME, instead of the other fields"
    },
    "directory": {
      "type": "string",
      "pattern": "^/|\\$\\{",
      "description": "Where the lock files are; default $LOCKR_DIR, else /run/lock/lockr-UID, else /tmp/lockr-UID"
    },
    "group": {
      "type": "string",
      "minLength": 1,
      "description": "Name or number of the group whose members share the directory; without it, one user alone"
    }
  }
})";

namespace {

constexpr std::string_view kUrlForm =
    "\"file:\", \"file:/absolute/directory\" or \"file:/absolute/directory?group=NAME\"";

struct UrlParts {
  std::string directory;
  std::optional<std::string> group;
};

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      out += text[at];
      continue;
    }
    unsigned byte = 0;
    const char* digits = text.data() + at + 1;
    if (text.size() - at < 3 || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2 || byte == 0) {
      return std::nullopt;
    }
    out += static_cast<char>(byte);
    at += 2;
  }
  return out;
}

std::optional<UrlParts> split_url(std::string_view url) {
  constexpr std::string_view kScheme = "file:";
  constexpr std::string_view kGroup = "group=";
  if (!url.starts_with(kScheme)) return std::nullopt;
  url.remove_prefix(kScheme.size());
  if (url.starts_with("///")) url.remove_prefix(2);
  UrlParts parts;
  const std::size_t question = url.find('?');
  if (question != url.npos) {
    const std::string_view query = url.substr(question + 1);
    if (!query.starts_with(kGroup)) return std::nullopt;
    parts.group = percent_decoded(query.substr(kGroup.size()));
    if (!parts.group) return std::nullopt;
    url = url.substr(0, question);
  }
  auto directory = percent_decoded(url);
  if (!directory || (!directory->empty() && directory->front() != '/') || directory->starts_with("//")) {
    return std::nullopt;
  }
  parts.directory = std::move(*directory);
  return parts;
}

std::optional<gid_t> find_group(const std::string& name) {
  gid_t number = 0;
  const char* end = name.data() + name.size();
  if (const auto [rest, error] = std::from_chars(name.data(), end, number); error == std::errc() && rest == end) {
    return number;
  }
  std::vector<char> buffer(1024);
  group entry{};
  group* found = nullptr;
  while (getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) == ERANGE) {
    buffer.resize(buffer.size() * 2);
  }
  return found ? std::optional(found->gr_gid) : std::nullopt;
}

}  // namespace

Result<Options> read_options(const spi::Section& section) {
  if (auto known = section.allow_only({"url", "directory", "group"}); !known) return fail(known.error());
  auto url = section.string("url");
  if (!url) return fail(url.error());
  auto directory = section.string("directory");
  if (!directory) return fail(directory.error());
  auto group = section.string("group");
  if (!group) return fail(group.error());

  const bool has_url = url->has_value();
  if (has_url) {
    if (*directory || *group) return fail(section.invalid("url", "either a url or the other fields, not both"));
    auto parts = split_url(**url);
    if (!parts) return fail(section.invalid("url", kUrlForm));
    *directory = std::move(parts->directory);
    *group = std::move(parts->group);
  } else if (*directory && !(*directory)->starts_with('/')) {
    return fail(section.invalid("directory", "an absolute path"));
  }
  if (*directory && (*directory)->find('\0') != std::string::npos) {
    return fail(section.invalid("directory", "a path without a NUL byte"));
  }
  Options options{.directory = directory->value_or(""), .group = {}};
  if (*group) {
    options.group = find_group(**group);
    if (!options.group) return fail(section.invalid(has_url ? "url" : "group", "the name or number of a group"));
  }
  return options;
}

}  // namespace lockr::file
