// The witness: what every key's holders do to memory that all processes share, while they hold it.
#pragma once

#include <atomic>
#include <cstdint>

#include "tests/torture/history.h"

namespace lockr::torture {

/// One key's. Zeroed memory is one that nobody holds.
struct alignas(128) Witness {
  std::atomic<std::uint32_t> owner{0};      ///< The writer inside: incarnation << 16 | slot + 1.
  std::atomic<std::uint64_t> readers{0};    ///< A bit for each slot inside.
  std::atomic<std::uint64_t> max_token{0};  ///< Of the guarded resource: it refuses smaller ones.
  std::atomic<std::uint64_t> entries{0};    ///< Writers that came in.
  volatile std::uint64_t counter = 0;       ///< The same, counted without any care: two writers at once lose some.
};

/// Who is inside and alive by what the coordinator knows: it sets a worker's `dying` before it kills, since the next
/// holder may be faster than whoever tidies up after the dead.
struct Liveness {
  std::atomic<std::uint16_t> incarnation{0};  ///< That was started last.
  std::atomic<std::uint16_t> dying{0};        ///< This incarnation, and all before it, may have left their marks.
};

constexpr std::uint32_t owner_word(int slot, std::uint16_t incarnation) {
  return static_cast<std::uint32_t>(incarnation) << 16 | static_cast<std::uint32_t>(slot + 1);
}
constexpr int slot_of(std::uint32_t owner) { return static_cast<int>(owner & 0xffff) - 1; }
constexpr std::uint16_t incarnation_of(std::uint32_t owner) { return static_cast<std::uint16_t>(owner >> 16); }

}  // namespace lockr::torture
