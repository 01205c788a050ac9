// The injector: strikes each kind of fault on a thread of its own, at its own pace, and writes them down.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/torture/crew.h"
#include "tests/torture/fault.h"
#include "tests/torture/run.h"

namespace lockr::torture {

class Injector final : public Scene {
 public:
  /// Takes the faults that the run names, or all. Throws for a name that there is none of.
  Injector(Arena& arena, Crew& crew, const Run& run, std::vector<std::unique_ptr<Fault>> faults);
  ~Injector() override;

  /// Faults may strike from now on, or: lets those that are under way come to their end, and holds the others back.
  void resume();
  void pause();
  /// What a fault threw; null.
  std::exception_ptr trouble() const;

  const std::vector<std::string>& names() const { return names_; }
  /// What was written down since it was asked last. While paused.
  std::vector<FaultRecord> take_records();
  /// How often each fault had its turn, and how often it struck.
  std::map<std::string, std::uint64_t> tried() const;
  std::map<std::string, std::uint64_t> struck() const;
  std::map<std::string, std::string> not_possible() const { return not_possible_; }

  std::unique_ptr<Victim> victim(Random& random, bool holder) override;
  int workers() const override { return crew_.size(); }
  pid_t pid_of(int worker) const override { return crew_.pid(worker); }
  void set_mood(Mood mood, bool on) override;
  std::uint64_t count(Mood mood) const override;
  bool sleep(std::chrono::nanoseconds time) override;
  std::unique_lock<std::mutex> engine() override { return std::unique_lock(engine_); }
  std::size_t begin(const std::string& fault, int effects, int worker, std::uint16_t incarnation) override;
  void end(std::size_t record, std::chrono::nanoseconds settles) override;

 private:
  class Claim;

  void choose(const Run& run, std::vector<std::unique_ptr<Fault>> faults);
  void strike_again_and_again(Fault& fault, double pace, std::uint64_t seed);
  bool holds(int worker) const;

  Arena& arena_;
  Crew& crew_;
  const bool spare_first_;
  std::vector<std::string> names_;
  std::map<std::string, std::string> not_possible_;
  std::vector<std::pair<std::unique_ptr<Fault>, double>> faults_;  // With its pace.

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool paused_ = true;
  bool over_ = false;
  int striking_ = 0;
  std::exception_ptr trouble_;
  std::vector<FaultRecord> records_;
  std::size_t taken_ = 0;  // Records that were taken away before.
  std::map<std::string, std::uint64_t> tried_, struck_;

  std::mutex engine_;
  std::vector<std::thread> threads_;
};

}  // namespace lockr::torture
