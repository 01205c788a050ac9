// Bytes in an array of atomic words, which another process may read or write at any moment.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "backends/file/layout.h"

namespace lockr::file {

inline constexpr std::size_t words_for(std::size_t bytes) noexcept { return (bytes + 7) / 8; }

static_assert(std::endian::native == std::endian::little);

/// Writes what fits; the rest of the last word is zero. Words that are not needed stay as they are.
inline void store_text(std::span<Word> words, std::string_view text) noexcept {
  const std::size_t bytes = std::min(text.size(), words.size() * 8);
  std::uint64_t word = 0;
  for (std::size_t at = 0; at + 8 <= bytes; at += 8) {
    std::memcpy(&word, text.data() + at, 8);
    words[at / 8].store(word, std::memory_order_relaxed);
  }
  const std::size_t rest = bytes % 8;
  if (rest == 0) return;
  if (bytes >= 8) {  // The last eight bytes, shifted: no loop, no call, as this is on the path of every acquisition.
    std::memcpy(&word, text.data() + bytes - 8, 8);
    word >>= 8 * (8 - rest);
  } else {
    word = 0;
    for (std::size_t at = 0; at < rest; ++at) word |= std::uint64_t{static_cast<std::uint8_t>(text[at])} << 8 * at;
  }
  words[bytes / 8].store(word, std::memory_order_relaxed);
}

/// Reads `bytes`, or as many as there are.
inline std::string load_text(std::span<const Word> words, std::size_t bytes) {
  bytes = std::min(bytes, words.size() * 8);
  std::string text(words_for(bytes) * 8, '\0');
  for (std::size_t at = 0; at * 8 < bytes; ++at) {
    const std::uint64_t word = words[at].load(std::memory_order_relaxed);
    std::memcpy(text.data() + at * 8, &word, 8);
  }
  text.resize(bytes);
  return text;
}

}  // namespace lockr::file
