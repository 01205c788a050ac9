#include "backends/redis/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <string_view>
#include <utility>

#include "lockr/config.h"

namespace lockr::redis {

const char kSchema[] = R"json({
  "type": "object",
  "additionalProperties": false,
  "if": { "required": ["url"] },
  "then": { "maxProperties": 1 },
  "dependentRequired": { "user": ["password"], "tls_certificate": ["tls_key"], "tls_key": ["tls_certificate"] },
  "allOf": [
    {
      "if": { "required": ["socket"] },
      "then": { "properties": { "host": false, "port": false, "tls": { "const": false } } }
    },
    {
      "if": {
        "anyOf": [
          { "required": ["tls_ca"] }, { "required": ["tls_certificate"] }, { "required": ["tls_name"] }
        ]
      },
      "then": { "properties": { "tls": { "const": true } }, "required": ["tls"] }
    }
  ],
  "properties": {
    "url": {
      "type": "string",
      "pattern": "^redis(s|\\+unix)?://|\\$\\{",
      "description": "redis://[user[:password]@]host[:port][/database], rediss:// for TLS, redis+unix://[user[:password]@]/path; other fields may be among its parameters"
    },
    "host": { "type": "string", "minLength": 1, "default": "localhost" },
    "port": { "type": "integer", "minimum": 1, "maximum": 65535, "default": 6379 },
    "socket": {
      "type": "string",
      "anyOf": [{ "pattern": "^/", "maxLength": 107 }, { "pattern": "\\$\\{" }],
      "description": "Absolute path of the server's unix socket, instead of host and port"
    },
    "user": { "type": "string", "minLength": 1, "description": "An ACL user; without it the server's default user" },
    "password": { "type": "string", "minLength": 1, "description": "Write a reference: \"${file:/run/secrets/redis}\" or \"${REDIS_PASSWORD}\"" },
    "database": { "type": "integer", "minimum": 0, "maximum": 65535, "default": 0 },
    "tls": { "type": "boolean", "default": false },
    "tls_ca": { "type": "string", "minLength": 1, "description": "File with the certificates to trust (PEM); without it the system's" },
    "tls_certificate": { "type": "string", "minLength": 1, "description": "File with our own certificate (PEM), where the server asks for one" },
    "tls_key": { "type": "string", "minLength": 1, "description": "File with its key (PEM)" },
    "tls_name": { "type": "string", "minLength": 1, "description": "The name that the server's certificate must have; the host unless said otherwise" },
    "prefix": {
      "type": "string",
      "anyOf": [{ "minLength": 1, "maxLength": 128 }, { "pattern": "\\$\\{" }],
      "default": "lockr:",
      "description": "What the names of all keys and channels in Redis start with; lockers with different prefixes do not exclude each other"
    },
    "lanes": {
      "type": "integer",
      "minimum": 1,
      "maximum": 64,
      "default": 2,
      "description": "Connections that take and give back, shared by all threads; two more wait and renew"
    },
    "ttl": {
      "type": "string",
      "pattern": "^[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h)$|\\$\\{",
      "default": "10s",
      "description": "How long the server keeps a lock that is not renewed, 1s to 1h; it is renewed every third of it"
    },
    "margin": {
      "type": "string",
      "pattern": "^[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h)$|\\$\\{",
      "description": "How much earlier a lock is given up here; a quarter of ttl unless said otherwise, at most half of it"
    },
    "lock_delay": {
      "type": "string",
      "pattern": "^[0-9]+([.][0-9]+)?(ns|us|ms|s|m|h)$|\\$\\{",
      "default": "0s",
      "description": "How much longer the server keeps a lock whose holder was not heard of during ttl, at most 1h: a quarantine"
    },
    "fencing": { "type": "boolean", "default": true, "description": "Fencing tokens" }
  }
})json";

