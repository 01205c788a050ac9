// The memory backend: the lock table alone. Each locker has one of its own.
#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"
#include "tests/support/module_under_test.h"

namespace {

class MemoryHarness final : public lockr::testing::Harness {
 public:
  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    auto config = lockr::LockerConfig::from_json("{" + lockr::testing::backend_under_test("memory") +
                                                 (opening.fields.empty() ? R"("memory": {})" : opening.fields) + "}");
    if (!config) return lockr::fail(config.error());
    return lockr::testing::registry_under_test().open(*config, opening.options);
  }
  bool excludes_across_lockers() const override { return false; }
  lockr::Result<std::unique_ptr<lockr::testing::OtherProcess>> hold_elsewhere(const lockr::Key& /*key*/) override {
    return lockr::fail(lockr::errc::unsupported, "memory is not shared with other processes");
  }
  // Nothing is recorded outside the table, whose books the suite checks.
  std::vector<std::string> leftovers() override { return {}; }
};

}  // namespace

int main(int argc, char** argv) {
  return lockr::testing::run_conformance(argc, argv, {{"memory", [] { return std::make_unique<MemoryHarness>(); }}},
                                         lockr::testing::registry_under_test());
}
