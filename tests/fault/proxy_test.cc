// The bad network of the other tests does what it says.
#include "tests/support/proxy.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <chrono>
#include <string>

#include "tests/support/tcp_service.h"

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class ProxyTest : public ::testing::Test {
 protected:
  ProxyTest() {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(client_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  /// What comes, until the end or until it is as much as was expected.
  std::string receive(std::size_t size) const {
    std::string all;
    while (all.size() < size) {
      const std::string some = receive_some(client_.get());
      if (some.empty()) break;
      all += some;
    }
    return all;
  }
  std::string echo(const std::string& text) const {
    send_all(client_.get(), text);
    return receive(text.size());
  }
  bool quiet_for(std::chrono::milliseconds time) const {
    pollfd end{client_.get(), POLLIN, 0};
    return ::poll(&end, 1, static_cast<int>(time.count())) == 0;
  }

  const TcpService echoer_{[](int fd) {
    for (std::string said = receive_some(fd); !said.empty(); said = receive_some(fd)) send_all(fd, said);
  }};
  Proxy proxy_{echoer_.port()};
  const Descriptor client_ = connect_to(proxy_.port());
};

TEST_F(ProxyTest, honest) { EXPECT_EQ(echo(std::string(1'000'000, 'x')), std::string(1'000'000, 'x')); }

TEST_F(ProxyTest, slow) {
  proxy_.set(Proxy::Mood::slow, 30ms);
  const auto start = Clock::now();
  EXPECT_EQ(echo("hello"), "hello");
  EXPECT_GE(Clock::now() - start, 60ms);
}

TEST_F(ProxyTest, split) {
  proxy_.set(Proxy::Mood::split);
  const std::string text(1000, 'x');
  std::size_t split = 0;
  for (int i = 0; i < 10; ++i) {
    send_all(client_.get(), text);
    const std::string first = receive_some(client_.get());
    EXPECT_EQ(first + receive(text.size() - first.size()), text);
    split += first.size() < text.size();
  }
  EXPECT_GT(split, 0u) << "on a busy machine the parts may meet again, but not every time";
}

TEST_F(ProxyTest, silent) {
  ASSERT_EQ(echo("hello"), "hello");
  proxy_.set(Proxy::Mood::silent);
  send_all(client_.get(), "still there?");
  EXPECT_TRUE(quiet_for(50ms));
  proxy_.set(Proxy::Mood::honest);
  EXPECT_EQ(receive(12), "still there?");
}

TEST_F(ProxyTest, garbled) {
  ASSERT_EQ(echo("hello"), "hello");
  proxy_.set(Proxy::Mood::garbled);
  EXPECT_EQ(echo("hello"), "\xff\xff\xff\xff\xff");
}

TEST_F(ProxyTest, harsh) {
  ASSERT_EQ(echo("hello"), "hello");
  proxy_.set(Proxy::Mood::harsh);
  EXPECT_EQ(receive(1), "");
  const Descriptor other = connect_to(proxy_.port());
  EXPECT_EQ(receive_some(other.get()), "");
  EXPECT_EQ(proxy_.connections(), 0u);
}

TEST_F(ProxyTest, reset) {
  ASSERT_EQ(echo("hello"), "hello");
  ASSERT_TRUE(proxy_.cut(Proxy::Cut::reset, 7));
  char byte = 0;
  EXPECT_EQ(::recv(client_.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_FALSE(proxy_.cut(Proxy::Cut::reset, 7)) << "there was one connection";
}

TEST_F(ProxyTest, reset_of_one_that_talks) {
  for (int i = 0; i < 300; ++i) {
    const Descriptor other = connect_to(proxy_.port());
    send_all(other.get(), "hello");
    EXPECT_EQ(receive_some(other.get()), "hello");
    send_all(other.get(), "and again");
    EXPECT_TRUE(proxy_.cut(Proxy::Cut::reset, 1));  // 0 is the client's.
  }
  EXPECT_EQ(echo("hello"), "hello");
}

TEST_F(ProxyTest, half_close) {
  ASSERT_EQ(echo("hello"), "hello");
  ASSERT_TRUE(proxy_.cut(Proxy::Cut::half_close, 0));
  EXPECT_EQ(receive(1), "");
  send_all(client_.get(), "I am still here");
  EXPECT_EQ(proxy_.connections(), 1u);
}

TEST_F(ProxyTest, truncate) {
  ASSERT_EQ(echo("hello"), "hello");
  ASSERT_TRUE(proxy_.cut(Proxy::Cut::truncate, 0));
  EXPECT_EQ(echo("hello?"), "hel");
  EXPECT_EQ(receive(1), "");
}

}  // namespace
}  // namespace lockr::testing
