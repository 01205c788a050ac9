// Two keys of one hash: where the engine locks hashes, they are one lock.
#pragma once

#include <utility>

#include "lockr/key.h"

namespace lockr::testing {

/// Made by solving XXH3's formula for 16 bytes, where one half cancels out when it equals a constant.
inline std::pair<Key, Key> keys_of_one_hash() {
  constexpr std::string_view kFirst = "\xb9\x39\x42\xea\x7b\x73\x82\x67\x2f\x2e\xdc\x76\x82\xc5\x61\x31";
  constexpr std::string_view kSecond = "\x27\x0e\x3b\x53\x04\x39\xfe\x72:\x52\x96\x09\x3b\xbc\x56\xaf";
  return {Key::parse(kFirst).value(), Key::parse(kSecond).value()};
}

}  // namespace lockr::testing
