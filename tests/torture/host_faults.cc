#include "tests/torture/host_faults.h"

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "tests/torture/engine_faults.h"

namespace lockr::torture {
namespace {

using std::chrono::nanoseconds;

/// The largest descriptor of a process; -1 when it is gone.
int largest_descriptor(pid_t pid) {
  const std::unique_ptr<DIR, int (*)(DIR*)> all(::opendir(("/proc/" + std::to_string(pid) + "/fd").c_str()),
                                                ::closedir);
  int largest = -1;
  for (const dirent* one = all ? ::readdir(all.get()) : nullptr; one; one = ::readdir(all.get())) {
    largest = std::max(largest, std::atoi(one->d_name));
  }
  return largest;
}

class NoDescriptors final : public Fault {
 public:
  std::string name() const override { return "no_descriptors"; }
  double pace() const override { return 1; }
  bool strike(Random& random, Scene& scene) override {
    const auto victim = scene.victim(random, false);
    if (!victim) return false;
    const pid_t pid = victim->pid();
    const int largest = largest_descriptor(pid);
    rlimit before{};
    if (largest < 0 || ::prlimit(pid, RLIMIT_NOFILE, nullptr, &before) != 0) return false;
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(largest) + 1;
    const std::size_t record = scene.begin(name(), kExhausts | kCuts, victim->worker(), victim->incarnation());
    // It may be first in the line for a key that it can't take: others wait until that is given up.
    const std::size_t line = scene.begin(name(), kDisturbs);
    ::prlimit(pid, RLIMIT_NOFILE, &none, nullptr);
    scene.sleep(between(random, 20, 200));
    ::prlimit(pid, RLIMIT_NOFILE, &before, nullptr);
    scene.end(record);
    scene.end(line, std::chrono::milliseconds(100));
    return true;
  }
};

class FullDisk final : public Fault {
 public:
  FullDisk(const testing::SmallDisk& disk, int effects, nanoseconds settles, std::function<void(bool)> turned)
      : disk_(disk), effects_(effects), settles_(settles), turned_(std::move(turned)) {}

  std::string name() const override { return "full_disk"; }
  double pace() const override { return 0.3; }
  bool strike(Random& random, Scene& scene) override {
    const auto alone = scene.engine();
    const std::size_t record = scene.begin(name(), effects_);
    disk_.fill();
    if (turned_) turned_(true);
    scene.sleep(between(random, 100, 600));
    disk_.free();
    if (turned_) turned_(false);
    scene.end(record, settles_);
    return true;
  }

 private:
  const testing::SmallDisk& disk_;
  const int effects_;
  const nanoseconds settles_;
  const std::function<void(bool)> turned_;
};

}  // namespace

namespace {

std::unique_ptr<Fault> move_clock(const char* name, std::function<void(nanoseconds)> move, nanoseconds by, int effects,
                                  nanoseconds settles) {
  return std::make_unique<EngineFault>(
      name, 0.3, [move = std::move(move), by, effects, settles](const std::string& fault, Random&, Scene& scene) {
        const auto engine = scene.engine();
        const std::size_t record = scene.begin(fault, effects);
        move(by);
        scene.end(record, settles);
        return true;
      });
}

}  // namespace

// Each lease has run out for the server: each of its holders is told at the next renewal.
std::unique_ptr<Fault> clock_forward(std::function<void(nanoseconds)> move, nanoseconds ttl) {
  return move_clock("clock_forward", std::move(move), 2 * ttl, kLosesAll | kDisturbs, ttl);
}

// What the dead left stays for as much longer.
std::unique_ptr<Fault> clock_back(std::function<void(nanoseconds)> move, nanoseconds ttl) {
  return move_clock("clock_back", std::move(move), -ttl, kDisturbs, 2 * ttl);
}

std::unique_ptr<Fault> no_descriptors() { return std::make_unique<NoDescriptors>(); }

std::unique_ptr<Fault> full_disk(const testing::SmallDisk& disk, int effects, nanoseconds settles,
                                 std::function<void(bool)> turned) {
  return std::make_unique<FullDisk>(disk, effects, settles, std::move(turned));
}

}  // namespace lockr::torture
