#include "backends/postgres/encoding.h"

#include <endian.h>

#include <cstring>

namespace lockr::postgres {

void append_int32(std::string& out, std::int32_t value) {
  const std::uint32_t bytes = htobe32(static_cast<std::uint32_t>(value));
  out.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
}

void append_int64(std::string& out, std::int64_t value) {
  const std::uint64_t bytes = htobe64(static_cast<std::uint64_t>(value));
  out.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
}

BinaryArray::BinaryArray(Of type, std::size_t count) {
  bytes_.reserve(20 + count * 12);
  append_int32(bytes_, 1);  // Dimensions.
  append_int32(bytes_, 0);  // No NULL among them.
  append_int32(bytes_, static_cast<std::int32_t>(type));
  append_int32(bytes_, static_cast<std::int32_t>(count));
  append_int32(bytes_, 1);  // The first one's number.
}

void BinaryArray::add(bool value) {
  append_int32(bytes_, 1);
  bytes_ += value ? '\1' : '\0';
}

void BinaryArray::add(std::int64_t value) {
  append_int32(bytes_, sizeof value);
  append_int64(bytes_, value);
}

bool is_number(const PGresult* result, int row, int column) {
  const int size = PQgetlength(result, row, column);
  return PQfformat(result, column) == 1 && (size == 0 || size == 1 || size == 4 || size == 8);
}

std::optional<std::int64_t> number_at(const PGresult* result, int row, int column) {
  if (PQgetisnull(result, row, column)) return std::nullopt;
  const char* const bytes = PQgetvalue(result, row, column);
  switch (PQgetlength(result, row, column)) {
    case 1:
      return *bytes;
    case 4: {
      std::uint32_t value = 0;
      std::memcpy(&value, bytes, sizeof value);
      return static_cast<std::int32_t>(be32toh(value));
    }
    case 8: {
      std::uint64_t value = 0;
      std::memcpy(&value, bytes, sizeof value);
      return static_cast<std::int64_t>(be64toh(value));
    }
    default:
      return std::nullopt;
  }
}

}  // namespace lockr::postgres
