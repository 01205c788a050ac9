#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdarg>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "backends/file/ofd_lock.h"
#include "backends/file/shards.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using testing::TempDirectory;

/// What this program duplicates.
struct Duplications {
  static inline std::function<void()> meanwhile;  // Once.
};

}  // namespace
}  // namespace lockr::file

// In front of the system's fcntl() for large files.
extern "C" __attribute__((visibility("default"))) int lockr_fcntl(int fd, int command, ...) __asm__("fcntl64");
extern "C" int lockr_fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  const auto argument = va_arg(rest, unsigned long);
  va_end(rest);
  if (command == F_DUPFD_CLOEXEC) {
    if (const auto meanwhile = std::exchange(lockr::file::Duplications::meanwhile, nullptr)) meanwhile();
  }
  return static_cast<int>(::syscall(SYS_fcntl, fd, command, argument));
}

namespace lockr::file {
namespace {

unsigned open_descriptors() {
  unsigned count = 0;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    static_cast<void>(each);
    ++count;
  }
  return count;
}

class FileShards : public ::testing::Test {
 protected:
  FileShards()
      : directory_(open_directory(temp_ / "locks", {}, [](std::string_view) { return false; }).value()),
        made_(make_shard_files(directory_)) {}

  std::string name_of(unsigned shard) const {
    char name[16];
    std::snprintf(name, sizeof name, "locks/lock-%03x", shard);
    return temp_ / name;
  }

