// What the demo prints: plain lines, and on a terminal one line that is rewritten while something runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace demo {

class Screen {
 public:
  Screen();

  // A heading, after an empty line.
  void title(std::string_view text);
  void line(std::string_view text);
  // How far it is: rewrites the live line on a terminal, prints a line once a second elsewhere.
  void progress(const std::string& text);
  // Something that the demo promises: prints it with its verdict and remembers a failure.
  void expect(bool kept, std::string_view promise);

  bool all_kept() const { return all_kept_; }

 private:
  void clear_live_line();

  const bool terminal_;
  bool live_ = false;
  bool all_kept_ = true;
  std::chrono::steady_clock::time_point last_plain_line_{};
};

// What a program printed, set off from our own lines.
std::string indented(std::string text);
// "1,234,567"
std::string with_commas(std::uint64_t number);
// "3.1 µs", "12 ms"
std::string readable(std::chrono::nanoseconds duration);

}  // namespace demo
