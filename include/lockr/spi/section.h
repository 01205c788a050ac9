// Section: a typed view of a backend's part of the config, without a JSON library's types.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/result.h"

namespace lockr::spi {

/// One JSON object. Each getter returns nullopt for a field that is absent and `invalid_config`, with the JSON pointer
/// and what was expected, for one of another type or range. References in strings are resolved already.
/// Const calls are thread-safe.
class LOCKR_API Section {
 public:
  virtual ~Section();

  virtual Result<std::optional<std::string>> string(std::string_view field) const = 0;
  virtual Result<std::optional<bool>> boolean(std::string_view field) const = 0;
  virtual Result<std::optional<std::int64_t>> integer(
      std::string_view field, std::int64_t least = std::numeric_limits<std::int64_t>::min(),
      std::int64_t most = std::numeric_limits<std::int64_t>::max()) const = 0;
  virtual Result<std::optional<std::chrono::nanoseconds>> duration(std::string_view field) const = 0;
  virtual Result<std::optional<std::vector<std::string>>> strings(std::string_view field) const = 0;

  /// `invalid_config` for the first field that is not among `known`, naming the nearest that is.
  virtual Status allow_only(std::initializer_list<std::string_view> known) const = 0;

  /// The `invalid_config` error for a field's value: its JSON pointer, ": expected " and `expected`, for example
  /// `invalid("directory", "an absolute path")`. In a config made from a URL the pointer reads "the URL".
  virtual Error invalid(std::string_view field, std::string_view expected) const = 0;
};

}  // namespace lockr::spi
