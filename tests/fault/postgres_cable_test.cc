// A network of our own, whose cable is pulled: the loss of a PostgreSQL lock is told within the bound that the locker
// states. The test forks beside threads of its own, and the child starts threads: not under ThreadSanitizer.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "tests/support/postgres_case.h"
#include "tests/support/postgres_server.h"
#include "tests/support/tcp_service.h"

namespace lockr::postgres {
namespace {

using testing::eventually;
using testing::kBusy;
using testing::open_postgres;
using testing::PostgresServer;

/// Two network namespaces of this process, joined by a cable: its main thread is in one, `far` threads in the other.
/// In a child of its own, as a user namespace takes a process with one thread.
class TwoHosts {
 public:
  /// Why there are none here, or nothing.
  static std::optional<std::string> enter() {
    const auto user = ::geteuid();
    const auto group = ::getegid();
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return "a network namespace is refused";
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/uid_map") << "0 " << user << " 1";
    std::ofstream("/proc/self/gid_map") << "0 " << group << " 1";
    if (!sh("ip link set lo up && ip link add va type veth peer name vb && ip addr add 10.77.0.1/24 dev va && "
            "ip link set va up")) {
      return "a network interface is refused";
    }
    return std::nullopt;
  }

  /// Runs the body on the other host.
  static std::jthread far(std::function<void()> body) {
    std::promise<long> number;
    std::shared_ptr<std::promise<void>> plugged = std::make_shared<std::promise<void>>();
    std::jthread thread([&number, plugged, body = std::move(body)] {
      const bool apart = ::unshare(CLONE_NEWNET) == 0;
      number.set_value(apart ? ::syscall(SYS_gettid) : -1);
      plugged->get_future().wait();
      if (!sh("ip addr add 10.77.0.2/24 dev vb && ip link set vb up")) std::abort();
      body();
    });
    const long id = number.get_future().get();
    if (id < 0 || !sh("ip link set vb netns " + std::to_string(id))) std::abort();
    plugged->set_value();
    return thread;
  }

  static void pull_the_cable() {
    if (!sh("ip link set va down")) std::abort();
  }

 private:
  static bool sh(const std::string& script) { return std::system((script + " 2>&1").c_str()) == 0; }
};

constexpr int kNoNetwork = 77;

/// In the child: 0 when the loss was told in time.
int lose_it_by_the_cable(const PostgresServer& server) {
  // Connected while the server can be reached.
  std::mutex mutex;
  std::vector<Descriptor> onward;
  for (int i = 0; i < 4; ++i) onward.push_back(testing::connect_to(server.port()));
  if (const auto reason = TwoHosts::enter()) {
    std::fprintf(stderr, "%s\n", reason->c_str());
    return kNoNetwork;
  }
  const auto next = [&] {
    std::lock_guard lock(mutex);
    Descriptor last = onward.empty() ? Descriptor(-1) : std::move(onward.back());
    if (!onward.empty()) onward.pop_back();
    return last;
  };
  const testing::TcpService relay(
      [&](int fd) {
        if (const Descriptor server_end = next(); server_end.get() >= 0) testing::forward(fd, server_end);
      },
      "10.77.0.1");
  std::promise<bool> holds;
  bool good = false;
  {
    const std::jthread far = TwoHosts::far([&] {
      const auto locker = open_postgres(
          "host=10.77.0.1 user=postgres dbname=postgres sslmode=disable port=" + std::to_string(relay.port()),
          R"(, "lanes": 1, "waiters": 0)", R"(, "reply_timeout": "1s", "connect_timeout": "20s")");
      const auto held = locker->lock(Key::from_scopes({"loss", "cable"}).value());
      holds.set_value(held.has_value());
      if (!held) return;
      const auto bound = locker->capabilities().loss;
      const auto start = std::chrono::steady_clock::now();
      const bool told = eventually([&] { return held->lost(); });
      const auto took = std::chrono::steady_clock::now() - start;
      std::fprintf(stderr, "told after %.0f ms, the bound is %.0f ms\n",
                   std::chrono::duration<double, std::milli>(took).count(),
                   std::chrono::duration<double, std::milli>(bound).count());
      good = told && took <= bound + kBusy;
    });
    if (!holds.get_future().get()) return 1;
    TwoHosts::pull_the_cable();
  }
  return good ? 0 : 1;
}

TEST(PostgresCable, loss_is_told_when_it_is_pulled) {
  const PostgresServer server;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(lose_it_by_the_cable(server));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  if (WEXITSTATUS(status) == kNoNetwork) {
    GTEST_SKIP() << "NOT TESTED HERE: this system gives no network namespace, or `ip` is missing. "
                    "PostgresLoss.a_network_that_falls_silent has the same over a proxy that keeps connections and "
                    "passes nothing.";
  }
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace lockr::postgres
