#include "redis_peers.h"

#include <unistd.h>

#include <array>
#include <exception>
#include <vector>

namespace lockr::bench {
namespace {

constexpr std::string_view kCompareAndDelete =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

}  // namespace

testing::RedisServer& redis_server() {
  try {
    static testing::RedisServer server;
    return server;
  } catch (const std::exception& error) {
    give_up(error.what());
  }
}

std::unique_ptr<Locker> open_redis(std::uint16_t port, bool fencing) {
  auto config =
      LockerConfig::from_json(R"({"backend": "redis", "redis": {"host": "127.0.0.1", "port": )" + std::to_string(port) +
                              R"(, "fencing": )" + (fencing ? "true" : "false") + "}}");
  if (!config) give_up(config.error().to_string());
  auto locker = open(*config);
  if (!locker) give_up(locker.error().to_string());
  return *std::move(locker);
}

BareRedis::BareRedis(std::uint16_t port) : context_(redisConnect("127.0.0.1", port)) {
  if (!context_ || context_->err != 0) give_up("hiredis can't connect to the private server");
  const Reply loaded = call({"SCRIPT", "LOAD", kCompareAndDelete});
  digest_.assign(loaded->str, loaded->len);
  name_ = std::to_string(getpid()) + ":" + std::to_string(context_->fd) + ":";
}

BareRedis::Reply BareRedis::call(std::initializer_list<std::string_view> words) {
  std::array<const char*, 8> pointers{};
  std::array<std::size_t, 8> sizes{};
  int count = 0;
  for (const std::string_view word : words) {
    pointers[static_cast<std::size_t>(count)] = word.data();
    sizes[static_cast<std::size_t>(count++)] = word.size();
  }
  void* const got = redisCommandArgv(context_, count, pointers.data(), sizes.data());
  Reply reply(static_cast<redisReply*>(got), freeReplyObject);
  if (!reply) give_up(context_->errstr);
  if (reply->type == REDIS_REPLY_ERROR) give_up(reply->str);
  return reply;
}

bool BareRedis::lock(const std::string& key) {
  value_ = name_ + std::to_string(++count_);
  return call({"SET", key, value_, "NX", "PX", "10000"})->type == REDIS_REPLY_STATUS;
}

bool BareRedis::unlock(const std::string& key, const std::string& value) {
  return call({"EVALSHA", digest_, "1", key, value})->integer == 1;
}

void BareRedis::ping() { call({"PING"}); }

}  // namespace lockr::bench
