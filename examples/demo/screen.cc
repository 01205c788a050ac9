#include "screen.h"

#include <unistd.h>

#include <cstdio>

namespace demo {

using namespace std::chrono_literals;

Screen::Screen() : terminal_(::isatty(STDOUT_FILENO) == 1) {}

void Screen::title(std::string_view text) {
  line("");
  if (terminal_) std::fputs("\033[1m", stdout);
  std::fwrite(text.data(), 1, text.size(), stdout);
  line(terminal_ ? "\033[0m" : "");
}

void Screen::line(std::string_view text) {
  clear_live_line();
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

void Screen::progress(const std::string& text) {
  if (terminal_) {
    clear_live_line();
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    live_ = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_plain_line_ < 1s) return;
  last_plain_line_ = now;
  line(text);
}

void Screen::expect(bool kept, std::string_view promise) {
  all_kept_ = all_kept_ && kept;
  const std::string_view verdict = kept ? "ok   " : "FAIL ";
  const std::string_view colour = !terminal_ ? "" : kept ? "\033[32m" : "\033[31m";
  std::string text = "  ";
  text.append(colour).append(verdict).append(terminal_ ? "\033[0m" : "").append(promise);
  line(text);
}

void Screen::clear_live_line() {
  if (live_) std::fputs("\r\033[K", stdout);
  live_ = false;
}

std::string indented(std::string text) {
  const std::string margin = "  | ";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (std::size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
    text.insert(at + 1, margin);
  }
  return margin + text;
}

std::string with_commas(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, ",");
  return digits;
}

std::string readable(std::chrono::nanoseconds duration) {
  double value = static_cast<double>(duration.count());
  const char* unit = "ns";
  for (const char* larger : {"µs", "ms", "s"}) {
    if (value < 1000) break;
    value /= 1000;
    unit = larger;
  }
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.1f %s" : "%.0f %s", value, unit);
  return text;
}

}  // namespace demo
