#include "tests/torture/redis_rig.h"

#include <chrono>
#include <thread>

#include "tests/torture/engine_faults.h"
#include "tests/torture/process_faults.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using testing::RedisClient;
using testing::RedisServer;

constexpr auto kReconnected = 500ms;
constexpr std::chrono::milliseconds kTtl = 1s;
// A lease that was about to be renewed has 417 ms left; a busy machine needs some of them.
constexpr std::chrono::milliseconds kSafely = 250ms;

// Who hears nothing of the server for so long may be left without a lease.
int silence(std::chrono::milliseconds length) { return kDisturbs | (length >= kSafely ? kMayLose : 0); }

/// Words of a CLIENT LIST line: "… addr=/tmp/x:0 …" is word_of(line, "addr=").
std::string word_of(const std::string& line, const std::string& start) {
  const std::size_t at = line.find(start);
  return at == line.npos ? "" : line.substr(at + start.size(), line.find(' ', at) - at - start.size());
}

std::vector<std::string> clients_of(RedisClient& control, pid_t worker) {
  const std::string list = control.one({"CLIENT", "LIST"});
  std::vector<std::string> ids;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find('\n', at), list.size());
    const std::string line = list.substr(at, end - at);
    const std::string client = word_of(line, "name=");
    if (client.starts_with("lockr/") && client.ends_with(":" + std::to_string(worker)))
      ids.push_back(word_of(line, "id="));
    at = end + 1;
  }
  return ids;
}

bool kill_client(RedisServer& server, const std::string& name, Random& random, Scene& scene) {
  const auto engine = scene.engine();
  const auto victim = scene.victim(random, true);
  if (!victim) return false;
  RedisClient control(server.socket());
  const auto ids = clients_of(control, victim->pid());
  if (ids.empty()) return false;
  const std::size_t record = scene.begin(name, kCuts | kDisturbs, victim->worker(), victim->incarnation());
  control.one({"CLIENT", "KILL", "ID", ids[random() % ids.size()]});
  scene.end(record, kReconnected);
  return true;
}

bool kill_listeners(RedisServer& server, const std::string& name, Scene& scene) {
  const auto engine = scene.engine();
  RedisClient control(server.socket());
  const std::size_t record = scene.begin(name, kCuts | kDisturbs, kEveryone);
  control.one({"CLIENT", "KILL", "TYPE", "pubsub"});
  scene.end(record, kReconnected);
  return true;
}

bool keep_silent(RedisServer& server, const std::string& name, Random& random, Scene& scene, bool pause) {
  const auto engine = scene.engine();
  RedisClient control(server.socket());
  const auto length = between(random, 20, 400);
  const std::size_t record = scene.begin(name, silence(length), kEveryone);
  if (pause) {
    control.one({"CLIENT", "PAUSE", std::to_string(length.count()), "ALL"});
    scene.sleep(length);
  } else {
    control.one({"DEBUG", "SLEEP", std::to_string(static_cast<double>(length.count()) / 1000)});
  }
  scene.end(record);
  return true;
}

bool flush_scripts(RedisServer& server, const std::string& name, Scene& scene) {
  const auto engine = scene.engine();
  RedisClient control(server.socket());
  const std::size_t record = scene.begin(name, 0, kEveryone);
  control.one({"SCRIPT", "FLUSH"});
  scene.end(record);
  return true;
}

// It keeps nothing on a disk, so everybody's locks are gone.
bool restart(RedisServer& server, const std::string& name, Scene& scene) {
  const auto engine = scene.engine();
  const std::size_t away = scene.begin(name, kDisturbs | kCuts, kEveryone);
  const std::size_t stops = scene.begin(name, kLosesAll, kEveryone);
  server.stop();
  scene.end(stops);
  server.start();
  scene.end(away, 2 * kReconnected);
  return true;
}

}  // namespace

RedisRig::RedisRig(std::vector<std::string> settings, std::vector<std::string> prefix, testing::Place place)
    : Rig({}), server_(std::move(settings), std::move(prefix), place) {}

std::string RedisRig::config(int) const {
  return R"({"backend": "redis", )" + fields() + R"("reply_timeout": "1s", "redis": {)" + address() +
         R"(, "ttl": "1s"}})";
}

std::vector<std::unique_ptr<Fault>> RedisRig::faults() {
  auto faults = process_faults(lease());
  const auto add = [&](const char* name, double pace, EngineFault::Strike strike) {
    faults.push_back(std::make_unique<EngineFault>(name, pace, std::move(strike)));
  };
  add("client_kill", 2, [this](const std::string& name, Random& random, Scene& scene) {
    return kill_client(server_, name, random, scene);
  });
  add("kill_listeners", 0.5,
      [this](const std::string& name, Random&, Scene& scene) { return kill_listeners(server_, name, scene); });
  add("pause", 1, [this](const std::string& name, Random& random, Scene& scene) {
    return keep_silent(server_, name, random, scene, true);
  });
  add("sleep", 0.5, [this](const std::string& name, Random& random, Scene& scene) {
    return keep_silent(server_, name, random, scene, false);
  });
  add("script_flush", 1,
      [this](const std::string& name, Random&, Scene& scene) { return flush_scripts(server_, name, scene); });
  add("restart", 0.1, [this](const std::string& name, Random&, Scene& scene) { return restart(server_, name, scene); });
  return faults;
}

// A lock of the dead has its lease; a queue goes a minute after the last of them looked, by itself.
std::vector<std::string> RedisRig::leftovers(bool) {
  const Nanos deadline = now() + 4 * kSecond;
  for (;;) {
    std::vector<std::string> left;
    RedisClient control(server_.socket());
    for (const std::string& name : server_.leftovers()) {
      if (name.starts_with("lockr:q:") && control.one({"PTTL", name}) != "-1") continue;
      left.push_back("Redis: " + name);
    }
    if (left.empty() || now() > deadline) return left;
    std::this_thread::sleep_for(5ms);
  }
}

Bounds RedisRig::bounds() const {
  // A wake-up that was lost is made up for after a second; who was named and does not come has half a second.
  return {.wake = kSecond, .reserve = 1500 * kMillisecond};
}

std::optional<std::chrono::nanoseconds> RedisRig::lease() const { return kTtl; }

}  // namespace lockr::torture
