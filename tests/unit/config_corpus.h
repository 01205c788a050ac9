// The configs of the tests, for the comparison of lockr's verdicts with those of its JSON Schema.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

namespace lockr {

/// With LOCKR_CONFIG_CORPUS adds the text to the file that it names, one text a line, in hexadecimal.
inline void add_to_corpus(const std::string& text) {
  const char* const corpus = std::getenv("LOCKR_CONFIG_CORPUS");
  if (!corpus || text.size() > 100'000) return;
  std::ofstream file(corpus, std::ios::app);
  for (const char c : text) {
    file << "0123456789abcdef"[static_cast<unsigned char>(c) >> 4] << "0123456789abcdef"[c & 15];
  }
  file << '\n';
}

}  // namespace lockr
