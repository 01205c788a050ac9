// A host with few ports for clients: servers come back on theirs, and a client that TCP connects to itself is told that
// it was refused. Tests fork, and the children start threads: not under ThreadSanitizer.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/postgres/connection.h"
#include "lockr/lockr.h"
#include "tests/support/network.h"
#include "tests/support/port.h"
#include "tests/support/postgres_server.h"
#include "tests/support/redis_server.h"
#include "tests/support/tcp_service.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using testing::Network;
using testing::Port;

constexpr unsigned kFirst = 40'000;
constexpr int kRefused = 77;

// What the body throws fails the case; the child has no other threads.
int status_of(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      body();
      ::_exit(0);
    } catch (const Network::Refused& reason) {
      std::fprintf(stderr, "%s\n", reason.what());
      ::_exit(kRefused);
    } catch (const std::exception& reason) {
      std::fprintf(stderr, "FAILED: %s\n", reason.what());
      ::_exit(1);
    }
  }
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Runs the body on a host whose clients have so many ports.
void on_a_host_with(unsigned client_ports, const std::function<void()>& body) {
  const int status = status_of([&] {
    Network::prepare();
    testing::enter_lone_host(kFirst, kFirst + client_ports - 1);
    body();
  });
  if (status == kRefused) GTEST_SKIP() << "NOT TESTED HERE: this system gives no network of our own";
  EXPECT_EQ(status, 0);
}

void require(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

/// Clients of every port that is left, connected to a service.
class Crowd {
 public:
  Crowd() {
    for (Descriptor each = testing::connect_to(service_.port()); each.get() >= 0;
         each = testing::connect_to(service_.port())) {
      clients_.push_back(std::move(each));
    }
  }
  std::size_t size() const { return clients_.size(); }

 private:
  testing::TcpService service_{[](int fd) {
    while (!testing::receive_some(fd).empty()) {
    }
  }};
  std::vector<Descriptor> clients_;
};

template <class Server>
void comes_back(Server& server, const std::function<void()>& stop) {
  for (int i = 0; i < 3; ++i) {
    stop();
    const Crowd crowd;
    require(crowd.size() > 0, "there are clients while the server is down");
    server.start();
  }
}

TEST(Ports, a_redis_server_comes_back_whatever_ports_clients_have) {
  on_a_host_with(12, [] {
    testing::RedisServer server;
    comes_back(server, [&] { server.stop(); });
  });
}

TEST(Ports, a_postgres_server_comes_back_whatever_ports_clients_have) {
  on_a_host_with(12, [] {
    testing::PostgresServer server;
    comes_back(server, [&] { server.stop(true); });
  });
}

TEST(Ports, no_client_has_a_port_that_is_kept) {
  on_a_host_with(2, [] {
    testing::set_client_ports(1024, 65'535);
    const Port kept;
    testing::set_client_ports(kept.number(), kept.number());
    require(testing::connect_to(kept.number()).get() < 0, "nobody listens");
    const Crowd crowd;
    require(crowd.size() == 0, "the only port of clients is kept");
  });
}

TEST(Ports, what_is_no_clients_is_taken_first_and_once) {
  on_a_host_with(2, [] {
    testing::set_client_ports(1032, 65'535);
    std::set<std::uint16_t> numbers;
    std::vector<Port> ports(6);
    for (const Port& each : ports) {
      require(each.number() < 1032, "it is no client's");
      require(numbers.insert(each.number()).second, "it is given out once");
    }
    const int status = status_of([&] {
      std::vector<Port> more(4);
      require(more[1].number() < 1032 && more[2].number() >= 1032, "another process is given what is left");
      for (const Port& each : more) require(numbers.insert(each.number()).second, "and nothing twice");
    });
    require(status == 0, "the other process");
  });
}

// ---- where nobody listens on the only port that a client can have

std::string refusal_of(const std::string& url) {
  const auto config = LockerConfig::from_url(url);
  require(config.has_value(), "the url");
  const auto opened = open(*config);
  require(!opened.has_value(), "it can't be opened");
  require(opened.error().code() == errc::connection_lost, "it is " + opened.error().to_string());
  return opened.error().message();
}

void expect_refused(const std::string& url, std::size_t times) {
  const std::string said = refusal_of(url);
  std::size_t seen = 0;
  for (std::size_t at = said.find("Connection refused"); at != said.npos;
       at = said.find("Connection refused", at + 1)) {
    ++seen;
  }
  require(seen == times, "it says " + said);
}

TEST(SelfConnect, is_a_refusal_for_redis) {
  on_a_host_with(1, [] { expect_refused("redis://127.0.0.1:40000", 1); });
}

TEST(SelfConnect, is_a_refusal_for_redis_over_tls) {
  on_a_host_with(1, [] { expect_refused("rediss://127.0.0.1:40000", 1); });
}

TEST(SelfConnect, is_a_refusal_for_postgres) {
  on_a_host_with(1, [] { expect_refused("postgresql://u@127.0.0.1:40000/d", 1); });
}

TEST(SelfConnect, is_a_refusal_for_each_host_of_postgres) {
  on_a_host_with(
      1, [] { expect_refused("postgresql://u@127.0.0.1:40000,127.0.0.2:40000,127.0.0.1:40000/d?sslmode=disable", 3); });
}

TEST(SelfConnect, does_not_keep_postgres_from_the_next_host) {
  on_a_host_with(1, [] {
    const testing::PostgresServer server;
    const postgres::Target target{.dsn = "host=127.0.0.1,127.0.0.1 port=40000," + std::to_string(server.port()) +
                                         " user=postgres dbname=postgres sslmode=disable",
                                  .application_name = "lockr/test"};
    postgres::Sockets sockets;
    spi::Runtime& runtime = spi::system_runtime();
    const auto opened = postgres::Connection::open(target, sockets, {runtime, runtime.steady_now() + 20s});
    require(opened.has_value(), opened ? "" : opened.error().to_string());
    require(PQport((*opened)->raw()) == std::to_string(server.port()), "it is connected to the server");
  });
}

TEST(SelfConnect, is_a_refusal_for_the_proxy) {
  on_a_host_with(1, [] { require(testing::connect_to(40'000).get() < 0, "nobody listens"); });
}

}  // namespace
}  // namespace lockr
