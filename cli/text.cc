#include "cli/text.h"

#include <unistd.h>

#include <array>
#include <ctime>

#include "cli/commands.h"

namespace lockr::cli {
namespace {

struct Character {
  char32_t code;
  std::size_t size;  // In bytes; 0: the first byte is not the start of valid UTF-8.
};

Character decode(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1};
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || bytes.size() < size) return {0, 0};
  char32_t code = first & (0xff >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0, 0};
    code = (code << 6) | (byte(i) & 0x3f);
  }
  static constexpr std::array<char32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < kLeast[size] || code > 0x10ffff || surrogate) return {0, 0};
  return {code, size};
}

// Characters that move the cursor, or reorder or hide the text around them.
bool drives_terminal(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x061c || (code >= 0x200b && code <= 0x200f) ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff;
}

std::string hex_digits(char32_t value, std::size_t least) {
  std::string digits;
  for (; value != 0 || digits.size() < least; value >>= 4)
    digits.insert(digits.begin(), "0123456789abcdef"[value & 0xf]);
  return digits;
}

std::string escaped(char32_t code) {
  switch (code) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return code < 0x80 ? "\\x" + hex_digits(code, 2) : "\\u{" + hex_digits(code, 4) + "}";
  }
}

void append_json_unit(std::string& out, char32_t unit) { out += "\\u" + hex_digits(unit, 4); }

void append_json(std::string& out, char32_t code) {
  if (code == '"' || code == '\\') {
    out += '\\';
    out += static_cast<char>(code);
  } else if (code >= 0x20 && code < 0x7f) {
    out += static_cast<char>(code);
  } else if (code < 0x10000) {
    append_json_unit(out, code);
  } else {
    append_json_unit(out, 0xd800 + ((code - 0x10000) >> 10));
    append_json_unit(out, 0xdc00 + ((code - 0x10000) & 0x3ff));
  }
}

std::string time_text(std::time_t seconds, bool local, const char* format) {
  std::tm parts{};
  if (local) {
    localtime_r(&seconds, &parts);
  } else {
    gmtime_r(&seconds, &parts);
  }
  std::array<char, 64> text{};
  return {text.data(), std::strftime(text.data(), text.size(), format, &parts)};
}

}  // namespace

std::string printable(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Character next = decode(bytes);
    const std::size_t size = next.size == 0 ? 1 : next.size;
    if (next.size == 0) {
      out += "\\x" + hex_digits(static_cast<unsigned char>(bytes.front()), 2);
    } else if (next.code == '\\') {
      out += "\\\\";
    } else if (drives_terminal(next.code)) {
      out += escaped(next.code);
    } else {
      out += bytes.substr(0, size);
    }
    bytes.remove_prefix(size);
  }
  return out;
}

std::string json_string(std::string_view bytes) {
  std::string out = "\"";
  while (!bytes.empty()) {
    const Character next = decode(bytes);
    append_json(out, next.size == 0 ? 0xfffd : next.code);
    bytes.remove_prefix(next.size == 0 ? 1 : next.size);
  }
  return out + '"';
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Character next = decode(bytes);
    if (next.size == 0) return false;
    bytes.remove_prefix(next.size);
  }
  return true;
}

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) out += hex_digits(static_cast<unsigned char>(byte), 2);
  return out;
}

std::size_t width(std::string_view utf8) {
  std::size_t characters = 0;
  for (const char byte : utf8) characters += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  return characters;
}

std::string for_people(std::chrono::nanoseconds duration) {
  using namespace std::chrono;
  const auto number = [](auto value, const char* unit) { return std::to_string(value) + ' ' + unit; };
  if (duration < 1us) return number(duration.count(), "ns");
  if (duration < 1ms) return number(duration_cast<microseconds>(duration).count(), "us");
  if (duration < 1s) return number(duration_cast<milliseconds>(duration).count(), "ms");
  const auto total = duration_cast<seconds>(duration).count();
  const auto pair = [&](std::int64_t unit, const char* name, std::int64_t part, const char* part_name) {
    const auto rest = total % unit / part;
    return number(total / unit, name) + (rest == 0 ? "" : ' ' + number(rest, part_name));
  };
  if (total < 60) return number(total, "s");
  if (total < 3600) return pair(60, "min", 1, "s");
  if (total < 86400) return pair(3600, "h", 60, "min");
  return pair(86400, "d", 3600, "h");
}

std::string utc_time(std::chrono::system_clock::time_point time) {
  using namespace std::chrono;
  const auto whole = floor<seconds>(time);
  std::string millis = std::to_string(floor<milliseconds>(time - whole).count());
  millis.insert(0, 3 - millis.size(), '0');
  return time_text(system_clock::to_time_t(whole), false, "%Y-%m-%dT%H:%M:%S.") + millis + 'Z';
}

std::string local_time(std::chrono::system_clock::time_point time) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  return time_text(std::chrono::system_clock::to_time_t(whole), true, "%Y-%m-%d %H:%M:%S");
}

void complain(std::string_view message) {
  const std::string line = "lockr: " + std::string(message) + '\n';
  // Nobody is left to tell when standard error is gone.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

std::string describe(const Error& error) {
  std::string text = printable(error.message());
  if (!error.native().empty()) text += " (" + printable(error.native()) + ")";
  return text;
}

int failed(std::string_view message) {
  complain(message);
  return kFailed;
}

}  // namespace lockr::cli
