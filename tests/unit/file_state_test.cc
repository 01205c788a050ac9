#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>

#include "backends/file/ofd_lock.h"
#include "backends/file/state_file.h"
#include "tests/support/file_party.h"

namespace {

bool no_directory_locks = false;

}  // namespace

// In front of the system's flock().
extern "C" __attribute__((visibility("default"))) int flock(int fd, int operation) noexcept {
  if (!no_directory_locks) return static_cast<int>(::syscall(SYS_flock, fd, operation));
  errno = EBADF;  // As NFS for a directory.
  return -1;
}

namespace lockr::file {
namespace {

using testing::TempDirectory;

Directory open_here(const TempDirectory& temp) {
  return open_directory(temp.path(), {}, [](std::string_view) { return false; }).value();
}

Status open_state(StateFile& file, const Directory& directory,
                  spi::Time patience = std::chrono::duration_cast<spi::Time>(testing::kPatience)) {
  spi::Runtime& runtime = spi::system_runtime();
  return file.open(directory, "host", runtime, runtime.steady_now() + patience);
}

void write_at(const std::string& path, off_t offset, const void* data, std::size_t size) {
  const Descriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd.get(), data, size, offset), static_cast<ssize_t>(size));
}

void expect_refused(const TempDirectory& temp, errc code, const std::string& part) {
  StateFile file;
  const Directory directory = open_here(temp);
  const Status opened = open_state(file, directory);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), code);
  EXPECT_NE(opened.error().message().find(part), std::string::npos) << opened.error().message();
}

TEST(FileState, is_made_whole_with_every_shard) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile file;
  ASSERT_TRUE(open_state(file, directory));
  struct stat found {};
  ASSERT_EQ(::stat((temp / "state").c_str(), &found), 0);
  EXPECT_EQ(found.st_size, static_cast<off_t>(sizeof(State)));
  EXPECT_GE(found.st_blocks * 512, static_cast<blkcnt_t>(sizeof(State)));
  EXPECT_EQ(found.st_mode & 07777, 0600u);
  for (const char* name : {"lock-000", "lock-0ff", "lock-3ff"}) {
    ASSERT_EQ(::stat((temp / name).c_str(), &found), 0) << name;
    EXPECT_EQ(found.st_size, 0);
  }
  EXPECT_NE(::stat((temp / "lock-400").c_str(), &found), 0);
}

TEST(FileState, is_one_memory_for_all) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile one, two;
  ASSERT_TRUE(open_state(one, directory));
  ASSERT_TRUE(open_state(two, directory));
  one.state().buckets[7].token = 99;
  EXPECT_EQ(two.state().buckets[7].token, 99u);
}

TEST(FileState, that_was_left_unfinished_is_finished) {
  const TempDirectory temp;
  const Descriptor empty(::open((temp / "state").c_str(), O_CREAT | O_WRONLY, 0600));
  const Directory directory = open_here(temp);
  StateFile file;
  EXPECT_TRUE(open_state(file, directory));
  EXPECT_EQ(file.state().header.magic, kMagic);
}

TEST(FileState, that_somebody_is_making_is_waited_for) {
  const TempDirectory temp;
  const Descriptor maker(::open((temp / "state").c_str(), O_CREAT | O_RDWR, 0600));
  ASSERT_EQ(ofd_lock(maker.get(), F_WRLCK, std::int64_t{1} << 40), 0);
  const Directory directory = open_here(temp);
  {
    StateFile file;
    const Status opened = open_state(file, directory, std::chrono::milliseconds(5));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code(), errc::backend_failure);
    EXPECT_TRUE(opened.error().retryable());
  }
  std::thread finisher([&] { ofd_lock(maker.get(), F_UNLCK, std::int64_t{1} << 40); });
  StateFile file;
  EXPECT_TRUE(open_state(file, directory));
  finisher.join();
}

TEST(FileState, that_is_something_else_is_refused) {
  const TempDirectory temp;
  const Descriptor other(::open((temp / "state").c_str(), O_CREAT | O_WRONLY, 0600));
  ASSERT_EQ(::write(other.get(), "#!/bin/sh\n", 10), 10);
  expect_refused(temp, errc::backend_failure, "not a lockr state file");
}

TEST(FileState, of_another_layout_is_refused_with_both_numbers) {
  const TempDirectory temp;
  {
    const Directory directory = open_here(temp);
    StateFile file;
    ASSERT_TRUE(open_state(file, directory));
  }
  const std::uint32_t layout = 4711;
  write_at(temp / "state", offsetof(Header, layout), &layout, sizeof layout);
  expect_refused(temp, errc::backend_failure, "layout 4711, this lockr uses layout 1");
}

TEST(FileState, that_is_truncated_is_refused) {
  const TempDirectory temp;
  {
    const Directory directory = open_here(temp);
    StateFile file;
    ASSERT_TRUE(open_state(file, directory));
  }
  ASSERT_EQ(::truncate((temp / "state").c_str(), 4096), 0);
  expect_refused(temp, errc::backend_failure, "truncated");
}

TEST(FileState, that_is_no_file_of_lockrs_is_refused) {
  const TempDirectory linked;
  std::fclose(std::fopen((linked / "elsewhere").c_str(), "w"));
  ASSERT_EQ(::link((linked / "elsewhere").c_str(), (linked / "state").c_str()), 0);
  expect_refused(linked, errc::unsafe_setup, "not a file that lockr made");

  const TempDirectory pointing;
  std::fclose(std::fopen((pointing / "elsewhere").c_str(), "w"));
  ASSERT_EQ(::symlink("elsewhere", (pointing / "state").c_str()), 0);
  expect_refused(pointing, errc::backend_failure, "can't open");

  const TempDirectory fifo;
  ASSERT_EQ(::mkfifo((fifo / "state").c_str(), 0600), 0);
  expect_refused(fifo, errc::unsafe_setup, "not a file that lockr made");
}

