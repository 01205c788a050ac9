#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "contest.h"

namespace lockr::bench {
namespace {

std::pair<int, int> connected_pair() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) give_up("socketpair failed");
  return {ends[0], ends[1]};
}

std::pair<int, int> connected_over_tcp() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, generic, size) != 0 || listen(listener, 1) != 0 || getsockname(listener, generic, &size) != 0 ||
      connect(client, generic, size) != 0) {
    give_up("no connection over loopback");
  }
  const int server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  close(listener);
  const int on = 1;
  for (const int end : {client, server}) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {client, server};
}

// As long as a small statement with its parameter is.
constexpr std::size_t kMessage = 64;

class Echo : public Client {
 public:
  Echo(bool tcp, pid_t beside) {
    const auto [client, server] = tcp ? connected_over_tcp() : connected_pair();
    child_ = fork();
    if (child_ < 0) give_up("fork failed");
    if (child_ == 0) {
      close(client);
      cpu_set_t cpus;
      if (sched_getaffinity(beside, sizeof cpus, &cpus) == 0) sched_setaffinity(0, sizeof cpus, &cpus);
      answer(server);
    }
    close(server);
    socket_ = client;
  }
  ~Echo() override {
    close(socket_);
    waitpid(child_, nullptr, 0);
  }

  void cycle(std::size_t, bool) override {
    for (int i = 0; i < 2; ++i) {
      std::array<char, kMessage> message{};
      if (write(socket_, message.data(), message.size()) != kMessage || read(socket_, message.data(), kMessage) <= 0) {
        give_up("the echo is gone");
      }
    }
  }
  void batch(std::size_t) override { cycle(0, false); }
  void hold(std::size_t) override {}

 private:
  [[noreturn]] static void answer(int socket) {
    std::array<char, kMessage> message{};
    for (;;) {
      const ssize_t got = read(socket, message.data(), message.size());
      if (got <= 0 || write(socket, message.data(), static_cast<std::size_t>(got)) != got) std::_Exit(0);
    }
  }

  pid_t child_;
  int socket_ = -1;
};

}  // namespace

Contender echo_floor(bool tcp, std::function<pid_t()> beside) {
  return {.id = "floor",
          .name = tcp ? "two echoes over TCP, no server at all" : "two echoes over a unix socket, no server at all",
          .client = [tcp, beside = std::move(beside)](std::size_t,
                                                      std::size_t) { return std::make_unique<Echo>(tcp, beside()); },
          .most_members = 1,
          .most_held = 0,
          .is_floor = true};
}

}  // namespace lockr::bench