namespace {

constexpr Time kLeastTtl = std::chrono::seconds(1);
constexpr Time kMostTtl = std::chrono::hours(1);
constexpr Time kMostDelay = std::chrono::hours(1);
constexpr Time kLeastMargin = std::chrono::milliseconds(10);
constexpr std::string_view kUrlForm =
    "redis://[user[:password]@]host[:port][/database], rediss:// or redis+unix://[user[:password]@]/path, special "
    "characters written %40 and so on, and parameters as NAME=VALUE";
constexpr std::string_view kParametersForm =
    "behind the ? NAME=VALUE, each name once: user, password, database, tls_ca, tls_certificate, tls_key, tls_name, "
    "prefix, lanes, ttl, margin, lock_delay or fencing; one of yours is none of them";

// ---- the fields, wherever they come from

struct Fields {
  std::optional<std::string> host, socket, user, password, tls_ca, tls_certificate, tls_key, tls_name, prefix;
  std::optional<std::int64_t> port, database, lanes;
  std::optional<bool> tls, fencing;
  std::optional<Time> ttl, margin, lock_delay;
};

template <class T>
using Member = std::optional<T> Fields::*;

template <class T>
struct Named {
  std::string_view name;
  Member<T> member;
};

struct Number {
  std::string_view name;
  Member<std::int64_t> member;
  std::int64_t least;
  std::int64_t most;
};

constexpr std::array<Named<std::string>, 9> kStrings{{{"host", &Fields::host},
                                                      {"socket", &Fields::socket},
                                                      {"user", &Fields::user},
                                                      {"password", &Fields::password},
                                                      {"tls_ca", &Fields::tls_ca},
                                                      {"tls_certificate", &Fields::tls_certificate},
                                                      {"tls_key", &Fields::tls_key},
                                                      {"tls_name", &Fields::tls_name},
                                                      {"prefix", &Fields::prefix}}};
constexpr std::array<Number, 3> kNumbers{
    {{"port", &Fields::port, 1, 65535}, {"database", &Fields::database, 0, 65535}, {"lanes", &Fields::lanes, 1, 64}}};
constexpr std::array<Named<bool>, 2> kFlags{{{"tls", &Fields::tls}, {"fencing", &Fields::fencing}}};
constexpr std::array<Named<Time>, 3> kDurations{
    {{"ttl", &Fields::ttl}, {"margin", &Fields::margin}, {"lock_delay", &Fields::lock_delay}}};

template <class Table>
auto find(const Table& table, std::string_view name) {
  return std::find_if(table.begin(), table.end(), [&](const auto& each) { return each.name == name; });
}

// ---- out of a section

template <class Read, class Out>
Status store(Read read, Out& out) {
  if (!read) return fail(read.error());
  out = std::move(*read);
  return {};
}

Result<Fields> from_section(const spi::Section& section) {
  Fields fields;
  Status status;
  for (const auto& each : kStrings) {
    if (status) status = store(section.string(each.name), fields.*each.member);
  }
  for (const auto& each : kNumbers) {
    if (status) status = store(section.integer(each.name, each.least, each.most), fields.*each.member);
  }
  for (const auto& each : kFlags) {
    if (status) status = store(section.boolean(each.name), fields.*each.member);
  }
  for (const auto& each : kDurations) {
    if (status) status = store(section.duration(each.name), fields.*each.member);
  }
  if (!status) return fail(status.error());
  return fields;
}

// ---- out of a URL

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      out += text[at];
      continue;
    }
    unsigned byte = 0;
    const char* const digits = text.data() + at + 1;
    if (text.size() - at < 3 || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) return std::nullopt;
    out += static_cast<char>(byte);
    at += 2;
  }
  return out;
}

std::optional<std::int64_t> integer(std::string_view text, std::int64_t least, std::int64_t most) {
  std::int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || number < least || number > most) return std::nullopt;
  return number;
}

// Takes what stands before the separator off the text; all of it where there is none.
std::string_view take_until(std::string_view& text, char separator) {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return part;
}

