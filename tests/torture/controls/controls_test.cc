// The harness would have seen it: backends that break one promise each, and what must find that.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/postgres_server.h"
#include "tests/support/redis_server.h"
#include "tests/torture/controls/lease_table.h"
#include "tests/torture/floors.h"
#include "tests/torture/report.h"
#include "tests/torture/run.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using testing::DaemonDirectory;

/// A backend of a module in this folder.
std::string with_module(const std::string& module, const std::string& backend, const std::string& section) {
  const char* const folder = std::getenv("LOCKR_TEST_CONTROLS");
  return R"({"backend": ")" + backend + R"(", "plugin": ")" + (folder ? folder : "LOCKR_TEST_CONTROLS is not set") +
         "/" + module + R"(.so", ")" + backend + R"(": {)" + section + "}}";
}

/// Nobody waits for anything else but a release: that is due in this.
constexpr Bounds kQuick{.wake = 100 * kMillisecond, .reserve = kMillisecond};

/// One stretch, and then on until it is enough: a machine that is slow or busy has time for that, too.
Run short_run(double stretch_seconds = 0.4) {
  Run run;
  run.seconds = run.stretch_seconds = stretch_seconds;
  run.at_most_seconds = 40;
  run.long_timeout = 0ms;  // Or rests would be long where a lock stays for ever.
  run.keys = 2;
  run.shared_percent = 0;
  run.no_faults = true;
  return run;
}

/// The run fails by this oracle, and by some never. A crash, or a worker that can't open, throws.
void is_found_by(Oracle oracle, Rig& rig, Run run, const std::vector<Oracle>& never = {}) {
  run.enough = [oracle](const Outcome& outcome) { return outcome.verdict.counts.contains(oracle); };
  const Outcome outcome = torture(rig, run);
  const auto& counts = outcome.verdict.counts;
  std::string found;
  for (const auto& [by, count] : counts) found += std::string(name_of(by)) + " " + std::to_string(count) + "  ";
  std::printf("after %.1f s, %lu grants: %s\n", outcome.seconds, static_cast<unsigned long>(outcome.verdict.grants),
              found.c_str());
  EXPECT_TRUE(counts.contains(oracle)) << name_of(oracle) << " found nothing";
  for (const Oracle other : never) EXPECT_FALSE(counts.contains(other)) << name_of(other);
}

void is_clean(Rig& rig, Run run) {
  const Floors floors;
  run.enough = [&](const Outcome& outcome) {
    return (outcome.verdict.grants >= 1000 && floors.reached(outcome)) || !outcome.passed();
  };
  const Outcome outcome = torture(rig, run);
  EXPECT_TRUE(outcome.passed()) << failure_of(rig.name(), rig, run, outcome);
  EXPECT_EQ(floors.missed(outcome), "");
}

// ---- leases in a file, right and wrong

/// What a server does that is started anew and has forgotten everything.
class Forget final : public Fault {
 public:
  explicit Forget(LeaseTable& table) : table_(table) {}
  std::string name() const override { return "forget"; }
  double pace() const override { return 2; }
  bool strike(Random&, Scene& scene) override {
    const std::size_t record = scene.begin(name(), kLosesAll);
    table_.forget_all();
    scene.end(record);
    return true;
  }

 private:
  LeaseTable& table_;
};

class LeaseRig final : public Rig {
 public:
  static constexpr auto kLease = 400ms;  // As lease_module.cc has it.

  explicit LeaseRig(std::string broken) : Rig(""), broken_(std::move(broken)) {}

  std::string name() const override { return "lease"; }
  std::string config(int /*worker*/) const override {
    return with_module("lease_module", "lease",
                       R"("table": ")" + (directory_ / "table") + R"(", "broken": ")" + broken_ + "\"");
  }
  std::vector<std::unique_ptr<Fault>> faults() override {
    std::vector<std::unique_ptr<Fault>> faults = Rig::faults();
    faults.push_back(std::make_unique<Forget>(table_));
    return faults;
  }
  /// The dead keep what they had for as long as a lease lasts.
  std::vector<std::string> leftovers(bool /*workers*/) override {
    const auto deadline = std::chrono::steady_clock::now() + 2 * kLease;
    while (table_.count_held() != 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(2ms);
    const std::size_t held = table_.count_held();
    if (held == 0) return {};
    return {std::to_string(held) + " leases are held at rest"};
  }
  Bounds bounds() const override { return kQuick; }
  std::optional<std::chrono::nanoseconds> lease() const override { return kLease; }

 private:
  const std::string broken_;
  DaemonDirectory directory_;
  LeaseTable table_{directory_ / "table"};
};

Run with_faults(Run run, std::map<std::string, double> faults) {
  run.no_faults = false;
  run.faults = std::move(faults);
  return run;
}

/// Everybody holds for long, mostly a key that nobody else wants, so that leases are renewed and losses must be told.
Run with_long_holds(Run run, std::chrono::microseconds hold) {
  run.hold = hold;
  run.hold_one_in = 1;
  run.keys = 32;
  return run;
}

TEST(Controls, the_engine_that_the_others_break_is_clean) {
  LeaseRig rig("nothing");
  torture::Run run = short_run(1);
  run.seconds = 2;
  is_clean(rig, with_faults(run, {{"kill", 5}, {"stop", 3}, {"stop_long", 1}, {"forget", 1}}));
}

TEST(Controls, tokens_that_start_anew_after_a_restart) {
  LeaseRig rig("resets_tokens");
  is_found_by(Oracle::fence, rig, short_run(), {Oracle::exclusion});
}

TEST(Controls, a_renewal_after_the_release) {
  LeaseRig rig("renews_released");
  is_found_by(Oracle::leak, rig, with_long_holds(short_run(), 100ms), {Oracle::exclusion});
}

