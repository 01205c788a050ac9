#include "tests/torture/postgres_rig.h"

#include <signal.h>

#include <chrono>
#include <thread>

#include "lockr/config.h"
#include "tests/torture/engine_faults.h"
#include "tests/torture/process_faults.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using testing::PostgresServer;
using testing::Psql;

// A worker that lost its connections has new ones by then.
constexpr auto kReconnected = 500ms;

std::string backends_of(pid_t worker) {
  return " from pg_stat_activity where application_name like 'lockr/%:" + std::to_string(worker) + "'";
}

/// `function` is called on one of the worker's connections, or on all.
bool on_backends(PostgresServer& server, const std::string& name, const std::string& function, bool all, int effects,
                 Random& random, Scene& scene) {
  const auto engine = scene.engine();
  const auto victim = scene.victim(random, true);
  if (!victim) return false;
  Psql control(server.dsn());
  const std::size_t record = scene.begin(name, effects, victim->worker(), victim->incarnation());
  const auto hit = control.rows("select " + function + "(pid) from (select pid" + backends_of(victim->pid()) +
                                (all ? "" : " order by random() limit 1") + ") as hit");
  scene.end(record, kReconnected);
  return !hit.empty();
}

bool restart(PostgresServer& server, const std::string& name, bool fast, Scene& scene) {
  const auto engine = scene.engine();
  const std::size_t away = scene.begin(name, kDisturbs | kCuts, kEveryone);
  const std::size_t stops = scene.begin(name, kLosesAll, kEveryone);
  server.stop(fast);
  scene.end(stops);
  server.start();
  scene.end(away, 2 * kReconnected);
  return true;
}

/// A server process that stands still, maybe with a lock of the server's own in its hands.
bool freeze(PostgresServer& server, const std::string& name, Random& random, Scene& scene) {
  const auto engine = scene.engine();
  const auto victim = scene.victim(random, false);
  if (!victim) return false;
  Psql control(server.dsn());
  const auto pids = control.rows("select pid" + backends_of(victim->pid()) + " order by random() limit 1");
  if (pids.empty()) return false;
  const std::size_t record = scene.begin(name, kDisturbs, kEveryone);
  ::kill(std::stoi(pids[0]), SIGSTOP);
  scene.sleep(between(random, 20, 200));
  ::kill(std::stoi(pids[0]), SIGCONT);
  scene.end(record);
  return true;
}

std::vector<std::string> with(std::vector<std::string> some, const std::vector<std::string>& more) {
  some.insert(some.end(), more.begin(), more.end());
  return some;
}

}  // namespace

PostgresRig::PostgresRig(std::string session_ttl, testing::Place place, std::vector<std::string> settings)
    : Rig({}),
      server_(with(std::move(settings), {"max_connections=200", "superuser_reserved_connections=10"}), place),
      session_ttl_(std::move(session_ttl)) {
  server_.prepare_fencing();
}

std::string PostgresRig::config(int) const {
  const std::string ttl = session_ttl_.empty() ? "" : R"(, "session_ttl": ")" + session_ttl_ + "\"";
  return R"({"backend": "postgres", )" + fields() + R"("reply_timeout": "1s", "postgres": {"dsn": ")" + dsn() +
         R"(", "lanes": 2, "waiters": 2, "fencing": true)" + ttl + "}}";
}

std::vector<std::unique_ptr<Fault>> PostgresRig::faults() {
  auto faults = process_faults(lease());
  const auto add = [&](const char* name, double pace, EngineFault::Strike strike) {
    faults.push_back(std::make_unique<EngineFault>(name, pace, std::move(strike)));
  };
  add("terminate", 2, [this](const std::string& name, Random& random, Scene& scene) {
    return on_backends(server_, name, "pg_terminate_backend", false, kMayLose | kCuts, random, scene);
  });
  add("terminate_all", 0.5, [this](const std::string& name, Random& random, Scene& scene) {
    return on_backends(server_, name, "pg_terminate_backend", true, kLosesAll | kCuts, random, scene);
  });
  add("cancel_backend", 4, [this](const std::string& name, Random& random, Scene& scene) {
    return on_backends(server_, name, "pg_cancel_backend", false, kFails, random, scene);
  });
  add("freeze_backend", 0.5,
      [this](const std::string& name, Random& random, Scene& scene) { return freeze(server_, name, random, scene); });
  add("restart_fast", 0.1,
      [this](const std::string& name, Random&, Scene& scene) { return restart(server_, name, true, scene); });
  add("restart_immediate", 0.1,
      [this](const std::string& name, Random&, Scene& scene) { return restart(server_, name, false, scene); });
  return faults;
}

// Releases that nobody waits for, and the sessions of the dead, have a moment.
std::vector<std::string> PostgresRig::leftovers(bool workers) {
  const Nanos deadline = now() + 3 * kSecond;
  for (;;) {
    std::vector<std::string> left;
    for (const std::string& lock : server_.advisory_locks()) left.push_back("pg_locks: " + lock);
    if (!workers) {
      for (const std::string& session :
           Psql(server_.dsn())
               .rows("select application_name, query from pg_stat_activity where application_name like "
                     "'lockr/%'")) {
        left.push_back("pg_stat_activity: " + session);
      }
    }
    if (left.empty() || now() > deadline) return left;
    std::this_thread::sleep_for(5ms);
  }
}

// A wait that everyone left stands in the server's queue for 0.8 s.
Bounds PostgresRig::bounds() const { return {.wake = 800 * kMillisecond, .reserve = kSecond}; }

std::optional<std::chrono::nanoseconds> PostgresRig::lease() const {
  if (session_ttl_.empty()) return std::nullopt;
  return parse_duration(session_ttl_).value();
}

}  // namespace lockr::torture
