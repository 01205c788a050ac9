// The descriptors of others in a program whose connections to PostgreSQL are lost. Each number that is closed is taken
// at once by a socket of somebody else, the worst that can happen to who goes on with it: none of them may be shut
// down, and a child that is forked at that moment keeps them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"

namespace lockr::postgres {
namespace {

using namespace std::chrono_literals;
using testing::eventually;
using testing::open_postgres;
using testing::PostgresServer;
using testing::Psql;

constexpr auto kPatience = testing::kPostgresPatience;
constexpr const char* kConnections = "select count(*) from pg_stat_activity where application_name like 'lockr/%'";

struct Squatter {
  int number = -1;
  int other = -1;
  ino_t inode = 0;
  std::atomic<bool> there{false};
  bool to_inherit = false;  // The forking thread's.
};

/// Sockets of somebody else, one at each number that this program closed a socket at.
class Squatters {
 public:
  static constexpr std::size_t kMost = 400;

  static inline std::atomic<bool> on{false};
  static inline std::atomic<int> count{0};
  static inline std::atomic<int> forks{0};         // So many children have been made.
  static inline std::atomic<int> forked_there{0};  // So many of them between the close and what its caller did next.

  /// In place of close(): false where it has to be closed the usual way.
  static bool take(int fd) {
    struct stat closed {};
    if (!on || ::fstat(fd, &closed) != 0 || !S_ISSOCK(closed.st_mode)) return false;
    std::array<int, 2> pair{};
    const int place = next_++;
    if (place >= static_cast<int>(kMost) || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      return false;
    }
    ::syscall(SYS_dup3, pair[0], fd, O_CLOEXEC);  // Closes and takes the number in one step.
    ::syscall(SYS_close, pair[0]);
    struct stat mine {};
    ::fstat(fd, &mine);
    Squatter& squatter = all_[static_cast<std::size_t>(place)];
    squatter.number = fd;
    squatter.other = pair[1];
    squatter.inode = mine.st_ino;
    squatter.there = true;
    ++count;
    wait_for_fork();
    return true;
  }
  /// Before a fork: which of them the child has to have. It copies descriptors before memory, so memory can't tell.
  static void note() {
    for (Squatter& each : all_) each.to_inherit = each.there;
  }
  /// In a child: how many of those are not what they were. Async-signal-safe.
  static int lost() {
    int lost = 0;
    for (const Squatter& each : all_) {
      struct stat found {};
      lost += each.to_inherit && (::fstat(each.number, &found) != 0 || found.st_ino != each.inode);
    }
    return lost;
  }
  static int shut_down() {
    int shut = 0;
    for (const Squatter& each : all_) {
      char byte = 'x';
      shut += each.there &&
              (::send(each.number, &byte, 1, MSG_NOSIGNAL) != 1 || ::recv(each.other, &byte, 1, MSG_DONTWAIT) != 1);
    }
    return shut;
  }

 private:
  // For one that began after this. It has to wait where libpq is called to end a connection or to make one.
  static void wait_for_fork() {
    const int before = forks;
    const auto until = std::chrono::steady_clock::now() + 60ms;
    while (forks < before + 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    forked_there += forks >= before + 2;
  }

  static inline std::atomic<int> next_{0};
  static inline std::array<Squatter, kMost> all_;
};

}  // namespace
}  // namespace lockr::postgres

// In front of the system's, for libpq and for us.
extern "C" __attribute__((visibility("default"))) int close(int fd) {
  if (fd >= 0 && lockr::postgres::Squatters::take(fd)) return 0;
  return static_cast<int>(::syscall(SYS_close, fd));
}

namespace lockr::postgres {
namespace {

/// Forks all the time, and sums up what the children miss.
class Forker {
 public:
  ~Forker() { stop(); }
  void stop() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int missed() const { return missed_; }

 private:
  void run() {
    while (!over_) {
      Squatters::note();
      const pid_t child = ::fork();
      if (child == 0) ::_exit(Squatters::lost() == 0 ? 0 : 1);
      ++Squatters::forks;
      int status = 1;
      while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
      }
      missed_ += status != 0;
    }
  }

  std::atomic<bool> over_{false};
  std::atomic<int> missed_{0};
  std::thread thread_{[this] { run(); }};
};

TEST(PostgresDescriptors, of_others_are_left_alone_when_connections_are_lost) {
  // Before lockr's: what it closes in a child is closed and nothing else.
  ASSERT_EQ(::pthread_atfork(nullptr, nullptr, [] { Squatters::on = false; }), 0);
  PostgresServer server;
  const auto locker = open_postgres(server.dsn(), R"(, "lanes": 2, "waiters": 2)");
  std::atomic<bool> over{false};
  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&, i] {
      const auto session = locker->open_session().value();
      const Key key = Key::from_scopes({"descriptors", std::to_string(i % 2)}).value();
      while (!over) {
        const auto held = session->lock(key, {.timeout = kPatience});
        std::this_thread::sleep_for(200us);
      }
    });
  }
  Psql watcher(server.dsn());
  Forker forker;
  for (int round = 0; round < 12; ++round) {
    Squatters::on = true;
    server.terminate_clients();
    EXPECT_TRUE(eventually([&] { return watcher.row(kConnections) == "4"; })) << "round " << round;
    Squatters::on = false;
  }
  over = true;
  for (std::thread& each : workers) each.join();
  forker.stop();
  std::printf("%d numbers were taken, %d children made at that moment\n", Squatters::count.load(),
              Squatters::forked_there.load());
  EXPECT_GT(Squatters::count, 0);
  EXPECT_GT(Squatters::forked_there, 0);
  EXPECT_EQ(Squatters::shut_down(), 0);
  EXPECT_EQ(forker.missed(), 0) << "children did not have all of the parent's descriptors";
}

}  // namespace
}  // namespace lockr::postgres
