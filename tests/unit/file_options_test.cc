#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "backends/file/errors.h"
#include "backends/file/options.h"
#include "lockr/config.h"
#include "tests/unit/config_corpus.h"

namespace lockr::file {
namespace {

Result<Options> from_json(const std::string& section) {
  const std::string text = R"({"backend": "file", "file": )" + section + "}";
  add_to_corpus(text);
  const auto config = LockerConfig::from_json(text);
  if (!config) return fail(config.error());
  return read_options(config->section());
}

Result<Options> from_url(const std::string& url) {
  const auto config = LockerConfig::from_url(url);
  if (!config) return fail(config.error());
  return read_options(config->section());
}

void expect_invalid(const Result<Options>& result, const std::string& part) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), errc::invalid_config);
  EXPECT_NE(result.error().message().find(part), std::string::npos) << result.error().message();
}

TEST(FileOptions, are_all_optional) {
  const auto options = from_json("{}");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->directory, "");
  EXPECT_FALSE(options->group);
}

TEST(FileOptions, take_a_directory_and_a_group) {
  const auto options = from_json(R"({"directory": "/run/x", "group": "root"})");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->directory, "/run/x");
  EXPECT_EQ(options->group, gid_t{0});
  EXPECT_EQ(from_json(R"({"group": "4711"})")->group, gid_t{4711});
}

TEST(FileOptions, refuse_what_they_do_not_know) {
  expect_invalid(from_json(R"({"directroy": "/x"})"), "/file/directroy");
  expect_invalid(from_json(R"({"directory": 1})"), "/file/directory");
  expect_invalid(from_json(R"({"directory": "run/x"})"), "an absolute path");
  expect_invalid(from_json(R"({"directory": "/x\u0000y"})"), "NUL");
  expect_invalid(from_json(R"({"group": "no-such-group-here"})"), "/file/group");
  expect_invalid(from_json(R"({"group": ""})"), "/file/group");
}

TEST(FileOptions, come_from_a_url) {
  EXPECT_EQ(from_url("file:")->directory, "");
  EXPECT_EQ(from_url("file:/a/b")->directory, "/a/b");
  EXPECT_EQ(from_url("file:///a/b")->directory, "/a/b");
  EXPECT_EQ(from_url("file:/a%20b%3f")->directory, "/a b?");
  const auto shared = from_url("file:/a?group=root");
  ASSERT_TRUE(shared);
  EXPECT_EQ(shared->directory, "/a");
  EXPECT_EQ(shared->group, gid_t{0});
}

TEST(FileOptions, refuse_other_urls) {
  for (const char* url : {"file:a/b", "file://host/a", "file:/a%2", "file:/a%00", "file:/a%zz", "file:/a?mode=1",
                          "file:/a?group=no-such-group-here"}) {
    SCOPED_TRACE(url);
    expect_invalid(from_url(url), "the URL");
  }
}

TEST(FileErrors, say_what_to_do_and_keep_the_number) {
  const Error full = from_errno(ENOSPC, "can't write");
  EXPECT_EQ(full.code(), errc::capacity);
  EXPECT_EQ(full.native(), "ENOSPC (28)");
  EXPECT_EQ(full.message().rfind("can't write: ", 0), 0u);
  EXPECT_EQ(from_errno(EMFILE, "x").code(), errc::capacity);
  EXPECT_NE(from_errno(EMFILE, "x").message().find("ulimit -n"), std::string::npos);
  EXPECT_EQ(from_errno(EACCES, "x").code(), errc::access_denied);
  EXPECT_EQ(from_errno(EIO, "x").code(), errc::backend_failure);
}

TEST(FileErrors, quote_paths_safely) {
  EXPECT_EQ(in_quotes("/a b"), "\"/a b\"");
  EXPECT_EQ(in_quotes("/a\x1b[31m\n"), "\"/a\\x1b[31m\\x0a\"");
  EXPECT_EQ(in_quotes(std::string(300, 'x')), "\"" + std::string(256, 'x') + "\"...");
}

}  // namespace
}  // namespace lockr::file
