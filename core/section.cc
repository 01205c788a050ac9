#include "core/section.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/text.h"
#include "lockr/config.h"

namespace lockr::core {
namespace {

const char* name_of_kind(const Value& value) noexcept {
  switch (value.kind) {
    case Value::Kind::null:
      return "null";
    case Value::Kind::boolean:
      return "a boolean";
    case Value::Kind::integer:
      return "a number";
    case Value::Kind::real:
      return "a number that is no 64-bit integer";
    case Value::Kind::string:
      return "a string";
    case Value::Kind::array:
      return "an array";
    case Value::Kind::object:
      return "an object";
  }
  return "something else";
}

std::string expected_kind(std::string_view expected, const Value& value) {
  return std::string(expected) + ", found " + name_of_kind(value);
}

}  // namespace

std::string place_in_json(std::string_view pointer) { return std::string(pointer); }

Result<std::optional<std::string>> ObjectSection::string(std::string_view field) const {
  const Value* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::string) return fail(invalid(field, expected_kind("a string", *value)));
  return value->text;
}

Result<std::optional<bool>> ObjectSection::boolean(std::string_view field) const {
  const Value* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::boolean) return fail(invalid(field, expected_kind("true or false", *value)));
  return value->boolean;
}

Result<std::optional<std::int64_t>> ObjectSection::integer(std::string_view field, std::int64_t least,
                                                           std::int64_t most) const {
  using Limits = std::numeric_limits<std::int64_t>;
  const Value* value = find(field);
  if (!value) return std::nullopt;
  std::string expected = "an integer";
  if (least != Limits::min()) expected += " from " + std::to_string(least);
  if (most != Limits::max()) expected += " to " + std::to_string(most);
  if (value->kind != Value::Kind::integer) return fail(invalid(field, expected_kind(expected, *value)));
  if (value->integer < least || value->integer > most) {
    return fail(invalid(field, expected + ", found " + std::to_string(value->integer)));
  }
  return value->integer;
}

Result<std::optional<std::chrono::nanoseconds>> ObjectSection::duration(std::string_view field) const {
  const Value* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::string) {
    return fail(invalid(field, expected_kind("a duration with its unit, such as \"1.5s\"", *value)));
  }
  const auto duration = parse_duration(value->text);
  if (!duration) return fail(error_at(field, duration.error().message() + found(*value)));
  return *duration;
}

Result<std::optional<std::vector<std::string>>> ObjectSection::strings(std::string_view field) const {
  const Value* value = find(field);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::array) return fail(invalid(field, expected_kind("an array of strings", *value)));
  std::vector<std::string> strings;
  for (const Value& item : value->items) {
    if (item.kind != Value::Kind::string) {
      return fail(error_at_item(field, strings.size(), expected_kind("expected a string", item)));
    }
    strings.push_back(item.text);
  }
  return strings;
}

Status ObjectSection::allow_only(std::initializer_list<std::string_view> known) const {
  return allow_only(std::span<const std::string_view>(known.begin(), known.size()));
}

Status ObjectSection::allow_only(std::span<const std::string_view> known) const {
  for (const Field& field : object_.fields) {
    if (auto checked = check_name(field, known); !checked) return checked;
  }
  return {};
}

Status ObjectSection::allow_only_objects_beside(std::span<const std::string_view> known) const {
  for (const Field& field : object_.fields) {
    if (field.value.kind == Value::Kind::object) continue;
    if (auto checked = check_name(field, known); !checked) return checked;
  }
  return {};
}

Status ObjectSection::check_name(const Field& field, std::span<const std::string_view> known) const {
  if (std::find(known.begin(), known.end(), field.name) != known.end()) return {};
  return fail(error_at(field.name, "unknown field; " + suggestion(field.name, known)));
}

Error ObjectSection::invalid(std::string_view field, std::string_view expected) const {
  return error_at(field, "expected " + std::string(expected));
}

Error ObjectSection::error_at(std::string_view field, std::string_view sentence) const {
  return Error(errc::invalid_config, place_(pointer_ + pointer_step(field)) + ": " + std::string(sentence));
}

Error ObjectSection::error_at_item(std::string_view field, std::size_t item, std::string_view sentence) const {
  const std::string pointer = pointer_ + pointer_step(field) + "/" + std::to_string(item);
  return Error(errc::invalid_config, place_(pointer) + ": " + std::string(sentence));
}

std::string ObjectSection::found(const Value& value) {
  return value.referenced ? "; found the value of a reference, not shown" : "; found " + in_quotes(value.text);
}

}  // namespace lockr::core
