#include "core/text.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace lockr::core {
namespace {

template <std::size_t N>
std::string_view nearest_of(std::string_view name, const std::array<std::string_view, N>& known) {
  return nearest(name, known);
}

TEST(Text, nearest_counts_replaced_added_and_missing_bytes) {
  EXPECT_EQ(nearest_of("labek", std::array<std::string_view, 2>{"limits", "label"}), "label");
  EXPECT_EQ(nearest_of("labell", std::array<std::string_view, 2>{"label-x", "label"}), "label");
  EXPECT_EQ(nearest_of("labl", std::array<std::string_view, 2>{"xabx", "label"}), "label");
  EXPECT_EQ(nearest_of("abc", std::array<std::string_view, 2>{"cba", "abd"}), "abd");
  EXPECT_EQ(nearest_of("", std::array<std::string_view, 2>{"abc", "ab"}), "ab");
}

TEST(Text, nearest_takes_the_first_of_equals_and_survives_long_names) {
  EXPECT_EQ(nearest_of("ax", std::array<std::string_view, 2>{"ab", "ac"}), "ab");
  EXPECT_EQ(nearest_of(std::string(1'000'000, 'x'), std::array<std::string_view, 2>{"ab", "xx"}), "xx");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Text, suggestion_names_the_nearest_and_all) {
  const std::array<std::string_view, 2> known{"memory", "file"};
  EXPECT_EQ(suggestion("fil", known), "the nearest known one is \"file\" (known: memory, file)");
  EXPECT_EQ(suggestion("fil", {}), "none is known");
}

TEST(Text, printable_hides_control_bytes_alone) {
  EXPECT_EQ(printable("a\n\x1b\x7f\x1f" + std::string(1, '\0')), "a\\x0a\\x1b\\x7f\\x1f\\x00");
  EXPECT_EQ(printable(" ~\\\"straße"), " ~\\\"straße");
}

TEST(Text, in_quotes_cuts_after_64_bytes) {
  EXPECT_EQ(in_quotes("a\tb"), "\"a\\x09b\"");
  EXPECT_EQ(in_quotes(std::string(64, 'x')), '"' + std::string(64, 'x') + '"');
  EXPECT_EQ(in_quotes(std::string(65, 'x')), '"' + std::string(64, 'x') + "...\"");
}

}  // namespace
}  // namespace lockr::core
