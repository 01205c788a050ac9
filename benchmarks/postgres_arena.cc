// PostgreSQL: lockr, libpq by hand, pgbench with the same two statements, and tooz.
#include <dirent.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "lockr_client.h"
#include "postgres_peers.h"
#include "tests/support/postgres_server.h"
#include "worker.h"

namespace lockr::bench {
namespace {

// ---- libpq by hand

enum class Habit { plain, pings };

class LibpqClient : public Client {
 public:
  LibpqClient(std::size_t member, Habit habit)
      : connection_(server_dsn()), base_(static_cast<std::int64_t>(member) * 1'000'000), habit_(habit) {}

  void cycle(std::size_t key, bool shared) override {
    const std::int64_t identity = identity_of(key);
    if (habit_ == Habit::pings) connection_.ping();
    if (shared) {
      connection_.lock_shared(identity);
    } else {
      connection_.lock(identity);
    }
    if (habit_ == Habit::pings) connection_.ping();
    if (shared) {
      connection_.unlock_shared(identity);
    } else {
      connection_.unlock(identity);
    }
  }
  void batch(std::size_t count) override {
    for (std::size_t i = 1; i <= count; ++i) connection_.lock(identity_of(i));
    for (std::size_t i = 1; i <= count; ++i) connection_.unlock(identity_of(i));
  }
  void hold(std::size_t count) override {
    connection_.lock(0);
    if (count > 1) connection_.lock_range(kHeldFrom, count - 1);
  }

 private:
  static constexpr std::int64_t kHeldFrom = 1'000'000'000'000;
  std::int64_t identity_of(std::size_t key) const { return key == 0 ? 0 : base_ + static_cast<std::int64_t>(key); }

  Bare connection_;
  std::int64_t base_;
  Habit habit_;
};

MakeClient libpq_clients(Habit habit) {
  return [habit](std::size_t member, std::size_t) { return std::make_unique<LibpqClient>(member, habit); };
}

// ---- pgbench

std::string pair_of(const std::string& suffix, const std::string& key) {
  return "SELECT pg_advisory_lock" + suffix + "(" + key + ");\nSELECT pg_advisory_unlock" + suffix + "(" + key + ");\n";
}

std::string pgbench_script(const Task& task) {
  const std::string last = std::to_string(task.keys);
  switch (task.work) {
    case Work::own_keys:
      return "\\set key :client_id * 1000000 + random(1, " + last + ")\n" + pair_of("", ":key");
    case Work::hot_key:
      return pair_of("", "0");
    case Work::hot_key_shared:
      return "\\set turn random(1, 10)\n\\if :turn > 1\n" + pair_of("_shared", "0") + "\\else\n" + pair_of("", "0") +
             "\\endif\n";
    case Work::batch:
      break;
  }
  std::string script;
  for (std::size_t i = 1; i <= kBatch; ++i) script += "SELECT pg_advisory_lock(" + std::to_string(i) + ");\n";
  for (std::size_t i = 1; i <= kBatch; ++i) script += "SELECT pg_advisory_unlock(" + std::to_string(i) + ");\n";
  return script;
}

// It counts in whole seconds, or in transactions: a short run is so many of them.
Outcome run_pgbench(const Task& task) {
  const testing::DaemonDirectory directory;
  directory.write("script", pgbench_script(task));
  const std::string members = std::to_string(task.members);
  const std::string length = task.span < std::chrono::milliseconds(100) ? "-t 50" : "-T 1";
  const std::string text =
      output_of(testing::postgres_program("pgbench") + " -n -M prepared -c " + members + " -j 2 " + length + " -f " +
                (directory / "script") + " -h " + postgres_server().directory().path() + " -p " +
                std::to_string(postgres_server().port()) + " -U postgres postgres");
  const std::size_t at = text.find("tps = ");
  if (at == text.npos) give_up("pgbench said no tps:\n" + text);
  return {.cycles_per_s = std::atof(text.c_str() + at + 6)};
}

bool has_pgbench() {
  try {
    return !testing::postgres_program("pgbench").empty();
  } catch (const std::exception&) {
    return false;
  }
}

// ---- the server

// Of the server's process and what it started, also of what has ended since.
double cpu_seconds(pid_t server) {
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  double sum = 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> all(opendir("/proc"), closedir);
  while (const dirent* const entry = readdir(all.get())) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid <= 0) continue;
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    std::getline(stat, line);
    const std::size_t name_end = line.rfind(')');
    if (name_end == line.npos) continue;
    std::istringstream words(line.substr(name_end + 2));
    std::vector<std::string> fields;
    for (std::string word; words >> word;) fields.push_back(word);
    const bool is_server = pid == server;
    if (fields.size() < 15 || (!is_server && std::atoi(fields[1].c_str()) != server)) continue;
    clockid_t clock{};
    timespec time{};
    if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &time) == 0) {
      sum += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
    }
    if (is_server) sum += tick * (std::atof(fields[13].c_str()) + std::atof(fields[14].c_str()));
  }
  return sum;
}

Arena make_arena() {
  const auto open = [] {
    return open_roomy(R"({"backend": "postgres", "postgres": {"dsn": ")" + server_dsn() + R"("}})");
  };
  const std::string address = "postgresql://postgres@/postgres?host=" + postgres_server().directory().path() +
                              "&port=" + std::to_string(postgres_server().port());
  Contender tooz = python_contender("tooz", "python3-tooz, postgresql", "tooz", address);
  tooz.missing = !python_has({"tooz", "psycopg2"});
  static testing::Psql control(server_dsn());
  return {
      .backend = "postgres",
      .contenders =
          {
              {.id = "lockr", .name = "lockr", .client = lockr_clients(open), .most_held = 10'000, .most_waiters = 500},
              {.id = "lockr_release",
               .name = "lockr, waiting for the answer of release()",
               .client = lockr_clients(open, Ending::release),
               .most_held = 0},
              {.id = "libpq",
               .name = "libpq, two prepared statements",
               .client = libpq_clients(Habit::plain),
               .most_held = 10'000,
               .most_waiters = 100},
              {.id = "libpq_pings",
               .name = "libpq, ping-lock-ping-unlock",
               .client = libpq_clients(Habit::pings),
               .most_held = 0},
              {.id = "pgbench",
               .name = "pgbench, the same two statements",
               .run = [](const Task& task) { return run_pgbench(task); },
               .missing = !has_pgbench()},
              std::move(tooz),
              echo_floor(false, [] { return postgres_server().pid(); }),
          },
      .keys = 6'400,
      .server = Server{.pid = postgres_server().pid(),
                       .cpu_seconds = [] { return cpu_seconds(postgres_server().pid()); },
                       .connections =
                           [] {
                             return std::atof(control
                                                  .row("SELECT count(*) FROM pg_stat_activity "
                                                       "WHERE backend_type = 'client backend'")
                                                  .c_str());
                           }},
  };
}

}  // namespace

Arena& arena() {
  static Arena made = make_arena();
  return made;
}

}  // namespace lockr::bench
