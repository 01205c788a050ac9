// What the fuzz targets share. A target reads bytes that libFuzzer makes up and ends the program where a promise of the
// library is broken; see https://llvm.org/docs/LibFuzzer.html.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "lockr/result.h"

namespace lockr::fuzz {

/// A promise; without it the input at hand is a finding.
inline void expect(bool promise, const char* words) {
  if (promise) return;
  std::fprintf(stderr, "broken promise: %s\n", words);
  std::abort();
}

/// Every error has a sentence that can be shown to a person: in one line, without control characters, within reason.
inline void expect_sentence(const Error& error) {
  expect(!error.message().empty(), "an error has a sentence");
  expect(error.message().size() < 8192, "an error's sentence is short");
  for (const char byte : error.message()) {
    expect(static_cast<unsigned char>(byte) >= 0x20 && byte != 0x7f, "an error's sentence is printable");
  }
}

/// Takes the input apart; past its end everything is 0.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto first = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return first;
  }
  std::size_t below(std::size_t bound) { return byte() % bound; }
  /// So many bytes, or what is left.
  std::string_view take(std::size_t count) {
    const std::string_view first = rest_.substr(0, count);
    rest_.remove_prefix(first.size());
    return first;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace lockr::fuzz