TEST(FileState, of_a_former_boot_keeps_the_tokens_alone) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  {
    StateFile file;
    ASSERT_TRUE(open_state(file, directory));
    file.state().buckets[3].token = 77;
    file.state().buckets[3].waiting = 5;
    file.state().buckets[3].claim = 6;
    file.state().bells[2].taken = 1;
    file.state().header.boot[0] = 1;
  }
  StateFile file;
  ASSERT_TRUE(open_state(file, directory));
  EXPECT_EQ(file.state().buckets[3].token, 77u);
  EXPECT_EQ(file.state().buckets[3].waiting, 0u);
  EXPECT_EQ(file.state().buckets[3].claim, 0u);
  EXPECT_EQ(file.state().bells[2].taken, 0u);
  EXPECT_NE(file.state().header.boot[0], 1u);
}

TEST(FileState, is_made_also_where_a_directory_can_not_be_locked) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  no_directory_locks = true;
  StateFile first, second;
  const Status made = open_state(first, directory);
  const Status used = open_state(second, directory);
  no_directory_locks = false;
  EXPECT_TRUE(made) << made.error().to_string();
  EXPECT_TRUE(used) << used.error().to_string();
  EXPECT_EQ(::access((temp / "lock-3ff").c_str(), F_OK), 0);
}

TEST(FileState, gives_each_locker_a_place) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile one, two;
  ASSERT_TRUE(open_state(one, directory));
  ASSERT_TRUE(open_state(two, directory));
  EXPECT_NE(one.process(), two.process());
  EXPECT_TRUE(two.alive(static_cast<unsigned>(one.process()), one.generation()));
  EXPECT_TRUE(one.alive(static_cast<unsigned>(one.process()), one.generation()));
  EXPECT_FALSE(two.alive(static_cast<unsigned>(one.process()), one.generation() + 2));
  const auto place = static_cast<unsigned>(one.process());
  one.close();
  EXPECT_FALSE(two.alive(place, one.generation()));
}

TEST(FileState, gives_a_dead_lockers_place_away_under_a_new_generation) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile dead, next, other;
  ASSERT_TRUE(open_state(other, directory));
  ASSERT_TRUE(open_state(dead, directory));
  const auto place = static_cast<unsigned>(dead.process());
  dead.forked();  // Closes without a word, as the kernel does for a dead process.
  EXPECT_FALSE(other.alive(place, dead.generation()));
  other.bury_processes();
  ASSERT_TRUE(open_state(next, directory));
  EXPECT_EQ(static_cast<unsigned>(next.process()), place);
  EXPECT_GT(next.generation(), dead.generation());
  EXPECT_TRUE(other.alive(place, next.generation()));
}

TEST(FileState, buries_no_living_process) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile one, two;
  ASSERT_TRUE(open_state(one, directory));
  ASSERT_TRUE(open_state(two, directory));
  ASSERT_TRUE(two.claim_bell());
  one.bury_processes();
  one.bury_bells();
  EXPECT_TRUE(one.alive(static_cast<unsigned>(two.process()), two.generation()));
  EXPECT_EQ(one.state().bells[two.bell()].taken, 1u);
}

TEST(FileState, has_bells_for_some_and_takes_back_those_of_the_dead) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  std::vector<std::unique_ptr<StateFile>> files;
  std::uint64_t bells = 0;
  for (unsigned i = 0; i < kBells; ++i) {
    files.push_back(std::make_unique<StateFile>());
    ASSERT_TRUE(open_state(*files.back(), directory));
    ASSERT_TRUE(files.back()->claim_bell());
    ASSERT_TRUE(files.back()->claim_bell());
    bells |= std::uint64_t{1} << files.back()->bell();
  }
  EXPECT_EQ(bells, ~std::uint64_t{0});
  StateFile late;
  ASSERT_TRUE(open_state(late, directory));
  EXPECT_FALSE(late.claim_bell());

  const int bell = files[5]->bell();
  late.state().buckets[9].waiting = ~std::uint64_t{0};
  late.state().buckets[9].rung = ~std::uint64_t{0};
  late.state().buckets[9].aged = ~std::uint64_t{0};
  files[5]->forked();
  ASSERT_TRUE(late.claim_bell());
  EXPECT_EQ(late.bell(), bell);
  const std::uint64_t others = ~(std::uint64_t{1} << bell);
  EXPECT_EQ(late.state().buckets[9].waiting, others);
  EXPECT_EQ(late.state().buckets[9].rung, others);
  EXPECT_EQ(late.state().buckets[9].aged, others);
}

TEST(FileState, still_opens_when_every_place_is_taken) {
  const TempDirectory temp;
  const Directory directory = open_here(temp);
  StateFile first;
  ASSERT_TRUE(open_state(first, directory));
  // A second description holds every place's byte, as 512 lockers would.
  const Descriptor others(::open((temp / "state").c_str(), O_RDWR | O_CLOEXEC));
  for (unsigned place = 0; place < kProcesses; ++place) {
    const int result = ofd_lock(others.get(), F_WRLCK, (std::int64_t{1} << 41) + place);
    EXPECT_EQ(result != 0, static_cast<int>(place) == first.process());
  }
  StateFile late;
  ASSERT_TRUE(open_state(late, directory));
  EXPECT_EQ(late.process(), -1);
}

}  // namespace
}  // namespace lockr::file
