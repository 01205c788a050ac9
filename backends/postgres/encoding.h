// Parameters and results in PostgreSQL's binary format.
#pragma once

#include <libpq-fe.h>

#include <cstdint>
#include <optional>
#include <string>

namespace lockr::postgres {

/// Appends in network byte order.
void append_int32(std::string& out, std::int32_t value);
void append_int64(std::string& out, std::int64_t value);

/// An array under construction: one dimension, no NULL.
class BinaryArray {
 public:
  enum class Of : std::int32_t { boolean = 16, int64 = 20 };
  BinaryArray(Of type, std::size_t count);
  void add(bool value);
  void add(std::int64_t value);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Whether a value is what number_at() reads: a bool, int4 or int8 in binary, NULL, or the void of a function.
bool is_number(const PGresult* result, int row, int column);
/// A bool, int4 or int8 of a binary result; nullopt for NULL and void.
std::optional<std::int64_t> number_at(const PGresult* result, int row, int column);

}  // namespace lockr::postgres
