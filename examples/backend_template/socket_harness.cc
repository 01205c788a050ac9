// What the conformance suite needs to know of the backend. The suite brings its own main().
#include <lockr/lockr.h>
#include <lockr/testing/conformance.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace {

using lockr::testing::OtherProcess;

// [harness]
class SocketHarness final : public lockr::testing::Harness {
 public:
  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    const auto config = lockr::LockerConfig::from_json(config_with(opening.fields));
    if (!config) return lockr::fail(config.error());
    return lockr::open(*config, opening.options);
  }
  bool excludes_across_lockers() const override { return true; }
  bool lists_other_lockers() const override { return false; }  // The base class's inspect() tells of nobody.
  lockr::Result<std::unique_ptr<OtherProcess>> hold_elsewhere(const lockr::Key& key) override {
    return lockr::testing::hold_in_child(config_with({}), key);
  }
  std::vector<std::string> leftovers() override {
    std::vector<std::string> left;
    std::ifstream sockets("/proc/net/unix");
    for (std::string line; std::getline(sockets, line);) {
      if (line.find("@lockr-" + room_ + "-") != line.npos) left.push_back(line);
    }
    return left;
  }

 private:
  std::string config_with(const std::string& fields) const {
    return R"({"backend": "socket", "plugin": ")" MODULE R"(", "socket": {"room": ")" + room_ + "\"}" +
           (fields.empty() ? "" : ", " + fields) + "}";
  }

  const std::string room_ = "conformance-" + std::to_string(getpid());
};
// [harness]

}  // namespace

// [harnesses]
std::vector<lockr::testing::HarnessFactory> lockr::testing::harnesses() {
  return {{"socket", [] { return std::make_unique<SocketHarness>(); }}};
}
// [harnesses]
