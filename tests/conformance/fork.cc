// A fork is not a second holder. Not run under TSan, which can't follow a fork of a program with threads.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <set>

#include "tests/conformance/suite.h"

namespace lockr::testing {

LOCKR_CONFORMANCE_TOPIC(Fork);

// Runs the checks in a forked child; returns the number of the first that was false, 0 for none.
int first_false_in_child(const std::vector<std::function<bool()>>& checks) {
  const pid_t child = ::fork();
  if (child == 0) {
    int number = 0;
    for (const auto& check : checks) {
      ++number;
      if (!check()) ::_exit(number);
    }
    ::_exit(0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

template <class T>
bool is_forked(const Result<T>& result) {
  return !result && result.error().code() == errc::forked_process;
}

TEST_P(Fork, a_child_holds_nothing_and_is_told_so) {
  Locker& parent = locker();
  const auto owner = session();
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  const Key free = key("free");
  EXPECT_EQ(first_false_in_child({
                [&] { return is_forked(owner->try_lock(free)); },
                [&] { return is_forked(owner->lock(free, {.timeout = kPatience})); },
                [&] { return is_forked(owner->lock_all(std::span(&free, 1))); },
                [&] { return is_forked(parent.lock(free)); },
                [&] { return is_forked(parent.open_session()); },
                [&] { return is_forked(parent.inspect()); },
                [&] { return !held->held(); },
                [&] { return is_forked(held->release()); },
                [&] { return is_forked(owner->close()); },
                [&] { return is_forked(parent.close()); },
            }),
            0);
  EXPECT_TRUE(held->held());
  EXPECT_TRUE(succeeds(held->release()));
}

TEST_P(Fork, a_child_that_ends_takes_nothing_with_it) {
  const auto owner = session();
  const auto far = session_of(other_party());
  auto held = std::make_unique<Result<Releaser>>(owner->lock(key(), {.timeout = kPatience}));
  ASSERT_TRUE(succeeds(*held));
  EXPECT_EQ(first_false_in_child({[&] {
              held.reset();  // The child's copy of the proof proves nothing, and gives nothing back.
              return true;
            }}),
            0);
  EXPECT_TRUE((*held)->held());
  EXPECT_TRUE(fails_with(far->try_lock(key()), errc::not_acquired));
  EXPECT_TRUE(succeeds((*held)->release()));
  EXPECT_TRUE(succeeds(far->lock(key(), {.timeout = kPatience})));
}

// What the parent gives back is free, whatever a child that it made before inherited.
TEST_P(Fork, a_child_that_lives_on_keeps_nothing) {
  const auto owner = session();
  const auto far = session_of(other_party());
  auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::close(ends[1]);
    char end_of_file = 0;
    ::_exit(static_cast<int>(::read(ends[0], &end_of_file, 1)));
  }
  EXPECT_TRUE(succeeds(held->release()));
  EXPECT_TRUE(succeeds(far->lock(key(), {.timeout = kPatience / 4})));
  for (const int end : ends) ::close(end);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  EXPECT_EQ(status, 0);
}

std::set<int> open_descriptors() {
  std::set<int> found;
  for (int fd = 0; fd < 1024; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) found.insert(fd);
  }
  return found;
}

TEST_P(Fork, a_program_that_is_executed_inherits_no_descriptor) {
  const std::set<int> before = open_descriptors();
  const auto owner = session_of(open());
  const auto held = owner->lock(key(), {.timeout = kPatience});
  ASSERT_TRUE(succeeds(held));
  for (const int fd : open_descriptors()) {
    if (!before.contains(fd)) {
      EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << "descriptor " << fd;
    }
  }
}

}  // namespace lockr::testing