TEST(Controls, a_release_that_frees_the_next_holder) {
  LeaseRig rig("releases_twice");
  is_found_by(Oracle::exclusion, rig, short_run());
}

TEST(Controls, locks_of_the_dead_that_stay) {
  LeaseRig rig("has_no_ttl");
  torture::Run run = with_faults(short_run(0.8), {{"kill", 8}});
  run.timeout = 1500ms;  // Longer than the dead may keep it.
  run.keys = 48;         // So that nobody's lock_all waits for the same key, which would be an excuse.
  is_found_by(Oracle::takeover, rig, run, {Oracle::exclusion});
}

TEST(Controls, losses_that_are_not_told) {
  LeaseRig rig("hides_losses");
  is_found_by(Oracle::loss, rig, with_faults(with_long_holds(short_run(), 1s), {{"forget", 8}}));
}

TEST(Controls, a_resource_that_does_not_look_at_tokens) {
  LeaseRig rig("nothing");
  torture::Run run = with_faults(short_run(), {{"stop_long", 4}});
  run.hold = 100ms;
  run.careless_resource = true;
  is_found_by(Oracle::stale, rig, run, {Oracle::exclusion, Oracle::fence});
}

// ---- waiting for a bell

class BellRig final : public Rig {
 public:
  explicit BellRig(bool broken) : Rig(""), broken_(broken) {}
  std::string name() const override { return "bell"; }
  std::string config(int /*worker*/) const override {
    return with_module("bell_module", "bell",
                       R"("table": ")" + (directory_ / "table") + R"(", "broken": )" + (broken_ ? "true" : "false"));
  }
  Bounds bounds() const override { return kQuick; }

 private:
  const bool broken_;
  DaemonDirectory directory_;
};

Run with_many_keys(Run run) {
  run.keys = 24;
  return run;
}

TEST(Controls, the_bell_that_the_other_breaks_is_clean) {
  BellRig rig(false);
  is_clean(rig, with_many_keys(short_run(1)));
}

TEST(Controls, a_wait_without_a_look_after_one_began_to_listen) {
  BellRig rig(true);
  is_found_by(Oracle::wake_up, rig, with_many_keys(short_run()), {Oracle::exclusion});
}

// ---- locks of the kernel

class FileRig final : public Rig {
 public:
  explicit FileRig(bool unlinks) : Rig(""), unlinks_(unlinks) {}
  std::string name() const override { return "careless_file"; }
  std::string config(int /*worker*/) const override {
    return with_module("careless_file_module", "careless_file",
                       R"("directory": ")" + directory_.path() + R"(", "unlinks": )" + (unlinks_ ? "true" : "false"));
  }
  Bounds bounds() const override { return kQuick; }

 private:
  const bool unlinks_;
  DaemonDirectory directory_;
};

TEST(Controls, posix_locks_that_fall_at_any_close) {
  FileRig rig(false);
  is_found_by(Oracle::exclusion, rig, short_run());
}

TEST(Controls, lock_files_that_are_unlinked) {
  FileRig rig(true);
  is_found_by(Oracle::exclusion, rig, short_run());
}

// ---- PostgreSQL. A server each: what leaks would poison the next.

class PoolerRig final : public Rig {
 public:
  explicit PoolerRig(int server_sessions) : Rig(""), pooler_(server_, "transaction", server_sessions) {}
  std::string name() const override { return "transaction_pooler"; }
  std::string config(int /*worker*/) const override {
    return R"({"backend": "postgres", "accept_risk": ["transaction_pooler"], "postgres": {"dsn": ")" + pooler_.dsn() +
           "\"}}";
  }

 private:
  testing::PostgresServer server_;
  testing::PgBouncer pooler_;
};

// What one server session holds it is given again, whoever asks through it.
TEST(Controls, postgres_through_a_transaction_pool) {
  PoolerRig rig(1);
  is_found_by(Oracle::exclusion, rig, short_run());
}

TEST(Controls, releases_in_another_session_of_a_transaction_pool) {
  PoolerRig rig(4);
  is_found_by(Oracle::error, rig, short_run());
}

class CarelessPostgresRig final : public Rig {
 public:
  CarelessPostgresRig() : Rig("") {}
  std::string name() const override { return "careless_postgres"; }
  std::string config(int /*worker*/) const override {
    return with_module("careless_postgres_module", "careless_postgres", R"("dsn": ")" + server_.dsn() + "\"");
  }
  std::vector<std::string> leftovers(bool /*workers*/) override { return server_.advisory_locks(); }
  Bounds bounds() const override { return kQuick; }

 private:
  testing::PostgresServer server_;
};

TEST(Controls, postgres_whose_timeouts_are_taken_for_not_held) {
  CarelessPostgresRig rig;
  is_found_by(Oracle::leak, rig, short_run(), {Oracle::exclusion, Oracle::witness});
}

// ---- Redis

class CarelessRedisRig final : public Rig {
 public:
  CarelessRedisRig() : Rig("") {}
  std::string name() const override { return "careless_redis"; }
  std::string config(int /*worker*/) const override {
    return with_module("careless_redis_module", "careless_redis", R"("socket": ")" + server_.socket() + "\"");
  }
  Bounds bounds() const override { return kQuick; }

 private:
  testing::RedisServer server_;
};

TEST(Controls, redis_with_short_leases_and_a_plain_del) {
  CarelessRedisRig rig;
  is_found_by(Oracle::exclusion, rig, short_run());
}

}  // namespace
}  // namespace lockr::torture

int main(int argc, char** argv) {
  if (const auto status = lockr::torture::worker_main(argc, argv)) return *status;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
