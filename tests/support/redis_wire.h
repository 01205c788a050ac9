// RedisWire: the server's end of a connection whose other end is the backend's, for tests that play the server.
#pragma once

#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/redis/scripts.h"
#include "backends/redis/stream.h"

namespace lockr::testing {

/// A command as it was sent.
using RedisCommand = std::vector<std::string>;

/// Which script a command calls, by its text or its digest; nullopt: none.
inline std::optional<redis::Script> script_of(const RedisCommand& command) {
  if (command.size() < 3 || (command[0] != "EVAL" && command[0] != "EVALSHA")) return std::nullopt;
  for (std::size_t i = 0; i < redis::kScripts; ++i) {
    const auto script = static_cast<redis::Script>(i);
    if (command[1] == redis::text_of(script) || command[1] == redis::digest_of(script)) return script;
  }
  return std::nullopt;
}
/// How many KEYS it has.
inline std::size_t keys_of(const RedisCommand& command) { return std::stoul(command[2]); }

class RedisWire {
 public:
  RedisWire() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      std::perror("no pair of sockets");
      std::abort();
    }
    client_ = ends[0];
    server_ = ends[1];
  }
  RedisWire(const RedisWire&) = delete;
  RedisWire& operator=(const RedisWire&) = delete;
  ~RedisWire() {
    ::close(server_);
    if (client_ >= 0) ::close(client_);
  }

  /// The client's end, once.
  std::unique_ptr<redis::Stream> stream(redis::Sockets& sockets) {
    return std::make_unique<redis::SocketStream>(std::exchange(client_, -1), sockets);
  }

  void say(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(server_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) return;  // The client has hung up.
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  void hang_up() { ::shutdown(server_, SHUT_RDWR); }
  /// Says no more, and still listens.
  void finish() { ::shutdown(server_, SHUT_WR); }

  /// The commands that have come since the last call.
  std::vector<RedisCommand> hear() {
    std::array<char, 65536> part;
    for (;;) {
      const ssize_t got = ::recv(server_, part.data(), part.size(), MSG_DONTWAIT);
      if (got <= 0) break;
      redisReaderFeed(reader_.get(), part.data(), static_cast<std::size_t>(got));
    }
    std::vector<RedisCommand> commands;
    for (;;) {
      void* object = nullptr;
      if (redisReaderGetReply(reader_.get(), &object) != REDIS_OK || !object) return commands;
      const std::unique_ptr<redisReply, void (*)(void*)> reply(static_cast<redisReply*>(object), freeReplyObject);
      RedisCommand& command = commands.emplace_back();
      for (std::size_t i = 0; i < reply->elements; ++i) {
        command.emplace_back(reply->element[i]->str, reply->element[i]->len);
      }
    }
  }

 private:
  int client_ = -1;
  int server_ = -1;
  const std::unique_ptr<redisReader, void (*)(redisReader*)> reader_{redisReaderCreate(), redisReaderFree};
};

}  // namespace lockr::testing
