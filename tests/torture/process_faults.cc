#include "tests/torture/process_faults.h"

#include <signal.h>

#include <string>
#include <utility>

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

nanoseconds between(Random& random, nanoseconds least, nanoseconds most) {
  return least + nanoseconds(random() % static_cast<std::uint64_t>((most - least).count() + 1));
}

/// kill -9, mostly of somebody who holds.
class Kill final : public Fault {
 public:
  std::string name() const override { return "kill"; }
  double pace() const override { return 4; }
  bool strike(Random& random, Scene& scene) override {
    const auto victim = scene.victim(random, random() % 4 != 0);
    if (!victim || victim->spared()) return false;
    victim->kill();
    return true;
  }
};

/// SIGSTOP, and SIGCONT after a while.
class Stop final : public Fault {
 public:
  Stop(std::string name, nanoseconds least, nanoseconds most, int effects, double pace)
      : name_(std::move(name)), least_(least), most_(most), effects_(effects), pace_(pace) {}
  std::string name() const override { return name_; }
  double pace() const override { return pace_; }
  bool strike(Random& random, Scene& scene) override {
    const auto victim = scene.victim(random, true);
    if (!victim) return false;
    const std::size_t record = scene.begin(name_, kStops | effects_, victim->worker(), victim->incarnation());
    ::kill(victim->pid(), SIGSTOP);
    scene.sleep(between(random, least_, most_));
    ::kill(victim->pid(), SIGCONT);
    // Whose answers are overdue when it runs on takes its connections for dead.
    scene.end(record, (effects_ & kCuts) != 0 ? nanoseconds(1s) : nanoseconds(0));
    return true;
  }

 private:
  const std::string name_;
  const nanoseconds least_, most_;
  const int effects_;
  const double pace_;
};

/// For a while, workers do something to themselves. It has struck when somebody did.
class Spell final : public Fault {
 public:
  Spell(std::string name, Mood mood, nanoseconds length) : name_(std::move(name)), mood_(mood), length_(length) {}
  std::string name() const override { return name_; }
  double pace() const override { return 1; }
  bool strike(Random&, Scene& scene) override {
    const std::uint64_t before = scene.count(mood_);
    const std::size_t record = scene.begin(name_, 0);
    scene.set_mood(mood_, true);
    scene.sleep(length_);
    scene.set_mood(mood_, false);
    scene.end(record);
    return scene.count(mood_) != before;
  }

 private:
  const std::string name_;
  const Mood mood_;
  const nanoseconds length_;
};

}  // namespace

std::vector<std::unique_ptr<Fault>> mood_faults() {
  std::vector<std::unique_ptr<Fault>> faults;
  faults.push_back(std::make_unique<Spell>("impatient", Mood::impatient, 400ms));
  faults.push_back(std::make_unique<Spell>("fickle", Mood::fickle, 400ms));
  faults.push_back(std::make_unique<Spell>("fork", Mood::forking, 100ms));
  return faults;
}

std::vector<std::unique_ptr<Fault>> process_faults(std::optional<nanoseconds> lease) {
  std::vector<std::unique_ptr<Fault>> faults = mood_faults();
  faults.push_back(std::make_unique<Kill>());
  faults.push_back(std::make_unique<Stop>("stop", 5ms, 100ms, 0, 2));
  if (lease)
    faults.push_back(std::make_unique<Stop>("stop_long", *lease + 50ms, *lease + 500ms, kMayLose | kCuts, 0.7));
  return faults;
}

}  // namespace lockr::torture
