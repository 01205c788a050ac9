// The file backend where the system refuses: permissions, a full disk, no descriptors left.
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using spi::Answer;
using spi::Request;
using testing::Child;
using testing::Party;
using testing::TempDirectory;

constexpr uid_t kNobody = 65534;
constexpr uid_t kSomebody = 65533;
constexpr gid_t kGroup = 65532;

/// Runs the body in a child and expects all of it to hold there; a failed expectation is printed by the child.
void in_child(const std::function<void()>& body) {
  Child child([&](const Child::Link&) {
    body();
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(child.wait(), 0);
}

/// The same as a user without privileges: root would be refused nothing.
void as_user(uid_t user, std::vector<gid_t> groups, const std::function<void()>& body) {
  in_child([&] {
    if (::geteuid() == 0) {
      ASSERT_EQ(::setgroups(groups.size(), groups.data()), 0);
      ASSERT_EQ(::setresgid(user, user, user), 0);
      ASSERT_EQ(::setresuid(user, user, user), 0);
    }
    body();
  });
}

void expect_refused(const Status& opened, errc code, const std::string& part) {
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), code) << opened.error().to_string();
  EXPECT_NE(opened.error().message().find(part), std::string::npos) << opened.error().message();
}

#define NEEDS_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be several users"

TEST(FileRefusals, a_directory_that_may_not_be_entered) {
  NEEDS_ROOT();
  const TempDirectory temp;
  as_user(kNobody, {}, [&] {
    const Party party(temp.path());
    expect_refused(party.opened(), errc::access_denied, "can't open the lock directory");
    EXPECT_EQ(party.opened().error().native(), "EACCES (13)");
  });
}

TEST(FileRefusals, a_directory_that_may_not_be_made) {
  as_user(kNobody, {}, [] {
    const Party party("/lockr-test-directory");
    expect_refused(party.opened(), errc::access_denied, "can't make the lock directory \"/lockr-test-directory\"");
  });
}

TEST(FileRefusals, a_directory_that_may_not_be_written) {
  NEEDS_ROOT();
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 0755), 0);
  as_user(kNobody, {}, [&] {
    const Party party(temp.path());
    expect_refused(party.opened(), errc::access_denied, "state");
  });
}

TEST(FileRefusals, somebody_elses_directory) {
  NEEDS_ROOT();
  const TempDirectory temp;
  ASSERT_EQ(::chown(temp.path().c_str(), kSomebody, kSomebody), 0);
  ASSERT_EQ(::chmod(temp.path().c_str(), 0755), 0);
  as_user(kNobody, {}, [&] {
    const Party party(temp.path());
    expect_refused(party.opened(), errc::unsafe_setup, "belongs to user 65533");
    expect_refused(party.opened(), errc::unsafe_setup, "shared_directory");
  });
  // Root is told as well: the owner could take its locks away.
  const Party party(temp.path());
  expect_refused(party.opened(), errc::unsafe_setup, "belongs to user 65533");
}

TEST(FileRefusals, files_of_another_user) {
  NEEDS_ROOT();
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 01777), 0);
  as_user(kSomebody, {}, [&] {
    const Party party(temp.path(), {.risks = {"shared_directory"}});
    EXPECT_TRUE(party.opened());
    EXPECT_EQ(::chmod((temp / "state").c_str(), 0666), 0);
  });
  as_user(kNobody, {}, [&] {
    const Party party(temp.path(), {.risks = {"shared_directory"}});
    expect_refused(party.opened(), errc::unsafe_setup, "not a file that lockr made");
  });
}

TEST(FileRefusals, nothing_to_the_members_of_a_group) {
  NEEDS_ROOT();
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 01777), 0);
  const std::string path = temp / "locks";
  as_user(kSomebody, {kGroup}, [&] {
    ::umask(077);
    Party party(path, {.group = kGroup});
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    EXPECT_TRUE(party.take("key"));
  });
  as_user(kNobody, {kGroup}, [&] {
    Party party(path, {.group = kGroup});
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    EXPECT_TRUE(party.take("key"));
    struct stat found {};
    ASSERT_EQ(::stat((path + "/lock-000").c_str(), &found), 0);
    EXPECT_EQ(found.st_gid, kGroup);
    EXPECT_EQ(found.st_mode & 07777, 0660u);
  });
  as_user(kNobody, {}, [&] {
    const Party stranger(path, {.group = kGroup});
    EXPECT_EQ(stranger.opened().error().code(), errc::access_denied);
  });
}

