// Redis: lockr with fencing tokens, hiredis by hand, redis-py's Lock and tooz.
#include <time.h>

#include <thread>

#include "lockr_client.h"
#include "redis_peers.h"
#include "worker.h"

namespace lockr::bench {
namespace {

// Waits by asking again, as the plain commands leave no other way.
class HiredisClient : public Client {
 public:
  HiredisClient(std::size_t member, std::size_t keys) : connection_(redis_server().port()) {
    names_.emplace_back("bare:hot");
    for (std::size_t i = 0; i < keys; ++i) {
      names_.push_back("bare:" + std::to_string(member) + ":" + std::to_string(i));
    }
  }
  ~HiredisClient() override {
    for (const auto& [key, value] : held_) connection_.unlock(key, value);
  }

  void cycle(std::size_t key, bool) override {
    lock(names_[key]);
    unlock(names_[key], connection_.value());
  }
  void batch(std::size_t count) override {
    std::vector<std::string> values;
    for (std::size_t i = 1; i <= count; ++i) {
      lock(names_[i]);
      values.push_back(connection_.value());
    }
    for (std::size_t i = 1; i <= count; ++i) unlock(names_[i], values[i - 1]);
  }
  void hold(std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      const std::string key = i == 0 ? names_[0] : "bare:held:" + std::to_string(i);
      lock(key);
      held_.emplace_back(key, connection_.value());
    }
  }

 private:
  void lock(const std::string& key) {
    while (!connection_.lock(key)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  void unlock(const std::string& key, const std::string& value) {
    if (!connection_.unlock(key, value)) give_up("a key of this benchmark was not held");
  }

  BareRedis connection_;
  std::vector<std::string> names_;
  std::vector<std::pair<std::string, std::string>> held_;
};

double cpu_seconds(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) give_up("no CPU time of the server");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

Arena make_arena() {
  const std::string port = std::to_string(redis_server().port());
  const auto open = [port] {
    return open_roomy(R"({"backend": "redis", "redis": {"host": "127.0.0.1", "port": )" + port +
                      R"(, "fencing": true}})");
  };
  Contender redis_py = python_contender("redis_py", "python3-redis Lock", "redis-py", "redis://127.0.0.1:" + port);
  redis_py.missing = !python_has({"redis"});
  Contender tooz = python_contender("tooz", "python3-tooz, redis", "tooz", "redis://127.0.0.1:" + port);
  tooz.missing = !python_has({"tooz", "redis"});
  static testing::RedisClient control(redis_server().socket());
  return {
      .backend = "redis",
      .contenders =
          {
              {.id = "lockr",
               .name = "lockr",
               .client = lockr_clients(open),
               .most_held = 100'000,
               .most_waiters = 500},
              {.id = "lockr_release",
               .name = "lockr, waiting for the answer of release()",
               .client = lockr_clients(open, Ending::release),
               .most_held = 0},
              {.id = "hiredis",
               .name = "hiredis, SET NX PX and compare-and-delete",
               .client = [](std::size_t member,
                            std::size_t keys) { return std::make_unique<HiredisClient>(member, keys); },
               .most_held = 10'000,
               .most_waiters = 100},
              std::move(redis_py),
              std::move(tooz),
              echo_floor(true, [] { return redis_server().pid(); }),
          },
      .keys = 6'400,
      .server = Server{.pid = redis_server().pid(),
                       .cpu_seconds = [] { return cpu_seconds(redis_server().pid()); },
                       .connections = [] { return static_cast<double>(control.info("clients", "connected_clients:")); },
                       .memory_bytes = [] { return static_cast<double>(control.info("memory", "used_memory:")); }},
  };
}

}  // namespace

Arena& arena() {
  static Arena made = make_arena();
  return made;
}

}  // namespace lockr::bench
