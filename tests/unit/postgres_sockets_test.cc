// libpq closes its socket when it finds the connection broken, and the next descriptor of the program has its number:
// what we do to a connection reaches that connection or nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <tuple>

#include "backends/postgres/connection.h"
#include "tests/support/postgres_wire.h"

namespace lockr::postgres {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

/// A connection of somebody else in this program, at a number of its choice.
class Foreign {
 public:
  explicit Foreign(int number) : number_(number) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    other_ = ends[1];
    if (ends[0] == number) return;
    EXPECT_EQ(::dup3(ends[0], number, O_CLOEXEC), number);
    ::close(ends[0]);
  }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;
  ~Foreign() {
    ::close(number_);
    ::close(other_);
  }
  bool works() const {
    char byte = 'x';
    return ::send(number_, &byte, 1, MSG_NOSIGNAL) == 1 && ::recv(other_, &byte, 1, MSG_DONTWAIT) == 1;
  }

 private:
  const int number_;
  int other_ = -1;
};

struct PostgresSockets : ::testing::Test {
  PostgresSockets() { std::tie(connection, server) = wire.connect(sockets); }
  ~PostgresSockets() override { ::close(server); }

  int libpqs() const { return PQsocket(connection->raw()); }
  /// The server goes away, and libpq finds that out.
  void break_connection() {
    ::shutdown(server, SHUT_RDWR);
    while (connection->read()) {
    }
    ASSERT_LT(libpqs(), 0) << "libpq has closed it";
  }
  /// Whether the server has nothing more to read, and will not have.
  bool ends_for_server() const {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    std::array<char, 1024> part{};
    ssize_t got = 0;
    while ((got = ::recv(server, part.data(), part.size(), 0)) > 0) {
    }
    return got == 0;
  }
  /// What the child of a fork says of its descriptors, once the sockets know that they are in a child.
  bool in_child(const std::function<bool()>& says) {
    sockets.lock();
    const pid_t child = ::fork();
    if (child == 0) {
      sockets.forked();
      ::_exit(says() ? 0 : 1);
    }
    sockets.unlock();
    int status = -1;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status == 0;
  }

  testing::PostgresWire wire;
  Sockets sockets;
  std::shared_ptr<Connection> connection;
  int server = -1;
};

TEST_F(PostgresSockets, a_number_that_libpq_gave_back_is_left_alone) {
  const int number = libpqs();
  break_connection();
  ASSERT_FALSE(is_open(number));
  const Foreign foreign(number);
  connection->shut_down();
  EXPECT_TRUE(foreign.works());
  EXPECT_NE(connection->fd(), number);
  EXPECT_TRUE(is_open(connection->fd())) << "what is waited for is ours until the end";
  const int ours = connection->fd();
  connection.reset();
  EXPECT_TRUE(foreign.works());
  EXPECT_FALSE(is_open(ours));
}

TEST_F(PostgresSockets, a_child_closes_what_is_ours_and_nothing_else) {
  const int number = libpqs();
  const int ours = connection->fd();
  EXPECT_TRUE(in_child([&] { return !is_open(number) && !is_open(ours); }));
  EXPECT_TRUE(is_open(number) && is_open(ours));
  break_connection();
  const Foreign foreign(number);
  EXPECT_TRUE(in_child([&] { return is_open(number) && !is_open(ours); }));
  EXPECT_TRUE(foreign.works());
}

TEST_F(PostgresSockets, the_server_sees_the_end) {
  connection->shut_down();
  EXPECT_TRUE(ends_for_server()) << "the stream is shut down";
  ::close(server);
  std::tie(connection, server) = wire.connect(sockets);
  connection.reset();
  EXPECT_TRUE(ends_for_server()) << "no copy of the descriptor is open";
}

TEST_F(PostgresSockets, the_last_words_of_the_server_are_read_after_a_failed_send) {
  testing::PostgresWords words;
  testing::PostgresWire::say(server, words.error("57P01", 'N').bytes());
  ::shutdown(server, SHUT_RDWR);
  // libpq reads what has arrived when it can't send, and closes its socket.
  for (int tries = 0; libpqs() >= 0 && tries < 10; ++tries) {
    PQpipelineSync(connection->raw());
    connection->flush();
  }
  ASSERT_LT(libpqs(), 0);
  EXPECT_FALSE(connection->read());
  EXPECT_EQ(connection->ending().native(), "57P01");
}

}  // namespace
}  // namespace lockr::postgres
