#include "lockr/result.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <system_error>

namespace lockr {
namespace {

constexpr int kCodes = static_cast<int>(errc::backend_failure);

TEST(Errc, names_and_sentences_are_all_different) {
  std::set<std::string> names;
  std::set<std::string> sentences;
  for (int code = 1; code <= kCodes; ++code) {
    names.insert(name_of(static_cast<errc>(code)));
    sentences.insert(Error(static_cast<errc>(code)).message());
  }
  EXPECT_EQ(names.size(), kCodes);
  EXPECT_EQ(sentences.size(), kCodes);
  EXPECT_FALSE(names.contains("unknown"));
  EXPECT_STREQ(name_of(errc::not_acquired), "not_acquired");
  EXPECT_STREQ(name_of(errc::incompatible_plugin), "incompatible_plugin");
  EXPECT_STREQ(name_of(static_cast<errc>(200)), "unknown");
}

TEST(Errc, is_a_std_error_code) {
  const std::error_code code = errc::lock_lost;
  EXPECT_STREQ(code.category().name(), "lockr");
  EXPECT_EQ(code.value(), static_cast<int>(errc::lock_lost));
  EXPECT_EQ(code.message(), Error(errc::lock_lost).message());
  EXPECT_NE(code, std::error_code(errc::timeout));
}

TEST(Errc, equals_the_std_errc_that_fits) {
  EXPECT_EQ(make_error_code(errc::timeout), std::errc::timed_out);
  EXPECT_EQ(make_error_code(errc::cancelled), std::errc::operation_canceled);
  EXPECT_EQ(make_error_code(errc::access_denied), std::errc::permission_denied);
  EXPECT_EQ(make_error_code(errc::deadlock), std::errc::resource_deadlock_would_occur);
  EXPECT_NE(make_error_code(errc::not_acquired), std::errc::timed_out);
  EXPECT_EQ(make_error_code(errc::capacity).default_error_condition().category(), error_category());
}

TEST(Error, knows_which_failures_pass_by_themselves) {
  const std::set<errc> retryable{errc::not_acquired, errc::timeout, errc::session_busy, errc::connection_lost,
                                 errc::capacity};
  for (int i = 1; i <= kCodes; ++i) {
    const auto code = static_cast<errc>(i);
    EXPECT_EQ(Error(code).retryable(), retryable.contains(code)) << name_of(code);
    EXPECT_EQ(Error(code, "words").retryable(), retryable.contains(code)) << name_of(code);
    EXPECT_EQ(Error(code).with_retryable(!retryable.contains(code)).retryable(), !retryable.contains(code));
  }
}

TEST(Error, a_bare_code_has_no_details) {
  const Error error(errc::timeout);
  EXPECT_EQ(error.code(), errc::timeout);
  EXPECT_EQ(error.message(), "the key stayed taken until the timeout passed; nothing was acquired");
  EXPECT_EQ(error.native(), "");
  EXPECT_EQ(error.key(), "");
  EXPECT_EQ(error.may_hold_until(), std::nullopt);
  EXPECT_EQ(error.to_string(), "timeout: the key stayed taken until the timeout passed; nothing was acquired");
}

TEST(Error, carries_what_was_added) {
  const auto error = Error(errc::connection_lost, "the server went away")
                         .with_native("57P01")
                         .with_key("tenant:42")
                         .with_may_hold_until(std::chrono::seconds(7));
  EXPECT_EQ(error.message(), "the server went away");
  EXPECT_EQ(error.native(), "57P01");
  EXPECT_EQ(error.key(), "tenant:42");
  EXPECT_EQ(error.may_hold_until(), std::chrono::seconds(7));
  EXPECT_TRUE(error.retryable());
  EXPECT_EQ(error.to_string(), "connection_lost: the server went away (57P01)");
}

TEST(Error, details_on_a_bare_code_keep_its_sentence) {
  const auto error = Error(errc::capacity).with_native("EMFILE");
  EXPECT_EQ(error.message(), Error(errc::capacity).message());
  EXPECT_EQ(error.native(), "EMFILE");
}

TEST(Error, a_change_of_a_copy_leaves_the_original_alone) {
  const auto original = Error(errc::deadlock, "first").with_key("a");
  const auto copy = Error(original).with_key("b").with_native("x");
  EXPECT_EQ(original.key(), "a");
  EXPECT_EQ(original.native(), "");
  EXPECT_EQ(copy.key(), "b");
  EXPECT_EQ(copy.message(), "first");
}

TEST(Result, holds_a_value_or_an_error) {
  const Result<int> good = 5;
  const Result<int> bad = fail(errc::unsupported, "no");
  ASSERT_TRUE(good);
  EXPECT_EQ(*good, 5);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().message(), "no");
}

}  // namespace
}  // namespace lockr