// Sets what the parameter names; else says what was expected of it. Never repeats the URL: what stands behind the ? may
// be the end of a password that is not escaped.
std::optional<std::string> set_parameter(std::string_view name, const std::string& value, Fields& fields) {
  const auto unless = [&](bool good, std::string_view expected) {
    return good ? std::nullopt : std::optional(std::string(name) + ": " + std::string(expected));
  };
  if (const auto* found = find(kStrings, name); found != kStrings.end()) {
    fields.*found->member = value;
    return std::nullopt;
  }
  if (const auto* found = find(kNumbers, name); found != kNumbers.end()) {
    fields.*found->member = integer(value, found->least, found->most);
    return unless((fields.*found->member).has_value(),
                  "an integer from " + std::to_string(found->least) + " to " + std::to_string(found->most));
  }
  if (const auto* found = find(kFlags, name); found != kFlags.end()) {
    fields.*found->member = value == "true";
    return unless(value == "true" || value == "false", "true or false");
  }
  if (const auto* found = find(kDurations, name); found != kDurations.end()) {
    const auto duration = parse_duration(value);
    if (duration) fields.*found->member = *duration;
    return unless(duration.has_value(), "one number and its unit, such as 10s");
  }
  return std::string(kParametersForm);
}

// What was expected, if anything is wrong.
std::optional<std::string> read_parameters(std::string_view query, Fields& fields) {
  std::vector<std::string_view> seen;
  while (!query.empty()) {
    std::string_view parameter = take_until(query, '&');
    const bool has_value = parameter.find('=') != parameter.npos;
    const std::string_view name = take_until(parameter, '=');
    const auto value = percent_decoded(parameter);
    const bool given = std::find(seen.begin(), seen.end(), name) != seen.end();
    const bool placed = name == "tls" || name == "socket" || name == "host" || name == "port";
    if (!has_value || !value || given || placed) return std::string(kParametersForm);
    if (auto expected = set_parameter(name, *value, fields)) return expected;
    seen.push_back(name);
  }
  return std::nullopt;
}

bool read_user(std::string_view& rest, Fields& fields) {
  const std::size_t at = rest.substr(0, rest.find('/')).rfind('@');
  if (at == rest.npos) return true;
  std::string_view user = rest.substr(0, at);
  rest.remove_prefix(at + 1);
  const bool with_password = user.find(':') != user.npos;
  const auto name = percent_decoded(take_until(user, ':'));
  const auto password = percent_decoded(user);
  if (!name || !password) return false;
  if (!name->empty()) fields.user = *name;
  if (with_password) fields.password = *password;
  return true;
}

bool read_host(std::string_view rest, Fields& fields) {
  std::string_view place = take_until(rest, '/');
  if (place.starts_with('[')) {  // An IPv6 address.
    place.remove_prefix(1);
    if (place.find(']') == place.npos) return false;
    fields.host = std::string(take_until(place, ']'));
    if (!place.empty() && !place.starts_with(':')) return false;
    if (!place.empty()) place.remove_prefix(1);
  } else {
    const auto host = percent_decoded(take_until(place, ':'));
    if (!host) return false;
    if (!host->empty()) fields.host = *host;
  }
  if (!place.empty() && !(fields.port = integer(place, 1, 65535))) return false;
  return rest.empty() || (fields.database = integer(rest, 0, 65535)).has_value();
}

Result<Fields> from_url(const spi::Section& section, std::string_view url) {
  const auto wrong = [&](std::string_view expected) { return fail(section.invalid("url", expected)); };
  Fields fields;
  const std::size_t end = url.find("://");
  const std::string_view scheme = url.substr(0, end);
  if (end == url.npos) return wrong(kUrlForm);
  if (scheme != "redis" && scheme != "rediss" && scheme != "redis+unix") return wrong(kUrlForm);
  std::string_view query = url.substr(end + 3);
  std::string_view rest = take_until(query, '?');
  if (!read_user(rest, fields)) return wrong(kUrlForm);
  if (scheme == "redis+unix") {
    const auto path = percent_decoded(rest);
    if (!path) return wrong(kUrlForm);
    fields.socket = *path;
  } else {
    if (!read_host(rest, fields)) return wrong(kUrlForm);
    fields.tls = scheme == "rediss";
  }
  if (const auto expected = read_parameters(query, fields)) return wrong(*expected);
  return fields;
}

