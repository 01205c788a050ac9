// The parts of the program that need no process.
#include "cli/text.h"

#include <gtest/gtest.h>

#include "cli/settings.h"

namespace lockr::cli {
namespace {

using std::chrono_literals::operator""ns;
using std::chrono_literals::operator""us;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using std::chrono_literals::operator""h;

TEST(Text, printable_keeps_utf8_and_escapes_what_drives_a_terminal) {
  EXPECT_EQ(printable("tenant:42 größe 鍵 🔒"), "tenant:42 größe 鍵 🔒");
  EXPECT_EQ(printable("\x1b[31m\a\n\t\r\x7f"), "\\x1b[31m\\x07\\n\\t\\r\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"), "\\u{009b}") << "the one-character CSI";
  EXPECT_EQ(printable("a\xe2\x80\xae"), "a\\u{202e}") << "right-to-left override";
  EXPECT_EQ(printable("\\x1b"), "\\\\x1b");
}

TEST(Text, printable_escapes_bytes_that_are_not_utf8) {
  EXPECT_EQ(printable("\xff"), "\\xff");
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(printable("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(printable("ab\xe2\x82"), "ab\\xe2\\x82") << "cut short";
}

TEST(Text, json_strings_are_ascii) {
  EXPECT_EQ(json_string("a\"b\\c"), R"("a\"b\\c")");
  EXPECT_EQ(json_string("\x1b\n\x7f"), R"("\u001b\u000a\u007f")");
  EXPECT_EQ(json_string("ö🔒"), R"("\u00f6\ud83d\udd12")");
  EXPECT_EQ(json_string("a\xff"), R"("a\ufffd")");
  EXPECT_TRUE(is_utf8("ö🔒"));
  EXPECT_FALSE(is_utf8("a\xff"));
  EXPECT_EQ(hex("a\xff"), "61ff");
}

TEST(Text, durations_are_for_people) {
  EXPECT_EQ(for_people(0ns), "0 ns");
  EXPECT_EQ(for_people(999us), "999 us");
  EXPECT_EQ(for_people(250ms), "250 ms");
  EXPECT_EQ(for_people(59s), "59 s");
  EXPECT_EQ(for_people(60s), "1 min");
  EXPECT_EQ(for_people(200s), "3 min 20 s");
  EXPECT_EQ(for_people(5h), "5 h");
  EXPECT_EQ(for_people(49h), "2 d 1 h");
}

TEST(Text, times_are_utc_with_milliseconds) {
  EXPECT_EQ(utc_time(std::chrono::system_clock::time_point(1777627800250ms)), "2026-05-01T09:30:00.250Z");
  EXPECT_EQ(utc_time(std::chrono::system_clock::time_point(5ms)), "1970-01-01T00:00:00.005Z");
}

TEST(Settings, finds_passwords_in_urls) {
  for (const char* url :
       {"postgresql://app:s3cret@db/app", "redis://:s3cret@cache:6379/0", "rediss://app:s3/cr@t@cache",
        "redis://:s3?cret@cache", "postgresql://db/app?password=s3cret", "postgresql://db/app?user=a&PassWord=s3cret",
        "postgresql://db/app?%70assword=s3cret", "postgresql://db?sslpassword=s3cret", "host=db password=s3cret"}) {
    EXPECT_TRUE(has_password(url)) << url;
  }
}

TEST(Settings, finds_no_password_where_there_is_none) {
  for (const char* url :
       {"file:", "file:/srv/a:b@c", "memory:", "postgresql://app@db:5432/app", "postgresql://db:5432/app",
        "postgresql://app:@db/app", "postgresql://app:${PGPASSWORD}@db/app",
        "postgresql://db/app?password=${file:/run/secrets/pg}", "postgresql://db/app?passfile=/root/p",
        "redis://cache:6379/0?client=a@b", "postgresql://db/app?sslmode=require"}) {
    EXPECT_FALSE(has_password(url)) << url;
  }
}

}  // namespace
}  // namespace lockr::cli