TEST(FileRefusals, two_users_of_a_group_exclude_each_other) {
  NEEDS_ROOT();
  const TempDirectory temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 01777), 0);
  const std::string path = temp / "locks";
  Child holder([&](const Child::Link& link) {
    if (::setgroups(1, &kGroup) != 0 || ::setresgid(kSomebody, kSomebody, kSomebody) != 0 ||
        ::setresuid(kSomebody, kSomebody, kSomebody) != 0) {
      return 1;
    }
    Party party(path, {.group = kGroup});
    if (!party.opened() || !party.take("key")) return 2;
    link.say('h');
    link.hear();
    return 0;
  });
  ASSERT_EQ(holder.hear(), 'h');
  as_user(kNobody, {kGroup}, [&] {
    Party party(path, {.group = kGroup});
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    EXPECT_FALSE(party.take("key"));
    ASSERT_EQ(party.holders("key").size(), 1u);
    EXPECT_EQ(party.holders("key")[0].pid, holder.pid());
  });
}

/// Runs the body where `path` is a tmpfs of these options, in mount and user namespaces of its own.
void on_tmpfs(const std::string& path, const char* options, const std::function<void()>& body) {
  in_child([&] {
    const uid_t user = ::geteuid();
    const gid_t group = ::getegid();
    ASSERT_EQ(::unshare(CLONE_NEWNS | (user == 0 ? 0 : CLONE_NEWUSER)), 0) << "no mount namespace to be had";
    if (user != 0) {
      std::ofstream("/proc/self/setgroups") << "deny";
      std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
      std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
    }
    ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_EQ(::mount("tmpfs", path.c_str(), "tmpfs", 0, options), 0);
    body();
  });
}

void fill(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const std::vector<char> block(4096, 'x');
  while (::write(fd.get(), block.data(), block.size()) > 0) {
  }
}

TEST(FileRefusals, a_disk_too_small_for_the_state) {
  const TempDirectory temp;
  on_tmpfs(temp.path(), "size=256k,mode=700", [&] {
    {
      const Party party(temp.path());
      expect_refused(party.opened(), errc::capacity, "can't allocate");
      EXPECT_EQ(party.opened().error().native(), "ENOSPC (28)");
      EXPECT_TRUE(party.opened().error().retryable());
    }
    struct stat found {};
    ASSERT_EQ(::stat((temp / "state").c_str(), &found), 0);
    EXPECT_EQ(found.st_size, 0);
    ASSERT_EQ(::mount(nullptr, temp.path().c_str(), nullptr, MS_REMOUNT, "size=4m"), 0);
    Party party(temp.path());
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    EXPECT_TRUE(party.take("key"));
  });
}

TEST(FileRefusals, a_disk_without_inodes_for_the_shards) {
  const TempDirectory temp;
  on_tmpfs(temp.path(), "size=4m,nr_inodes=100,mode=700", [&] {
    {
      const Party party(temp.path());
      expect_refused(party.opened(), errc::capacity, "can't make");
    }
    ASSERT_EQ(::mount(nullptr, temp.path().c_str(), nullptr, MS_REMOUNT, "size=4m,nr_inodes=5000"), 0);
    Party party(temp.path());
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    EXPECT_TRUE(party.take("key"));
  });
}

TEST(FileRefusals, a_directory_in_one_that_every_user_may_write_to) {
  const TempDirectory temp;
  ASSERT_EQ(::mkdir((temp / "open").c_str(), 0700), 0);
  ASSERT_EQ(::chmod((temp / "open").c_str(), 0777), 0);
  const std::string inside = temp / "open/locks";
  ASSERT_EQ(::mkdir(inside.c_str(), 0700), 0);
  expect_refused(Party(inside).opened(), errc::unsafe_setup, "where every user may put another in its place");
  ASSERT_EQ(::chmod((temp / "open").c_str(), 01777), 0);
  EXPECT_TRUE(Party(inside).opened());
}

TEST(FileRefusals, a_directory_that_is_in_use_for_something_else) {
  const TempDirectory temp;
  const std::string home = temp / "home";
  ASSERT_EQ(::mkdir(home.c_str(), 0700), 0);
  std::ofstream(home + "/report.txt") << "mine";
  expect_refused(Party(home).opened(), errc::invalid_config, "is in use for something else (\"report.txt\")");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(home), {}), 1);
  ASSERT_EQ(::rename((home + "/report.txt").c_str(), (home + "/.report").c_str()), 0);
  EXPECT_TRUE(Party(home).opened());
}

