#include "tests/torture/injector.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <stdexcept>
#include <utility>

namespace lockr::torture {

class Injector::Claim final : public Victim {
 public:
  Claim(Injector& injector, int worker)
      : injector_(injector), worker_(worker), incarnation_(injector.crew_.incarnation(worker)) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim() override { injector_.crew_.give_back(worker_); }

  int worker() const override { return worker_; }
  std::uint16_t incarnation() const override { return incarnation_; }
  pid_t pid() const override { return injector_.crew_.pid(worker_); }
  bool holding() const override { return injector_.holds(worker_); }
  bool spared() const override { return injector_.spare_first_ && worker_ == 0; }
  void kill() override {
    const std::size_t record = injector_.begin("kill", kKills, worker_, incarnation_);
    injector_.crew_.kill(worker_);
    injector_.end(record, std::chrono::nanoseconds(0));
    injector_.crew_.start(worker_);
  }

 private:
  Injector& injector_;
  const int worker_;
  const std::uint16_t incarnation_;
};

Injector::Injector(Arena& arena, Crew& crew, const Run& run, std::vector<std::unique_ptr<Fault>> faults)
    : arena_(arena), crew_(crew), spare_first_(run.spare_first) {
  choose(run, std::move(faults));
  std::uint64_t seed = run.seed;
  for (const auto& [fault, pace] : faults_) {
    threads_.emplace_back(&Injector::strike_again_and_again, this, std::ref(*fault), pace, ++seed * 2654435761u);
  }
}

Injector::~Injector() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Injector::choose(const Run& run, std::vector<std::unique_ptr<Fault>> faults) {
  if (run.no_faults) faults.clear();
  for (const auto& [name, pace] : run.faults) {
    const bool known =
        std::any_of(faults.begin(), faults.end(), [&](const auto& fault) { return fault->name() == name; });
    if (known) continue;
    std::string all;
    for (const auto& fault : faults) all += " " + fault->name();
    throw std::runtime_error("there is no fault '" + name + "' here; there are" + (all.empty() ? " none" : all));
  }
  names_.push_back("kill");  // Which Victim::kill() writes, whatever fault killed.
  for (auto& fault : faults) {
    const auto asked = run.faults.find(fault->name());
    if (!run.faults.empty() && asked == run.faults.end()) continue;
    if (const auto reason = fault->not_possible(*this)) {
      not_possible_[fault->name()] = *reason;
      continue;
    }
    if (fault->name() != names_.front()) names_.push_back(fault->name());
    tried_[fault->name()] = 0;
    const double pace = asked != run.faults.end() && asked->second > 0 ? asked->second : fault->pace();
    faults_.emplace_back(std::move(fault), pace);
  }
}

void Injector::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  changed_.notify_all();
}

void Injector::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  changed_.wait(lock, [this] { return striking_ == 0; });
}

std::exception_ptr Injector::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

std::vector<FaultRecord> Injector::take_records() {
  const std::lock_guard lock(mutex_);
  taken_ += records_.size();
  return std::exchange(records_, {});
}

std::map<std::string, std::uint64_t> Injector::tried() const {
  const std::lock_guard lock(mutex_);
  return tried_;
}

std::map<std::string, std::uint64_t> Injector::struck() const {
  const std::lock_guard lock(mutex_);
  return struck_;
}

void Injector::strike_again_and_again(Fault& fault, double pace, std::uint64_t seed) {
  Random random(seed);
  std::exponential_distribution<double> waits(pace);
  auto due = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!over_) {
    // A pause is no time in which a fault is owed.
    if (paused_) {
      const auto before = std::chrono::steady_clock::now();
      changed_.wait(lock, [this] { return !paused_ || over_; });
      due += std::chrono::steady_clock::now() - before;
      continue;
    }
    if (changed_.wait_until(lock, due, [this] { return paused_ || over_; })) continue;
    due += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(waits(random)));
    ++striking_;
    lock.unlock();
    bool struck = false;
    std::exception_ptr thrown;
    try {
      struck = fault.strike(random, *this);
    } catch (const std::exception&) {
      thrown = std::current_exception();
    }
    lock.lock();
    --striking_;
    ++tried_[fault.name()];
    if (struck) ++struck_[fault.name()];
    if (thrown && !trouble_) trouble_ = thrown;
    changed_.notify_all();
    if (thrown) return;
  }
}

bool Injector::holds(int worker) const {
  const int threads = arena_.settings().threads;
  for (int key = 0; key < arena_.settings().keys; ++key) {
    const Witness& witness = arena_.witness(key);
    const std::uint32_t owner = witness.owner.load();
    if (owner != 0 && slot_of(owner) / threads == worker) return true;
    for (int i = 0; i < threads; ++i) {
      if ((witness.readers.load() >> (worker * threads + i) & 1) != 0) return true;
    }
  }
  return false;
}

std::unique_ptr<Victim> Injector::victim(Random& random, bool holder) {
  const Nanos give_up = now() + 20 * kMillisecond;
  for (int tries = 0;; ++tries) {
    const int worker = static_cast<int>(random() % static_cast<std::uint64_t>(crew_.size()));
    const bool patient = holder && now() < give_up;
    if (patient && !holds(worker)) {
      std::this_thread::yield();
      continue;
    }
    if (crew_.claim(worker)) return std::make_unique<Claim>(*this, worker);
    if (!patient && tries > 100) return nullptr;
    std::this_thread::yield();
  }
}

void Injector::set_mood(Mood mood, bool on) {
  const auto bit = static_cast<std::uint32_t>(mood);
  on ? arena_.moods().fetch_or(bit) : arena_.moods().fetch_and(~bit);
}

std::uint64_t Injector::count(Mood mood) const {
  std::uint64_t sum = 0;
  for (int worker = 0; worker < crew_.size(); ++worker) {
    const WorkerArea& area = arena_.worker(worker);
    if (mood == Mood::impatient) sum += area.timeouts;
    if (mood == Mood::fickle) sum += area.cancels;
    if (mood == Mood::forking) sum += area.forks;
  }
  return sum;
}

bool Injector::sleep(std::chrono::nanoseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return over_; });
}

std::size_t Injector::begin(const std::string& fault, int effects, int worker, std::uint16_t incarnation) {
  const std::lock_guard lock(mutex_);
  const auto name = std::find(names_.begin(), names_.end(), fault);
  if (name == names_.end()) throw std::logic_error("a fault wrote down another's name: " + fault);
  records_.push_back({.kind = static_cast<std::uint16_t>(name - names_.begin()),
                      .effects = static_cast<std::uint16_t>(effects),
                      .worker = static_cast<std::int16_t>(worker),
                      .incarnation = incarnation,
                      .begin = now()});
  return taken_ + records_.size() - 1;
}

void Injector::end(std::size_t record, std::chrono::nanoseconds settles) {
  const std::lock_guard lock(mutex_);
  FaultRecord& ended = records_[record - taken_];
  ended.end = now();
  ended.settled = ended.end + settles.count();
}

}  // namespace lockr::torture
