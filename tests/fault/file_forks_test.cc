// The file backend in a program that forks while its threads work. TSan can't follow such a program.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using testing::TempDirectory;

int open_lock_files() {
  int open = 0;
  for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(fd, gone).filename().string().starts_with("lock-")) ++open;
  }
  return open;
}

// A descriptor that stays open in the child keeps the parent's lock after the parent's death.
TEST(FileForks, leave_no_lock_file_open_in_the_child_whatever_the_moment) {
  const TempDirectory temp;
  const auto config = LockerConfig::from_url("file:" + temp.path()).value();
  for (int round = 0; round < 600; ++round) {
    const auto locker = open(config).value();
    const auto session = locker->open_session().value();
    std::atomic<int> taken = 0;
    std::vector<Releaser> held;
    std::thread taker([&] {
      for (int i = 0; i < 300; ++i) {
        held.push_back(session->lock({"key", std::to_string(i)}).value());
        ++taken;
      }
    });
    while (taken == 0) {
    }
    // Some microseconds later each time.
    std::atomic<int> spins = round % 40 * 100;
    while (spins-- > 0) {
    }
    const pid_t child = ::fork();
    if (child == 0) ::_exit(open_lock_files());
    int status = 0;
    const pid_t ended = ::waitpid(child, &status, 0);
    taker.join();
    ASSERT_EQ(ended, child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace lockr::file
