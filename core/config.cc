#include "lockr/config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "core/backend_name.h"
#include "core/config_file.h"
#include "core/risks.h"
#include "core/section.h"
#include "core/text.h"
#include "core/url.h"
#include "core/value.h"
#include "lockr/key.h"
#include "lockr/locker.h"

namespace lockr {

using core::ObjectSection;
using core::Value;

struct LockerConfig::Data {
  Value own{.kind = Value::Kind::object};  // The backend's settings, read through `section`.
  std::optional<ObjectSection> section{};
  core::PlaceName place = core::place_in_json;

  std::string backend{};
  bool backend_referenced = false;  // Its name came by reference.
  std::string plugin{};
  std::string key_namespace{};
  std::string label{};
  std::chrono::nanoseconds acquire_timeout = std::chrono::seconds(30);
  std::chrono::nanoseconds connect_timeout = std::chrono::seconds(5);
  std::chrono::nanoseconds reply_timeout = std::chrono::seconds(3);
  std::chrono::nanoseconds release_timeout = std::chrono::seconds(5);
  std::vector<std::string> require{};
  std::vector<std::string> accept_risk{};
  std::vector<std::string> risks_shown{};  // As errors may show them.
  Limits limits{};
};

namespace {

using std::chrono::nanoseconds;

constexpr std::size_t kMostLabelBytes = 128;
constexpr std::int64_t kMostHeld = 1'000'000'000;
constexpr std::int64_t kMostWaiters = 10'000'000;
constexpr std::int64_t kMostPasses = 1000;
constexpr nanoseconds kLeastTimeout = std::chrono::milliseconds(1);
constexpr nanoseconds kMostTimeout = std::chrono::hours(1);
constexpr nanoseconds kMostAcquireTimeout = std::chrono::hours(24 * 365);

// Beside these, the section that is named like the backend.
constexpr std::array<std::string_view, 11> kFields{
    "namespace", "label",       "acquire_timeout", "connect_timeout", "reply_timeout", "release_timeout",
    "require",   "accept_risk", "limits",          "backend",         "plugin"};
constexpr std::array<std::string_view, 3> kLimitFields{"held", "waiters", "handoff"};
constexpr std::array<std::string_view, 6> kCapabilities{"shared",     "fencing", "cross_process",
                                                        "cross_host", "fair",    "hold_at_least"};

/// Reads fields until one is wrong; error() is then that of the first.
class FieldReader {
 public:
  explicit FieldReader(const ObjectSection& section) : section_(section) {}

  void string(std::string_view field, std::string& out) { take(section_.string(field), out); }
  void strings(std::string_view field, std::vector<std::string>& out) { take(section_.strings(field), out); }

  template <class Integer>
  void integer(std::string_view field, std::int64_t least, std::int64_t most, Integer& out) {
    auto value = static_cast<std::int64_t>(out);
    take(section_.integer(field, least, most), value);
    out = static_cast<Integer>(value);
  }

  void duration(std::string_view field, nanoseconds least, nanoseconds most, bool or_forever, nanoseconds& out) {
    take(section_.duration(field), out);
    if (error_ || (out >= least && out <= most) || (or_forever && out == forever)) return;
    require(false, field,
            "a duration from " + format_duration(least) + " to " + format_duration(most) +
                (or_forever ? ", or \"forever\"" : "") + ObjectSection::found(*section_.find(field)));
  }

  void require(bool valid, std::string_view field, std::string_view expected) {
    if (!error_ && !valid) error_ = section_.invalid(field, expected);
  }

  Status status() const { return error_ ? Status(fail(*error_)) : Status(); }

 private:
  template <class T>
  void take(Result<std::optional<T>> value, T& out) {
    if (error_) return;
    if (!value) {
      error_ = std::move(value.error());
    } else if (*value) {
      out = *std::move(*value);
    }
  }

