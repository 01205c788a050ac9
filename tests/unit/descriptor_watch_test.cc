// Run under the watch itself: it ends a program that names a closed descriptor, and nothing else.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

namespace {

constexpr const char* kSaid = "names descriptor [0-9]+, which is closed";

int a_closed_one() {
  const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::close(fd);
  return fd;
}

TEST(DescriptorWatch, ends_who_names_a_closed_descriptor) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(::close(a_closed_one()), kSaid);
  EXPECT_DEATH(::shutdown(a_closed_one(), SHUT_RDWR), kSaid);
  EXPECT_DEATH(::fcntl(a_closed_one(), F_DUPFD_CLOEXEC, 0), kSaid);
  EXPECT_DEATH((void)::dup(a_closed_one()), kSaid);
  char byte = 0;
  EXPECT_DEATH(::recv(a_closed_one(), &byte, 1, 0), kSaid);
  EXPECT_DEATH(::send(a_closed_one(), &byte, 1, MSG_NOSIGNAL), kSaid);
  EXPECT_DEATH((void)!::read(a_closed_one(), &byte, 1), kSaid);
  EXPECT_DEATH((void)!::write(a_closed_one(), &byte, 1), kSaid);
  pollfd ready{a_closed_one(), POLLIN, 0};
  const timespec none{};
  EXPECT_DEATH(::poll(&ready, 1, 0), kSaid);
  EXPECT_DEATH(::ppoll(&ready, 1, &none, nullptr), kSaid);
}

TEST(DescriptorWatch, sees_it_though_others_were_opened_since) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        const int stale = a_closed_one();
        for (int i = 0; i < 8; ++i) (void)::open("/dev/null", O_RDONLY | O_CLOEXEC);
        ::shutdown(stale, SHUT_RDWR);
      },
      kSaid);
}

TEST(DescriptorWatch, sees_it_in_the_child_of_a_fork) {
  const int stale = a_closed_one();
  const pid_t child = ::fork();
  if (child == 0) {
    const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    ::dup2(nowhere, STDERR_FILENO);
    ::close(stale);
    ::_exit(0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

TEST(DescriptorWatch, leaves_who_uses_open_ones_alone) {
  std::array<int, 2> ends{};
  for (int round = 0; round < 200; ++round) {
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    const int copy = ::dup(ends[1]);
    EXPECT_EQ(::close(ends[1]), 0);
    char byte = 'x';
    EXPECT_EQ(::send(ends[0], &byte, 1, MSG_NOSIGNAL), 1);
    pollfd ready{copy, POLLIN, 0};
    EXPECT_EQ(::poll(&ready, 1, 1000), 1);
    EXPECT_EQ(::recv(copy, &byte, 1, 0), 1);
    EXPECT_EQ(::shutdown(ends[0], SHUT_RDWR), 0);
    EXPECT_EQ(::close(ends[0]), 0);
    EXPECT_EQ(::recv(copy, &byte, 1, 0), 0) << "the end is seen, as after any close()";
    EXPECT_EQ(::close(copy), 0);
  }
}

}  // namespace
