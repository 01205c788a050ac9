#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "backends/file/directory.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using testing::TempDirectory;

bool accept_none(std::string_view) { return false; }

long faked_type = 0;
long fake_type(int) { return faked_type; }

void expect_refused(const Result<Directory>& result, errc code, const std::string& part) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), code);
  EXPECT_NE(result.error().message().find(part), std::string::npos) << result.error().message();
}

TEST(FileDirectory, is_made_for_its_owner_alone) {
  const TempDirectory temp;
  ::umask(0);
  const auto made = open_directory(temp / "locks", {}, accept_none);
  ::umask(022);
  ASSERT_TRUE(made) << made.error().to_string();
  EXPECT_EQ(made->stat.st_mode & 07777, 0700u);
  EXPECT_EQ(made->stat.st_uid, ::geteuid());
  EXPECT_EQ(made->file_mode(), 0600u);
}

TEST(FileDirectory, is_made_for_a_group) {
  const TempDirectory temp;
  const auto made = open_directory(temp / "locks", ::getegid(), accept_none);
  ASSERT_TRUE(made) << made.error().to_string();
  EXPECT_EQ(made->stat.st_mode & 07777, 02770u);
  EXPECT_EQ(made->stat.st_gid, ::getegid());
  EXPECT_EQ(made->file_mode(), 0660u);
}

