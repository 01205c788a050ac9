// Words for error messages: quoting what a person wrote, and guessing what they meant.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockr::core {

/// The text with control bytes as \xNN, safe for a terminal and a log.
std::string printable(std::string_view text);

/// printable() in double quotes, cut after 64 bytes.
std::string in_quotes(std::string_view text);

/// What stands between the spaces; nothing of null.
std::vector<std::string_view> split_words(const char* text);

/// The known name with the least edit distance; the first of equals. Empty when none is known.
std::string_view nearest(std::string_view name, std::span<const std::string_view> known) noexcept;

/// `the nearest known one is "file" (known: memory, file)`, or `none is known`.
std::string suggestion(std::string_view name, std::span<const std::string_view> known);

}  // namespace lockr::core
