// The typed view of one object of a config.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/value.h"
#include "lockr/spi/section.h"

namespace lockr::core {

/// How a JSON pointer is told to a person: as it is, or as the part of a URL that it stands for.
using PlaceName = std::string (*)(std::string_view pointer);

std::string place_in_json(std::string_view pointer);

/// Reads `object`, which must outlive it; a value of another kind than object reads as an empty one.
class ObjectSection final : public spi::Section {
 public:
  ObjectSection(const Value& object, std::string pointer, PlaceName place)
      : object_(object), pointer_(std::move(pointer)), place_(place) {}

  Result<std::optional<std::string>> string(std::string_view field) const override;
  Result<std::optional<bool>> boolean(std::string_view field) const override;
  Result<std::optional<std::int64_t>> integer(std::string_view field, std::int64_t least,
                                              std::int64_t most) const override;
  Result<std::optional<std::chrono::nanoseconds>> duration(std::string_view field) const override;
  Result<std::optional<std::vector<std::string>>> strings(std::string_view field) const override;
  Status allow_only(std::initializer_list<std::string_view> known) const override;
  Error invalid(std::string_view field, std::string_view expected) const override;

  /// The same for names known at run time only.
  Status allow_only(std::span<const std::string_view> known) const;
  /// The same, where objects may have any name.
  Status allow_only_objects_beside(std::span<const std::string_view> known) const;
  /// `invalid_config` for the field, with the sentence as it is.
  Error error_at(std::string_view field, std::string_view sentence) const;
  Error error_at_item(std::string_view field, std::size_t item, std::string_view sentence) const;
  /// `; found "5"`: shows a string only where it is no secret, for durations and enumerations.
  static std::string found(const Value& value);
  const Value* find(std::string_view field) const noexcept { return object_.find(field); }

 private:
  Status check_name(const Field& field, std::span<const std::string_view> known) const;

  const Value& object_;
  const std::string pointer_;
  const PlaceName place_;
};

}  // namespace lockr::core
