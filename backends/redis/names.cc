#include "backends/redis/names.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <utility>

namespace lockr::redis {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "?";
  std::string host = name.data();
  std::replace_if(
      host.begin(), host.end(), [](char c) { return c == ' ' || c == '\n'; }, '_');
  return host;
}

std::string random_name(spi::Runtime& runtime) {
  std::array<char, 32> digits{};
  std::string name;
  for (int i = 0; i < 2; ++i) {
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), runtime.random(), 36).ptr;
    name.append(digits.data(), end);
  }
  return name;
}

std::string_view take_word(std::string_view& text) {
  const std::size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

}  // namespace

Names::Names(std::string prefix, spi::Runtime& runtime)
    : runtime_(runtime),
      prefix_(std::move(prefix)),
      locks_(prefix_ + "l:"),
      queues_(prefix_ + "q:"),
      process_(random_name(runtime)),
      host_(host_name()),
      where_(" " + host_ + " " + std::to_string(::getpid()) + " "),
      client_("lockr/" + host_ + ":" + std::to_string(::getpid())) {}

// " host pid milliseconds label"
void Names::add_rest(std::string& text, std::string_view label) const {
  const auto wall = std::chrono::duration_cast<std::chrono::milliseconds>(runtime_.wall_now());
  text.append(where_).append(std::to_string(wall.count())).append(" ").append(label);
}

std::string Names::value(std::string_view label) {
  std::string text;
  text.reserve(process_.size() + where_.size() + label.size() + 40);
  text.append(process_).append(":").append(std::to_string(count_.fetch_add(1, std::memory_order_relaxed)));
  add_rest(text, label);
  return text;
}

std::string Names::member(Mode mode, std::string_view label) const {
  std::string text(letter(mode));
  text.append(" ").append(process_);
  add_rest(text, label);
  return text;
}

std::optional<Holder> holder_of(std::string_view row) {
  Holder holder;
  holder.mode = take_word(row) == "s" ? Mode::shared : Mode::exclusive;
  const std::string_view process = take_word(row);
  if (process == "r") return std::nullopt;
  const std::string_view host = take_word(row);
  const auto pid = number(take_word(row));
  const auto since = number(take_word(row));
  if (!pid || !since) return holder;
  holder.host = std::string(host);
  holder.pid = *pid;
  holder.since = std::chrono::system_clock::time_point(std::chrono::milliseconds(*since));
  holder.label = std::string(row);
  return holder;
}

}  // namespace lockr::redis