// ---- what they amount to

bool has_nul(const std::string& text) { return text.find('\0') != text.npos; }

Result<Options> checked(const spi::Section& section, bool is_url, Fields fields) {
  const auto wrong = [&](std::string_view field, std::string_view expected) {
    return fail(is_url ? section.invalid("url", std::string(field) + ": " + std::string(expected))
                       : section.invalid(field, expected));
  };
  for (const auto& each : kStrings) {
    const auto& text = fields.*each.member;
    if (text && (has_nul(*text) || text->empty())) return wrong(each.name, "a text that is not empty, without NUL");
  }
  if (fields.socket && (fields.host || fields.port)) return wrong("socket", "either a socket or host and port");
  if (fields.socket && (!fields.socket->starts_with('/') || fields.socket->size() > 107)) {
    return wrong("socket", "an absolute path of at most 107 bytes");
  }
  if (fields.socket && fields.tls.value_or(false)) return wrong("tls", "no TLS over a unix socket");
  if (!fields.tls.value_or(false) && (fields.tls_ca || fields.tls_certificate || fields.tls_key || fields.tls_name)) {
    return wrong("tls", "true, as other fields of TLS are given");
  }
  if (fields.tls_certificate.has_value() != fields.tls_key.has_value()) {
    return wrong("tls_key", "a certificate and its key, or neither");
  }
  if (fields.user && !fields.password) return wrong("password", "the user's password");
  if (fields.prefix && fields.prefix->size() > 128) return wrong("prefix", "at most 128 bytes");
  Options options;
  options.ttl = fields.ttl.value_or(options.ttl);
  if (options.ttl < kLeastTtl || options.ttl > kMostTtl) return wrong("ttl", "a duration from 1s to 1h");
  options.margin = fields.margin.value_or(options.ttl / 4);
  if (options.margin < kLeastMargin || options.margin > options.ttl / 2) {
    return wrong("margin", "a duration from 10ms to half of ttl");
  }
  options.lock_delay = fields.lock_delay.value_or(options.lock_delay);
  if (options.lock_delay < Time{0} || options.lock_delay > kMostDelay) {
    return wrong("lock_delay", "a duration from 0s to 1h");
  }
  options.host = fields.host.value_or(options.host);
  options.port = static_cast<std::uint16_t>(fields.port.value_or(options.port));
  options.socket = fields.socket.value_or("");
  options.user = fields.user.value_or("");
  options.password = fields.password.value_or("");
  options.database = static_cast<std::uint16_t>(fields.database.value_or(0));
  options.tls = fields.tls.value_or(false);
  options.tls_ca = fields.tls_ca.value_or("");
  options.tls_certificate = fields.tls_certificate.value_or("");
  options.tls_key = fields.tls_key.value_or("");
  options.tls_name = fields.tls_name.value_or(options.host);
  options.prefix = fields.prefix.value_or(options.prefix);
  options.lanes = static_cast<std::uint16_t>(fields.lanes.value_or(options.lanes));
  options.fencing = fields.fencing.value_or(true);
  return options;
}

}  // namespace

Result<Options> read_options(const spi::Section& section) {
  auto known = section.allow_only({"url", "host", "port", "socket", "user", "password", "database", "tls", "tls_ca",
                                   "tls_certificate", "tls_key", "tls_name", "prefix", "lanes", "ttl", "margin",
                                   "lock_delay", "fencing"});
  if (!known) return fail(known.error());
  auto url = section.string("url");
  if (!url) return fail(url.error());
  if (!*url) {
    auto fields = from_section(section);
    if (!fields) return fail(fields.error());
    return checked(section, false, *std::move(fields));
  }
  if (!section.allow_only({"url"})) {
    return fail(section.invalid("url", "either a url or the other fields, not both"));
  }
  auto fields = from_url(section, **url);
  if (!fields) return fail(fields.error());
  return checked(section, true, *std::move(fields));
}

}  // namespace lockr::redis