  const ObjectSection& section_;
  std::optional<Error> error_;
};

bool is_backend_name(std::string_view name) noexcept {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto other = [](char c) { return (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == '_'; };
  return !name.empty() && name.size() <= 64 && letter(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || other(c); });
}

Status check_capabilities(const ObjectSection& top) {
  const Value* list = top.find("require");
  for (std::size_t i = 0; list && i < list->items.size(); ++i) {
    const Value& item = list->items[i];
    if (std::find(kCapabilities.begin(), kCapabilities.end(), item.text) != kCapabilities.end()) continue;
    return fail(top.error_at_item(
        "require", i, "no capability; " + core::suggestion(item.text, kCapabilities) + ObjectSection::found(item)));
  }
  return {};
}

}  // namespace

struct ConfigReader {
  static Result<LockerConfig> from_json(std::string_view text);
  static Result<LockerConfig> from_file(const std::string& path);
  static Result<LockerConfig> from_url(std::string_view url);
  static Status check_risks(const LockerConfig& config, std::span<const std::string_view> known);
  static std::string shown_backend(const LockerConfig& config);

 private:
  using Data = LockerConfig::Data;
  static Result<LockerConfig> from_root(const Value& root);
  static Status read_backend(const ObjectSection& top, Data& data);
  static Status read_fields(const ObjectSection& top, core::PlaceName place, Data& data);
};

Result<LockerConfig> ConfigReader::from_json(std::string_view text) {
  auto root = core::parse_json(text);
  if (!root) return fail(std::move(root.error()));
  return from_root(*root);
}

Result<LockerConfig> ConfigReader::from_file(const std::string& path) {
  const auto file = core::read_small_file(path);
  if (!file) return fail(file.error());
  const auto root = core::parse_json(file->content);
  auto config = root ? from_root(*root) : fail(root.error());
  if (!config) {
    const Error& error = config.error();
    return fail(
        Error(error.code(), core::printable(path) + ": " + error.message()).with_native(std::string(error.native())));
  }
  if (auto safe = core::check_config_file(*file, *root, path); !safe) return fail(safe.error());
  return config;
}

Result<LockerConfig> ConfigReader::from_root(const Value& root) {
  if (root.kind != Value::Kind::object) {
    return fail(errc::invalid_config, "expected an object, for example { \"backend\": \"file\" }");
  }
  auto data = std::make_shared<Data>();
  const ObjectSection top(root, "", core::place_in_json);
  Status status = read_backend(top, *data);
  if (status) status = read_fields(top, core::place_in_json, *data);
  if (!status) return fail(std::move(status.error()));
  data->section.emplace(data->own, core::pointer_step(data->backend), core::place_in_json);
  return LockerConfig(std::move(data));
}

Result<LockerConfig> ConfigReader::from_url(std::string_view url) {
  auto parsed = core::parse_config_url(url);
  if (!parsed) return fail(std::move(parsed.error()));
  auto data = std::make_shared<Data>();
  data->own = std::move(parsed->section);
  data->place = core::place_in_url;
  data->backend = std::move(parsed->scheme);
  const ObjectSection top(parsed->parameters, "", core::place_in_url);
  if (Status status = read_fields(top, core::place_in_url, *data); !status) return fail(std::move(status.error()));
  data->section.emplace(data->own, "", core::place_is_url);
  return LockerConfig(std::move(data));
}

Status ConfigReader::read_backend(const ObjectSection& top, Data& data) {
  if (!top.find("backend")) {
    // A field with a wrong name may be the one that is missing. What is an object is rather a section.
    if (auto known = top.allow_only_objects_beside(kFields); !known) return known;
  }
  FieldReader fields(top);
  fields.require(top.find("backend") != nullptr, "backend", "the name of a backend, such as \"file\"; it is missing");
  fields.string("backend", data.backend);
  if (const Value* name = top.find("backend")) data.backend_referenced = name->referenced;
  fields.require(is_backend_name(data.backend), "backend", "the name of a backend, such as \"file\"");
  fields.string("plugin", data.plugin);
  fields.require(!top.find("plugin") || data.plugin.starts_with('/'), "plugin", "the absolute path of a module");
  if (auto status = fields.status(); !status) return status;

  std::vector<std::string_view> known(kFields.begin(), kFields.end());
  if (!data.backend_referenced || top.find(data.backend)) known.push_back(data.backend);
  if (auto status = top.allow_only(known); !status) return status;
  if (const Value* own = top.find(data.backend)) {
    fields.require(own->kind == Value::Kind::object, data.backend, "an object, the settings of the backend");
    data.own = *own;
  }
  return fields.status();
}

Status ConfigReader::read_fields(const ObjectSection& top, core::PlaceName place, Data& data) {
  FieldReader fields(top);
  fields.string("namespace", data.key_namespace);
  fields.require(!top.find("namespace") || Key::from_scopes({data.key_namespace}).has_value(), "namespace",
                 "a scope: 1 to 1,024 bytes without ':'");
  fields.string("label", data.label);
  fields.require(data.label.size() <= kMostLabelBytes, "label", "at most 128 bytes");
  fields.duration("acquire_timeout", nanoseconds(0), kMostAcquireTimeout, true, data.acquire_timeout);
  fields.duration("connect_timeout", kLeastTimeout, kMostTimeout, false, data.connect_timeout);
  fields.duration("reply_timeout", kLeastTimeout, kMostTimeout, false, data.reply_timeout);
  fields.duration("release_timeout", kLeastTimeout, kMostTimeout, false, data.release_timeout);
  fields.strings("require", data.require);
  fields.strings("accept_risk", data.accept_risk);
  if (const Value* risks = top.find("accept_risk")) {
    for (const Value& risk : risks->items) data.risks_shown.push_back(ObjectSection::found(risk));
  }

  const Value* limits = top.find("limits");
  fields.require(!limits || limits->kind == Value::Kind::object, "limits", "an object");
  if (auto status = fields.status(); !status) return status;
  if (auto status = check_capabilities(top); !status) return status;
  if (!limits) return {};

  const ObjectSection section(*limits, "/limits", place);
  if (auto status = section.allow_only(kLimitFields); !status) return status;
  FieldReader limit(section);
  limit.integer("held", 0, kMostHeld, data.limits.held);
  limit.integer("waiters", 1, kMostWaiters, data.limits.waiters);
  limit.integer("handoff", 0, kMostPasses, data.limits.handoff);
  return limit.status();
}

Status ConfigReader::check_risks(const LockerConfig& config, std::span<const std::string_view> known) {
  const Data& data = *config.data_;
  for (std::size_t i = 0; i < data.accept_risk.size(); ++i) {
    const std::string& risk = data.accept_risk[i];
    if (std::find(known.begin(), known.end(), risk) != known.end()) continue;
    return fail(errc::invalid_config, data.place("/accept_risk/" + std::to_string(i)) +
                                          ": no risk that can be accepted; " + core::suggestion(risk, known) +
                                          data.risks_shown[i]);
  }
  return {};
}

std::string ConfigReader::shown_backend(const LockerConfig& config) {
  const Data& data = *config.data_;
  return data.backend_referenced ? "of the name that a reference brought, which is not shown"
                                 : core::in_quotes(data.backend);
}

std::string core::shown_backend(const LockerConfig& config) { return ConfigReader::shown_backend(config); }

Status core::check_risks(const LockerConfig& config, std::span<const std::string_view> known) {
  return ConfigReader::check_risks(config, known);
}

Result<LockerConfig> LockerConfig::from_json(std::string_view text) { return ConfigReader::from_json(text); }

Result<LockerConfig> LockerConfig::from_url(std::string_view url) { return ConfigReader::from_url(url); }

Result<LockerConfig> LockerConfig::from_file(const std::string& path) { return ConfigReader::from_file(path); }

LockerConfig::LockerConfig(std::shared_ptr<const Data> data) noexcept : data_(std::move(data)) {}

const std::string& LockerConfig::backend() const noexcept { return data_->backend; }
const std::string& LockerConfig::plugin() const noexcept { return data_->plugin; }
const std::string& LockerConfig::key_namespace() const noexcept { return data_->key_namespace; }
const std::string& LockerConfig::label() const noexcept { return data_->label; }
nanoseconds LockerConfig::acquire_timeout() const noexcept { return data_->acquire_timeout; }
nanoseconds LockerConfig::connect_timeout() const noexcept { return data_->connect_timeout; }
nanoseconds LockerConfig::reply_timeout() const noexcept { return data_->reply_timeout; }
nanoseconds LockerConfig::release_timeout() const noexcept { return data_->release_timeout; }
const std::vector<std::string>& LockerConfig::require() const noexcept { return data_->require; }
const LockerConfig::Limits& LockerConfig::limits() const noexcept { return data_->limits; }
const spi::Section& LockerConfig::section() const noexcept { return *data_->section; }

bool LockerConfig::accepts_risk(std::string_view risk) const noexcept {
  return std::find(data_->accept_risk.begin(), data_->accept_risk.end(), risk) != data_->accept_risk.end();
}

}  // namespace lockr
