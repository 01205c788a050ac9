// Several instances of a service start at once, and one of them migrates the database: whoever comes first does it, the
// others wait and find it done.
#include <lockr/lockr.h>

#include <array>
#include <chrono>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

namespace {

// Stands for a database whose migrations must not run beside each other, and not twice.
class Database {
 public:
  int version() const { return static_cast<int>(applied_.size()); }
  void apply_next() { applied_.push_back("step " + std::to_string(version() + 1)); }

 private:
  std::vector<std::string> applied_;
};

constexpr int kNewest = 3;

// [migrate]
lockr::Status migrate(lockr::Locker& locker, Database& database) {
  auto held = locker.lock({"database", "migrate"}, {.timeout = 5min});
  if (!held) return lockr::fail(held.error());
  while (database.version() < kNewest) {  // asked under the lock: somebody may have done it while we waited
    if (!held->held()) break;             // lost: the next step is not ours
    database.apply_next();
  }
  return held->release();  // lock_lost, if it was
}
// [migrate]

}  // namespace

int main() {
  // Threads stand for the instances here; in processes of their own each opens its own locker.
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
  Database database;
  std::array<bool, 4> ready{};
  {
    std::vector<std::jthread> instances;
    for (bool& mine : ready) {
      instances.emplace_back([&] { mine = migrate(*locker, database).has_value(); });
    }
  }
  std::cout << "four instances are up; the database has version " << database.version() << '\n';
  return ready == std::array{true, true, true, true} && database.version() == kNewest ? 0 : 1;
}
