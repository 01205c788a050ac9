#include "backends/postgres/options.h"

#include <libpq-fe.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <chrono>
#include <memory>
#include <string_view>
#include <utility>

#include "lockr/config.h"

namespace lockr::postgres {

const char kSchema[] = R"json({
  "type": "object",
  "additionalProperties": false,
  "if": {"required": ["url"]},
  "then": {"maxProperties": 1},
  "properties": {
    "url": {
      "type": "string",
      "pattern": "^postgres(ql)?://|\\$\\{",
      "description": "A connection URI of libpq; lanes, waiters, fencing and session_ttl may be among its parameters"
    },
    "dsn": {
      "type": "string",
      "description": "How to connect, as libpq reads it: a URI or \"host=… dbname=… user=…\"; what it leaves open comes from libpq's environment (PGHOST, PGSERVICE, ~/.pgpass, …)"
    },
    "lanes": {
      "type": "integer",
      "minimum": 1,
      "maximum": 64,
      "default": 2,
      "description": "Connections that take and give back, shared by all threads"
    },
    "waiters": {
      "type": "integer",
      "minimum": 0,
      "maximum": 64,
      "default": 4,
      "description": "Connections that wait in the server's queue, one contended key each; other keys are polled"
    },
    "fencing": {
      "type": "boolean",
      "default": false,
      "description": "Fencing tokens from the sequence lockr.fencing_token"
    },
    "session_ttl": {
      "type": "string",
      "pattern": "^[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h)$|\\$\\{",
      "description": "After so long without a heartbeat the server ends our sessions, and with them our locks; at least 1s. Without it a process that is stopped keeps its locks"
    }
  }
})json";

namespace {

constexpr Time kLeastTtl = std::chrono::seconds(1);
constexpr Time kMostTtl = std::chrono::hours(1);
constexpr std::int64_t kMostLinks = 64;
constexpr std::string_view kForm =
    "a connection string of libpq, \"postgresql://user@host/database\" or \"host=… dbname=… user=…\"; "
    "in a URI, special characters of user name and password are written %40 and so on, elsewhere values with spaces "
    "stand in single quotes";

constexpr std::string_view kParametersForm =
    "behind the ? lanes, waiters, fencing and session_ttl, and libpq's own parameters such as sslmode; one of yours is "
    "neither, or not NAME=VALUE";

using ParsedDsn = std::unique_ptr<PQconninfoOption, void (*)(PQconninfoOption*)>;

bool is_port_list(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || c == ','; });
}

// libpq's own words for what it can't read, and for a host it can't find, repeat parts of the text; a password with
// special characters that are not escaped would be among them. So nothing but our own words leaves here, and what such
// a password turns into is refused.
bool is_sound(const std::string& dsn) {
  char* words = nullptr;
  const ParsedDsn options(PQconninfoParse(dsn.c_str(), &words), PQconninfoFree);
  PQfreemem(words);
  if (!options) return false;
  for (const PQconninfoOption* each = options.get(); each->keyword; ++each) {
    if (!each->val) continue;
    const std::string_view keyword = each->keyword;
    const std::string_view value = each->val;
    if (keyword == "port" && !is_port_list(value)) return false;
    if ((keyword == "host" || keyword == "hostaddr") && value.find('@') != value.npos && value.front() != '@') {
      return false;
    }
  }
  return true;
}

// Our own fields among the parameters of a URL, which libpq would refuse.
struct UrlFields {
  std::string dsn;
  std::optional<std::string> lanes, waiters, fencing, session_ttl;
};

std::optional<UrlFields> split_url(const std::string& url) {
  UrlFields fields;
  const std::size_t question = url.find('?');
  fields.dsn = url.substr(0, question);
  if (question == url.npos) return fields;
  const std::array<std::pair<std::string_view, std::optional<std::string>*>, 4> ours{
      {{"lanes", &fields.lanes},
       {"waiters", &fields.waiters},
       {"fencing", &fields.fencing},
       {"session_ttl", &fields.session_ttl}}};
  char separator = '?';
  for (std::size_t start = question + 1; start <= url.size();) {
    const std::size_t end = std::min(url.find('&', start), url.size());
    const std::string_view parameter = std::string_view(url).substr(start, end - start);
    const std::size_t equals = std::min(parameter.find('='), parameter.size());
    const auto found = std::find_if(ours.begin(), ours.end(),
                                    [&](const auto& each) { return each.first == parameter.substr(0, equals); });
    if (found == ours.end()) {
      fields.dsn.append(1, std::exchange(separator, '&')).append(parameter);
    } else {
      if (*found->second || equals == parameter.size()) return std::nullopt;
      *found->second = std::string(parameter.substr(equals + 1));
    }
    start = end + 1;
  }
  return fields;
}

