// A checked tree of JSON values with the references in its strings resolved.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/result.h"

namespace lockr::core {

struct Field;

struct Value {
  enum class Kind : std::uint8_t { null, boolean, integer, real, string, array, object };
  Kind kind = Kind::null;
  bool boolean = false;
  bool referenced = false;  ///< A string with a `${...}` in it: perhaps a secret, never to be shown.
  std::int64_t integer = 0;
  std::string text{};
  std::vector<Value> items{};
  std::vector<Field> fields;

  /// An object's field, or null.
  const Value* find(std::string_view name) const noexcept;
};

struct Field {
  std::string name;
  Value value;
};

inline constexpr std::size_t kMostConfigBytes = std::size_t{1} << 20;

/// Parses JSON text. Errors: `invalid_config` for text that is not JSON, a duplicate field, more than 16 levels or 256
/// fields of one object, a NUL byte in a string, or a reference that can't be resolved; `access_denied` for a file
/// reference that can't be read.
Result<Value> parse_json(std::string_view text);

/// Replaces `${NAME}`, `${file:/abs}` and `$${` in a string. The error's message is a clause without a place.
Status resolve_references(std::string& text, bool& referenced);

struct SmallFile {
  std::string content;
  uid_t owner;
  mode_t mode;
};

/// Reads a file of at most 1 MiB. Errors, with the errno's name: `access_denied`; `invalid_config` otherwise.
Result<SmallFile> read_small_file(const std::string& path);

/// A field name as one step of a JSON pointer, with its slash.
std::string pointer_step(std::string_view name);

}  // namespace lockr::core