TEST(FileDirectory, that_is_there_is_used_as_it_is) {
  const TempDirectory temp;
  ASSERT_TRUE(open_directory(temp.path(), {}, accept_none));
  ASSERT_TRUE(open_directory(temp.path() + "/", {}, accept_none));
  struct stat found {};
  ASSERT_EQ(::stat(temp.path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
}

TEST(FileDirectory, needs_a_parent) {
  const TempDirectory temp;
  expect_refused(open_directory(temp / "a/b", {}, accept_none), errc::invalid_config, "no parent directory");
}

TEST(FileDirectory, can_not_be_a_file) {
  const TempDirectory temp;
  std::fclose(std::fopen((temp / "file").c_str(), "w"));
  expect_refused(open_directory(temp / "file", {}, accept_none), errc::invalid_config, "not a directory");
}

TEST(FileDirectory, behind_a_symbolic_link_is_a_risk) {
  const TempDirectory temp;
  ASSERT_EQ(::mkdir((temp / "real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("real", (temp / "link").c_str()), 0);
  for (const std::string& path : {temp / "link", temp / "link/", temp / "link//"}) {
    const auto refused = open_directory(path, {}, accept_none);
    expect_refused(refused, errc::unsafe_setup, "symbolic link");
    expect_refused(refused, errc::unsafe_setup, R"("accept_risk": ["shared_directory"])");
  }
  EXPECT_TRUE(open_directory(temp / "link", {}, [](std::string_view risk) { return risk == "shared_directory"; }));
}

TEST(FileDirectory, that_others_may_write_is_a_risk) {
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 0777), 0);
  expect_refused(open_directory(temp.path(), {}, accept_none), errc::unsafe_setup, "chmod o-w");
  expect_refused(open_directory(temp.path(), ::getegid(), accept_none), errc::unsafe_setup, "chmod o-w");
  ASSERT_EQ(::chmod(temp.path().c_str(), 01777), 0);
  expect_refused(open_directory(temp.path(), {}, accept_none), errc::unsafe_setup, "shared_directory");
  EXPECT_TRUE(open_directory(temp.path(), {}, [](std::string_view risk) { return risk == "shared_directory"; }));
}

TEST(FileDirectory, that_a_group_may_write_needs_the_group_named) {
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 0770), 0);
  expect_refused(open_directory(temp.path(), {}, accept_none), errc::unsafe_setup, "chmod g-w");
  EXPECT_TRUE(open_directory(temp.path(), ::getegid(), accept_none));
  expect_refused(open_directory(temp.path(), ::getegid() + 1, accept_none), errc::unsafe_setup, "group");
}

TEST(FileDirectory, on_a_local_file_system_is_fine) {
  const TempDirectory temp;
  for (const long type :
       {0xef53L, 0x58465342L, 0x9123683eL, 0x01021994L, 0x794c7630L, 0x2fc12fc1L, 0xf2f52010L, 0x858458f6L}) {
    faked_type = type;
    EXPECT_TRUE(open_directory(temp.path(), {}, accept_none, fake_type)) << std::hex << type;
  }
}

TEST(FileDirectory, on_a_network_or_unknown_file_system_is_a_risk) {
  const TempDirectory temp;
  const std::pair<long, const char*> types[] = {{0x6969, "nfs"},           {0xff534d42, "cifs"}, {0xfe534d42, "smb2"},
                                                {0x01021997, "9p"},        {0x65735546, "fuse"}, {0x00c36400, "ceph"},
                                                {0x1234abcd, "0x1234abcd"}};
  for (const auto& [type, name] : types) {
    faked_type = type;
    const auto refused = open_directory(temp.path(), {}, accept_none, fake_type);
    expect_refused(refused, errc::unsafe_setup, name);
    expect_refused(refused, errc::unsafe_setup, R"("accept_risk": ["network_file_system"])");
    const auto accepts = [](std::string_view risk) { return risk == "network_file_system"; };
    EXPECT_TRUE(open_directory(temp.path(), {}, accepts, fake_type)) << name;
  }
}

TEST(FileDirectory, trusts_only_regular_files_with_one_name) {
  const TempDirectory temp;
  const auto directory = open_directory(temp.path(), {}, accept_none);
  ASSERT_TRUE(directory);
  std::fclose(std::fopen((temp / "file").c_str(), "w"));
  struct stat found {};
  ASSERT_EQ(::stat((temp / "file").c_str(), &found), 0);
  EXPECT_TRUE(directory->trusts(found));
  ASSERT_EQ(::link((temp / "file").c_str(), (temp / "other").c_str()), 0);
  ASSERT_EQ(::stat((temp / "file").c_str(), &found), 0);
  EXPECT_FALSE(directory->trusts(found));
  ASSERT_EQ(::stat(temp.path().c_str(), &found), 0);
  EXPECT_FALSE(directory->trusts(found));
}

TEST(FileDirectory, of_a_shared_group_trusts_its_members_files) {
  struct stat file {};
  file.st_mode = S_IFREG | 0660;
  file.st_nlink = 1;
  file.st_uid = ::geteuid() + 1;
  file.st_gid = 4711;
  Directory directory{.path = "/x", .fd = Descriptor(-1), .stat = {}, .group = {}};
  directory.stat.st_uid = ::geteuid();
  EXPECT_FALSE(directory.trusts(file));
  directory.group = 4711;
  EXPECT_TRUE(directory.trusts(file));
  directory.group = 4712;
  EXPECT_FALSE(directory.trusts(file));
}

TEST(FileDirectory, default_is_named_by_the_environment_or_the_user) {
  ASSERT_EQ(::setenv("LOCKR_DIR", "/a/b", 1), 0);
  EXPECT_EQ(default_directory().value(), "/a/b");
  ASSERT_EQ(::setenv("LOCKR_DIR", "a/b", 1), 0);
  const auto relative = default_directory();
  ASSERT_FALSE(relative);
  EXPECT_EQ(relative.error().code(), errc::invalid_config);
  EXPECT_NE(relative.error().message().find("LOCKR_DIR"), std::string::npos);
  ASSERT_EQ(::setenv("LOCKR_DIR", "", 1), 0);
  const std::string path = default_directory().value();
  const std::string name = "/lockr-" + std::to_string(::geteuid());
  EXPECT_TRUE(path == "/run/lock" + name || path == "/tmp" + name) << path;
  ::unsetenv("LOCKR_DIR");
}

}  // namespace
}  // namespace lockr::file
