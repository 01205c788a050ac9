// Text for people and for programs: what came from users is escaped, so that it can't drive a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "lockr/result.h"

namespace lockr::cli {

/// Printable UTF-8 as it is; control characters, bytes that are not UTF-8, invisible direction marks and the backslash
/// as `\n`, `\x1b`, `\u{202e}`, `\\`.
std::string printable(std::string_view bytes);

/// A JSON string with its quotes, in ASCII. Bytes that are not UTF-8 become U+FFFD; is_utf8() tells beforehand.
std::string json_string(std::string_view bytes);
bool is_utf8(std::string_view bytes);

/// Lower-case hexadecimal of the bytes.
std::string hex(std::string_view bytes);

/// The number of characters of UTF-8 text, for columns.
std::size_t width(std::string_view utf8);

/// "450 ms", "12 s", "3 min 20 s", "5 h 10 min", "2 d 3 h": a duration to read, not to parse.
std::string for_people(std::chrono::nanoseconds duration);

/// "2026-05-01T09:30:00.250Z".
std::string utc_time(std::chrono::system_clock::time_point time);
/// "2026-05-01 11:30:00" in the local time zone.
std::string local_time(std::chrono::system_clock::time_point time);

/// Writes "lockr: " and the message as one line to standard error, in one write.
void complain(std::string_view message);
/// Complains, and is the exit status of a command that could not do its work.
int failed(std::string_view message);
/// An error's sentence with the engine's own words, printable.
std::string describe(const Error& error);

}  // namespace lockr::cli
