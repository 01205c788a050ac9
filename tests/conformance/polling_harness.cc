// A backend made of three blocking calls: a table of leases over spi/polling.h.
#include "core/locker.h"
#include "lockr/testing/conformance.h"
#include "tests/support/map_engine.h"

namespace {

using namespace std::chrono_literals;
using lockr::testing::MapBackend;
using lockr::testing::MapTable;

// Long enough for a loaded machine to renew in time.
constexpr auto kValidity = 1500ms;

const lockr::spi::BackendInfo kInfo{
    .name = "map",
    .schemes = "",
    .summary = "a table of leases in memory",
    .schema = R"({"type":"object","additionalProperties":false})",
    .create = [](const lockr::spi::OpenContext&) -> lockr::Result<std::unique_ptr<lockr::spi::Backend>> {
      return lockr::fail(lockr::errc::unsupported, "the map engine is opened over its table");
    },
};

/// A process that took a lease and died: it is in the table, and nobody renews it.
class DeadHolder final : public lockr::testing::OtherProcess {
 public:
  DeadHolder(std::shared_ptr<MapTable> table, lockr::Key key) : table_(std::move(table)), key_(std::move(key)) {}
  void kill() override {
    table_->with(key_, [](MapTable::Row& row) { row.until = now() + kValidity; });
  }
  static lockr::spi::Time now() { return lockr::spi::system_runtime().boot_now(); }

 private:
  const std::shared_ptr<MapTable> table_;
  const lockr::Key key_;
};

class MapHarness final : public lockr::testing::Harness {
 public:
  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    std::string json = R"({"backend": "map")";
    if (!opening.fields.empty()) json += ", " + opening.fields;
    auto config = lockr::LockerConfig::from_json(json + "}");
    if (!config) return lockr::fail(config.error());
    auto backend = std::make_unique<MapBackend>(table_, lockr::spi::system_runtime(), kValidity);
    return lockr::core::open_locker(*config, kInfo, std::move(backend), opening.options);
  }
  bool excludes_across_lockers() const override { return true; }
  bool lists_other_lockers() const override { return false; }
  lockr::Result<std::unique_ptr<lockr::testing::OtherProcess>> hold_elsewhere(const lockr::Key& key) override {
    table_->with(key, [this](MapTable::Row& row) {
      row = {.owner = ++table_->owners, .until = DeadHolder::now() + 1h, .token = row.token + 1};
    });
    return std::make_unique<DeadHolder>(table_, key);
  }
  std::vector<lockr::testing::Fault> faults() override {
    return {{"the table is emptied", [this] { table_->free_all(); }}};
  }
  std::vector<std::string> leftovers() override {
    std::vector<std::string> left;
    for (const auto& [key, row] : table_->held(DeadHolder::now())) left.push_back("held: " + key);
    return left;
  }

 private:
  const std::shared_ptr<MapTable> table_ = std::make_shared<MapTable>();
};

}  // namespace

int main(int argc, char** argv) {
  return lockr::testing::run_conformance(argc, argv, {{"map", [] { return std::make_unique<MapHarness>(); }}});
}
