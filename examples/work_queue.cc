// Workers that share a list of jobs: each claims the first one that nobody is at, and no job is done twice. A worker
// that dies leaves its job to the others, as its lock goes with it.
#include <lockr/lockr.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

// Stands for a table of jobs: how often each was done.
class Jobs {
 public:
  explicit Jobs(int count) {
    for (int i = 0; i < count; ++i) done_["job:" + std::to_string(i)] = 0;
  }
  std::vector<lockr::Key> open() const {
    const std::lock_guard lock(mutex_);
    std::vector<lockr::Key> keys;
    for (const auto& [name, times] : done_) {
      if (times == 0) keys.push_back(lockr::Key::parse(name).value());
    }
    return keys;
  }
  bool is_open(const lockr::Key& key) const {
    const std::lock_guard lock(mutex_);
    return done_.at(std::string(key.string())) == 0;
  }
  void finish(const lockr::Key& key) {
    const std::lock_guard lock(mutex_);
    ++done_[std::string(key.string())];
  }
  bool each_was_done_once() const {
    const std::lock_guard lock(mutex_);
    return std::all_of(done_.begin(), done_.end(), [](const auto& job) { return job.second == 1; });
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int> done_;
};

// [work]
void work(lockr::Session& session, Jobs& jobs) {
  for (auto open = jobs.open(); !open.empty(); open = jobs.open()) {
    auto mine = session.try_lock_any(open);    // the first that nobody is at
    if (!mine) return;                         // others are at all of them
    if (!jobs.is_open(mine->key())) continue;  // done between our look and our claim
    jobs.finish(mine->key());                  // the work itself, and the note that it is done, before the release
  }
}
// [work]

}  // namespace

int main() {
  Jobs jobs(50);
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < 4; ++i) {
      workers.emplace_back([&jobs] {
        auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
        work(*locker->open_session().value(), jobs);
      });
    }
  }
  std::cout << (jobs.each_was_done_once() ? "each job was done once\n" : "a job was done twice, or not at all\n");
  return jobs.each_was_done_once() ? 0 : 1;
}