  TempDirectory temp_;
  Directory directory_;
  Status made_;
};

TEST_F(FileShards, opens_a_shard_once) {
  ASSERT_TRUE(made_);
  Shards shards(directory_, 16);
  const Shards::Use first = shards.enter(3);
  const Shards::Use second = shards.enter(3);
  ASSERT_GE(first.fd, 0);
  EXPECT_EQ(first.fd, second.fd);
  EXPECT_NE(first.life, 0u);
  EXPECT_EQ(shards.descriptor(3, first.life), first.fd);
  EXPECT_EQ(shards.descriptor(3, first.life + 1), -1);
  EXPECT_EQ(::fcntl(first.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(FileShards, keeps_few_descriptors_that_nobody_uses) {
  const unsigned before = open_descriptors();
  Shards shards(directory_, 16);
  for (unsigned shard = 0; shard < 200; ++shard) {
    const Shards::Use use = shards.enter(shard);
    ASSERT_GE(use.fd, 0);
    shards.leave(shard, use.life);
  }
  EXPECT_LE(open_descriptors() - before, 16u);
}

TEST_F(FileShards, never_closes_one_that_is_used) {
  Shards shards(directory_, 16);
  const Shards::Use held = shards.enter(7);
  ASSERT_EQ(ofd_lock(held.fd, F_WRLCK, 42), 0);
  for (unsigned shard = 100; shard < 400; ++shard) shards.leave(shard, shards.enter(shard).life);
  EXPECT_EQ(shards.descriptor(7, held.life), held.fd);
  Shards other(directory_, 16);
  EXPECT_EQ(ofd_lock(other.enter(7).fd, F_WRLCK, 42), EAGAIN);
}

// A Releaser may be released while another thread asks for its descriptors: the number may be anything then.
TEST_F(FileShards, closes_none_that_it_is_duplicating) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(7);
  struct stat of_shard {};
  ASSERT_EQ(::fstat(use.fd, &of_shard), 0);
  shards.leave(7, use.life);
  std::thread other;
  std::atomic<bool> closed{false};
  Duplications::meanwhile = [&] {
    other = std::thread([&] {  // Closes shard 7 as an idle one; its number goes to another shard.
      for (unsigned shard = 100; shard < 200; ++shard) shards.leave(shard, shards.enter(shard).life);
      closed = true;
    });
    for (int i = 0; i < 100 && !closed; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  const Descriptor copy(shards.duplicate(7, use.life));
  other.join();
  ASSERT_GE(copy.get(), 0);
  struct stat of_copy {};
  ASSERT_EQ(::fstat(copy.get(), &of_copy), 0);
  EXPECT_EQ(of_copy.st_ino, of_shard.st_ino);
  EXPECT_NE(::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(shards.duplicate(7, use.life), -1) << "it has been closed by now";
}

TEST_F(FileShards, leaves_alone_only_when_it_is_the_only_user) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(7);
  const Shards::Use other = shards.enter(7);
  int given = -1;
  const auto take_note = [&](int fd) {
    given = fd;
    return true;
  };
  EXPECT_FALSE(shards.leave_alone(7, use.life, take_note));
  shards.leave(7, other.life);
  EXPECT_FALSE(shards.leave_alone(7, use.life + 1, take_note));
  EXPECT_EQ(given, -1);
  EXPECT_TRUE(shards.leave_alone(7, use.life, take_note));
  EXPECT_EQ(given, use.fd);
  EXPECT_FALSE(shards.leave_alone(7, use.life, take_note)) << "nobody uses it";
}

TEST_F(FileShards, who_could_not_leave_alone_stays_its_user) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(7);
  EXPECT_TRUE(shards.leave_alone(7, use.life, [](int) { return false; }));
  for (unsigned shard = 100; shard < 400; ++shard) shards.leave(shard, shards.enter(shard).life);
  EXPECT_EQ(shards.descriptor(7, use.life), use.fd) << "closed as an idle one";
  EXPECT_TRUE(shards.leave_alone(7, use.life, [](int) { return true; }));
}

TEST_F(FileShards, nobody_enters_while_one_leaves_alone) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(7);
  std::atomic<bool> entering{false};
  std::atomic<bool> entered{false};
  std::thread other;
  EXPECT_TRUE(shards.leave_alone(7, use.life, [&](int) {
    other = std::thread([&] {
      entering = true;
      EXPECT_EQ(shards.enter(7).fd, use.fd);
      entered = true;
    });
    while (!entering) std::this_thread::yield();
    for (int i = 0; i < 1000 && !entered; ++i) std::this_thread::yield();
    EXPECT_FALSE(entered);
    EXPECT_EQ(shards.descriptor(7, use.life), use.fd);
    return true;
  }));
  other.join();
  EXPECT_TRUE(entered);
}

TEST_F(FileShards, one_that_is_abandoned_while_it_is_left_stays_so) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  std::thread other;
  EXPECT_TRUE(shards.leave_alone(5, use.life, [&](int) {
    other = std::thread([&] { EXPECT_EQ(shards.enter(5).life, use.life + 1); });
    EXPECT_EQ(::unlink(name_of(5).c_str()), 0);
    EXPECT_TRUE(make_shard_files(directory_));
    EXPECT_EQ(shards.check(true).size(), 1u);
    return true;
  }));
  other.join();
  EXPECT_GE(shards.descriptor(5, use.life + 1), 0);
}

TEST_F(FileShards, opened_twice_exclude_each_other) {
  Shards one(directory_, 16);
  Shards two(directory_, 16);
  const int first = one.enter(1).fd;
  const int second = two.enter(1).fd;
  EXPECT_EQ(ofd_lock(first, F_WRLCK, 9), 0);
  EXPECT_EQ(ofd_lock(second, F_RDLCK, 9), EAGAIN);
  EXPECT_EQ(ofd_foreign_lock(second, 9), F_WRLCK);
  EXPECT_EQ(ofd_foreign_lock(first, 9), F_UNLCK);
  EXPECT_EQ(ofd_lock(second, F_WRLCK, 10), 0);
  EXPECT_EQ(ofd_lock(first, F_UNLCK, 9), 0);
  EXPECT_EQ(ofd_lock(second, F_RDLCK, 9), 0);
  EXPECT_EQ(ofd_foreign_lock(first, 9), F_RDLCK);
}

TEST_F(FileShards, says_that_a_shard_was_taken_away_and_makes_no_other) {
  ASSERT_EQ(::unlink(name_of(5).c_str()), 0);
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  EXPECT_EQ(use.fd, -1);
  const Error error = shard_error(directory_, 5, use.error);
  EXPECT_EQ(error.code(), errc::backend_failure);
  EXPECT_NE(error.message().find("lock-005\" was taken away"), std::string::npos) << error.message();
  struct stat found {};
  EXPECT_NE(::stat(name_of(5).c_str(), &found), 0);
}

TEST_F(FileShards, refuses_a_file_that_is_not_lockrs) {
  ASSERT_EQ(::link(name_of(5).c_str(), (temp_ / "second-name").c_str()), 0);
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  EXPECT_EQ(use.fd, -1);
  EXPECT_NE(shard_error(directory_, 5, use.error).message().find("not a file that lockr made"), std::string::npos);
}

TEST_F(FileShards, finds_all_well_while_it_is) {
  Shards shards(directory_, 16);
  shards.enter(5);
  shards.leave(6, shards.enter(6).life);
  EXPECT_TRUE(shards.check(true).empty());
}

TEST_F(FileShards, notices_a_replaced_file_and_tells_twice) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  shards.enter(6);
  ASSERT_EQ(::unlink(name_of(5).c_str()), 0);
  ASSERT_TRUE(make_shard_files(directory_));
  for (int told = 0; told < 2; ++told) {
    const auto lost = shards.check(true);
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_EQ(lost[0].shard, 5u);
    EXPECT_EQ(lost[0].life, use.life);
  }
  EXPECT_TRUE(shards.check(true).empty());
  EXPECT_EQ(shards.descriptor(5, use.life), -1);
  shards.leave(5, use.life);
  const Shards::Use next = shards.enter(5);
  EXPECT_GE(next.fd, 0);
  EXPECT_EQ(next.life, use.life + 1);
  EXPECT_TRUE(shards.check(true).empty());
}

TEST_F(FileShards, loses_everything_with_the_directory) {
  for (const char* how : {"moved", "removed"}) {
    const TempDirectory temp;
    const Directory directory = open_directory(temp / "locks", {}, [](std::string_view) { return false; }).value();
    ASSERT_TRUE(make_shard_files(directory));
    Shards shards(directory, 16);
    shards.enter(5);
    shards.enter(6);
    if (std::string_view(how) == "moved") {
      ASSERT_EQ(::rename((temp / "locks").c_str(), (temp / "old").c_str()), 0);
      ASSERT_EQ(::mkdir((temp / "locks").c_str(), 0700), 0);
    } else {
      std::filesystem::remove_all(temp / "locks");
    }
    EXPECT_EQ(shards.check(true).size(), 2u) << how;
    const Shards::Use use = shards.enter(5);
    EXPECT_EQ(use.fd, -1) << how;
    EXPECT_NE(shard_error(directory, 5, use.error).message().find("open a new locker"), std::string::npos);
  }
}

TEST_F(FileShards, are_given_back_by_close_also_where_a_duplicate_lives_on) {
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  ASSERT_EQ(ofd_lock(use.fd, F_WRLCK, 9), 0);
  const Descriptor duplicate(::fcntl(use.fd, F_DUPFD_CLOEXEC, 0));
  EXPECT_TRUE(shards.close());
  Shards other(directory_, 16);
  EXPECT_EQ(ofd_lock(other.enter(5).fd, F_WRLCK, 9), 0);
}

TEST_F(FileShards, are_only_closed_by_forked) {
  const unsigned before = open_descriptors();
  Shards shards(directory_, 16);
  const Shards::Use use = shards.enter(5);
  ASSERT_EQ(ofd_lock(use.fd, F_WRLCK, 9), 0);
  {
    const Descriptor duplicate(::fcntl(use.fd, F_DUPFD_CLOEXEC, 0));
    shards.before_fork();
    shards.forked();
    Shards other(directory_, 16);
    EXPECT_EQ(ofd_lock(other.enter(5).fd, F_WRLCK, 9), EAGAIN);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(FileShards, may_be_entered_and_closed_by_many_threads) {
  Shards shards(directory_, 4);
  std::vector<std::thread> threads;
  std::atomic<unsigned> failures = 0;
  for (unsigned thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (unsigned i = 0; i < 3000; ++i) {
        const unsigned shard = (i * 7 + thread) % 16;
        const Shards::Use use = shards.enter(shard);
        struct stat found {};
        if (use.fd < 0 || ::fstat(use.fd, &found) != 0 || !S_ISREG(found.st_mode)) ++failures;
        shards.leave(shard, use.life);
      }
    });
  }
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(shards.check(true).empty());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0u);
}

}  // namespace
}  // namespace lockr::file
