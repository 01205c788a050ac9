#include <algorithm>
#include <array>
#include <cstdint>

#include "lockr/config.h"
#include "lockr/locker.h"

namespace lockr {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t nanoseconds;
};

constexpr std::array<Unit, 6> kUnits{{{"h", 3'600'000'000'000},
                                      {"m", 60'000'000'000},
                                      {"s", 1'000'000'000},
                                      {"ms", 1'000'000},
                                      {"us", 1'000},
                                      {"ns", 1}}};

constexpr std::string_view kForever = "forever";

tl::unexpected<Error> invalid(std::string_view message) { return fail(errc::invalid_config, std::string(message)); }

tl::unexpected<Error> not_a_duration() {
  return invalid("expected a duration, one number and its unit (ns, us, ms, s, m or h) such as \"1.5s\"");
}

std::string_view take_digits(std::string_view& text) noexcept {
  const auto end = std::find_if(text.begin(), text.end(), [](char c) { return c < '0' || c > '9'; });
  const std::string_view digits = text.substr(0, static_cast<std::size_t>(end - text.begin()));
  text.remove_prefix(digits.size());
  return digits;
}

}  // namespace

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  if (text == kForever) return forever;
  const std::string_view whole = take_digits(text);
  std::string_view fraction;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    fraction = take_digits(text);
    if (fraction.empty()) return not_a_duration();
  }
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return u.name == text; });
  if (whole.empty() || unit == kUnits.end()) return not_a_duration();

  std::int64_t total = 0;
  bool too_long = false;
  for (const char digit : whole) {
    too_long =
        too_long || __builtin_mul_overflow(total, 10, &total) || __builtin_add_overflow(total, digit - '0', &total);
  }
  too_long = too_long || __builtin_mul_overflow(total, unit->nanoseconds, &total);
  std::int64_t place = unit->nanoseconds;
  for (const char digit : fraction) {
    if (digit != '0' && place % 10 != 0) return invalid("expected a duration of whole nanoseconds");
    place /= 10;
    too_long = too_long || __builtin_add_overflow(total, (digit - '0') * place, &total);
  }
  // The largest number stands for "forever".
  if (too_long || total == forever.count()) return invalid("expected a duration below 292 years, or \"forever\"");
  return std::chrono::nanoseconds(total);
}

std::string format_duration(std::chrono::nanoseconds duration) {
  if (duration == forever) return std::string(kForever);
  if (duration.count() == 0) return "0s";
  const auto exact = [&](const Unit& unit) { return duration.count() % unit.nanoseconds == 0; };
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(), exact);
  return std::to_string(duration.count() / unit->nanoseconds).append(unit->name);
}

}  // namespace lockr