bool read_number(const std::string& text, std::int64_t least, std::int64_t most, std::uint16_t& out) {
  std::int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || number < least || number > most) return false;
  out = static_cast<std::uint16_t>(number);
  return true;
}

bool is_ttl(Time ttl) { return ttl >= kLeastTtl && ttl <= kMostTtl; }

constexpr std::string_view kTtlForm = "a duration from 1s to 1h";

Result<Options> from_url(const spi::Section& section, const std::string& url) {
  const auto fields = split_url(url);
  if (!fields)
    return fail(section.invalid("url", "each of lanes, waiters, fencing and session_ttl once, as NAME=VALUE"));
  Options options{.dsn = fields->dsn, .session_ttl = {}};
  if (fields->lanes && !read_number(*fields->lanes, 1, kMostLinks, options.lanes)) {
    return fail(section.invalid("url", "lanes from 1 to 64"));
  }
  if (fields->waiters && !read_number(*fields->waiters, 0, kMostLinks, options.waiters)) {
    return fail(section.invalid("url", "waiters from 0 to 64"));
  }
  if (fields->fencing) {
    if (*fields->fencing != "true" && *fields->fencing != "false") {
      return fail(section.invalid("url", "fencing to be true or false"));
    }
    options.fencing = *fields->fencing == "true";
  }
  if (fields->session_ttl) {
    const auto ttl = parse_duration(*fields->session_ttl);
    if (!ttl || !is_ttl(*ttl)) return fail(section.invalid("url", "session_ttl to be " + std::string(kTtlForm)));
    options.session_ttl = *ttl;
  }
  return options;
}

Result<Options> from_fields(const spi::Section& section) {
  Options options;
  auto dsn = section.string("dsn");
  if (!dsn) return fail(dsn.error());
  auto lanes = section.integer("lanes", 1, kMostLinks);
  if (!lanes) return fail(lanes.error());
  auto waiters = section.integer("waiters", 0, kMostLinks);
  if (!waiters) return fail(waiters.error());
  auto fencing = section.boolean("fencing");
  if (!fencing) return fail(fencing.error());
  auto ttl = section.duration("session_ttl");
  if (!ttl) return fail(ttl.error());
  if (*ttl && !is_ttl(**ttl)) return fail(section.invalid("session_ttl", kTtlForm));
  options.dsn = dsn->value_or("");
  options.lanes = static_cast<std::uint16_t>(lanes->value_or(options.lanes));
  options.waiters = static_cast<std::uint16_t>(waiters->value_or(options.waiters));
  options.fencing = fencing->value_or(false);
  options.session_ttl = *ttl;
  return options;
}

}  // namespace

Result<Options> read_options(const spi::Section& section) {
  if (auto known = section.allow_only({"url", "dsn", "lanes", "waiters", "fencing", "session_ttl"}); !known) {
    return fail(known.error());
  }
  auto url = section.string("url");
  if (!url) return fail(url.error());
  if (*url && !section.allow_only({"url"})) {
    return fail(section.invalid("url", "either a url or the other fields, not both"));
  }
  auto options = *url ? from_url(section, **url) : from_fields(section);
  if (!options) return options;
  if (options->dsn.find('\0') != std::string::npos || !is_sound(options->dsn)) {
    if (!*url) return fail(section.invalid("dsn", kForm));
    const std::size_t question = options->dsn.find('?');
    const bool up_to_there = question != options->dsn.npos && is_sound(options->dsn.substr(0, question));
    return fail(section.invalid("url", up_to_there ? kParametersForm : kForm));
  }
  return options;
}

}  // namespace lockr::postgres
