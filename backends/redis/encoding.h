// What is sent: commands as arrays of byte strings, whatever bytes they have.
#pragma once

#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace lockr::redis {

/// The arguments of a command, encoded one behind the other.
class Arguments {
 public:
  Arguments() = default;
  Arguments(std::initializer_list<std::string_view> all) {
    for (const std::string_view each : all) add(each);
  }

  Arguments& add(std::string_view bytes) {
    append_size('$', bytes.size());
    bytes_.append(bytes).append("\r\n");
    ++count_;
    return *this;
  }
  /// One argument of two parts.
  Arguments& add(std::string_view first, std::string_view second) {
    append_size('$', first.size() + second.size());
    bytes_.append(first).append(second).append("\r\n");
    ++count_;
    return *this;
  }
  Arguments& add(std::int64_t number) { return add(std::to_string(number)); }
  /// What is encoded already, and not counted: for commands that stand one behind the other.
  Arguments& add_encoded(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  /// Room for so many bytes of encoded arguments.
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }

  std::size_t count() const noexcept { return count_; }
  const std::string& bytes() const noexcept { return bytes_; }

  /// Appends the command that starts with these arguments and goes on with `more`.
  void write(std::string& out, const Arguments& more) const {
    out.append("*").append(std::to_string(count_ + more.count_)).append("\r\n").append(bytes_).append(more.bytes_);
  }

 private:
  void append_size(char kind, std::size_t size) {
    char digits[20];
    const auto [end, error] = std::to_chars(digits, digits + sizeof digits, size);
    static_cast<void>(error);
    bytes_ += kind;
    bytes_.append(digits, static_cast<std::size_t>(end - digits)).append("\r\n");
  }

  std::string bytes_;
  std::size_t count_ = 0;
};

}  // namespace lockr::redis