TEST(FileRefusals, nothing_on_a_disk_that_filled_up_later) {
  const TempDirectory temp;
  on_tmpfs(temp.path(), "size=4m,nr_inodes=1100,mode=700", [&] {
    ASSERT_EQ(::mkdir((temp / "locks").c_str(), 0700), 0);
    { const Party first(temp / "locks"); }
    fill(temp / "filler");
    for (int i = 0; ::mkdir((temp / ("d" + std::to_string(i))).c_str(), 0700) == 0; ++i) {
    }
    Party one(temp / "locks"), two(temp / "locks");
    ASSERT_TRUE(one.opened()) << one.opened().error().to_string();
    ASSERT_TRUE(two.opened());
    two.serve();
    std::vector<Request*> held;
    for (int i = 0; i < 3000; ++i) {
      held.push_back(&one.request("key:" + std::to_string(i)));
      if (i >= 500) {
        one.give_back(*held[held.size() - 500]);
      }
      ASSERT_EQ(one.submit(*held.back()), Answer::granted) << held.back()->error.to_string();
    }
    Request& wanted = two.request("key:2999");
    ASSERT_EQ(two.submit(wanted), Answer::refused);
    ASSERT_TRUE(two.start_wait(wanted));
    EXPECT_EQ(two.holders("key:2999").size(), 2u);
    EXPECT_EQ(one.give_back(*held.back()), Answer::released);
    EXPECT_EQ(two.answer_of(wanted), Answer::granted);
    EXPECT_GT(wanted.token, held.back()->token);
  });
}

void leave_descriptors(rlim_t count) {
  const Descriptor next(::open("/", O_RDONLY | O_CLOEXEC));
  const rlimit limit{static_cast<rlim_t>(next.get()) + count, static_cast<rlim_t>(next.get()) + count};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(FileRefusals, to_open_without_descriptors) {
  const TempDirectory temp;
  in_child([&] {
    leave_descriptors(1);
    const Party party(temp.path());
    expect_refused(party.opened(), errc::capacity, "ulimit -n");
    EXPECT_EQ(party.opened().error().native(), "EMFILE (24)");
  });
}

TEST(FileRefusals, to_hold_more_than_there_are_descriptors) {
  const TempDirectory temp;
  in_child([&] {
    { const Party made(temp.path()); }
    leave_descriptors(24);
    Party party(temp.path());
    ASSERT_TRUE(party.opened()) << party.opened().error().to_string();
    std::vector<Request*> held;
    Request* failed = nullptr;
    for (int i = 0; i < 200 && !failed; ++i) {
      Request& request = party.request("key:" + std::to_string(i));
      if (party.submit(request) == Answer::granted) {
        held.push_back(&request);
      } else {
        failed = &request;
      }
    }
    ASSERT_TRUE(failed);
    EXPECT_GE(held.size(), 15u);
    EXPECT_EQ(failed->answer, Answer::failed);
    EXPECT_EQ(failed->error.code(), errc::capacity);
    EXPECT_NE(failed->error.message().find("ulimit -n"), std::string::npos) << failed->error.message();
    EXPECT_EQ(failed->error.native(), "EMFILE (24)");
    for (Request* request : held) EXPECT_EQ(party.give_back(*request), Answer::released);
    // Descriptors that nobody uses are closed for others.
    EXPECT_EQ(party.submit(*failed), Answer::granted);
    for (int i = 300; i < 400; ++i) {
      Request& request = party.request("key:" + std::to_string(i));
      ASSERT_EQ(party.submit(request), Answer::granted);
      party.give_back(request);
    }
  });
}

// Through the whole library: no wait until some descriptor may come free.
TEST(FileRefusals, at_once_of_a_lock_for_which_there_is_no_descriptor) {
  const TempDirectory temp;
  in_child([&] {
    const auto config = LockerConfig::from_url("file:" + temp.path()).value();
    { const auto made = open(config); }
    leave_descriptors(24);
    const auto locker = open(config);
    ASSERT_TRUE(locker) << locker.error().to_string();
    const auto session = (*locker)->open_session().value();
    std::vector<Releaser> held;
    std::optional<Error> refused;
    for (int i = 0; i < 200 && !refused; ++i) {
      auto one = session->lock({"key", std::to_string(i)}, {.timeout = forever});
      if (one) {
        held.push_back(*std::move(one));
      } else {
        refused = one.error();
      }
    }
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->code(), errc::capacity);
    EXPECT_NE(refused->message().find("ulimit -n"), std::string::npos) << refused->message();
    EXPECT_TRUE(refused->retryable());
    for (Releaser& releaser : held) EXPECT_TRUE(releaser.release());
    EXPECT_TRUE(session->lock({"key", "200"}, {.timeout = forever}));
  });
}

}  // namespace
}  // namespace lockr::file
