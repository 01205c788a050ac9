// Threads of one process: lockr's table, oneTBB's map, and mutexes of the standard library in stripes.
#include <oneapi/tbb/concurrent_hash_map.h>

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <shared_mutex>

#include "lockr_client.h"

namespace lockr::bench {
namespace {

std::vector<std::string> names_of(std::size_t member, std::size_t count) {
  std::vector<std::string> names{"tenant:hot:invoice"};
  for (std::size_t i = 0; i < count; ++i) {
    names.push_back("tenant:" + std::to_string(member) + ":" + std::to_string(i) + ":invoice");
  }
  return names;
}

// ---- a map of names whose accessors are locks

using Map = oneapi::tbb::concurrent_hash_map<std::string, int>;

Map& map() {
  static Map all;
  return all;
}

class TbbClient : public Client {
 public:
  TbbClient(std::size_t member, std::size_t keys) : names_(names_of(member, keys)) {
    map().insert(std::make_pair(names_[0], 0));  // The hot one stays: taking it out would only cost more.
  }
  ~TbbClient() override {
    for (const std::string& each : held_) map().erase(each);
  }

  void cycle(std::size_t key, bool shared) override {
    if (shared) {
      Map::const_accessor held;
      map().insert(held, names_[key]);
      if (key != 0) map().erase(held);
      return;
    }
    Map::accessor held;
    map().insert(held, names_[key]);
    if (key != 0) map().erase(held);
  }

  void batch(std::size_t count) override {
    std::deque<Map::accessor> held;  // In an order of their own, which nobody else's keys are in.
    for (std::size_t i = 1; i <= count; ++i) map().insert(held.emplace_back(), names_[i]);
    for (Map::accessor& each : held) map().erase(each);
  }

  void hold(std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      held_.push_back("held:" + std::to_string(i));
      map().insert(std::make_pair(held_.back(), 1));
    }
  }

 private:
  std::vector<std::string> names_;
  std::vector<std::string> held_;
};

// ---- mutexes

constexpr std::size_t kStripes = 1024;

template <class Mutex>
class StripesClient : public Client {
 public:
  StripesClient(std::size_t member, std::size_t keys) : names_(names_of(member, keys)) {}

  void cycle(std::size_t key, bool shared) override {
    Mutex& mutex = stripe(stripe_of(names_[key]));
    if constexpr (requires { mutex.lock_shared(); }) {
      if (shared) {
        const std::shared_lock lock(mutex);
        return;
      }
    }
    const std::lock_guard lock(mutex);
  }

  // Those of one stripe have one mutex; the order keeps two batches out of each other's way.
  void batch(std::size_t count) override {
    stripes_.clear();
    for (std::size_t i = 1; i <= count; ++i) stripes_.push_back(stripe_of(names_[i]));
    std::sort(stripes_.begin(), stripes_.end());
    stripes_.erase(std::unique(stripes_.begin(), stripes_.end()), stripes_.end());
    for (const std::size_t each : stripes_) stripe(each).lock();
    for (const std::size_t each : stripes_) stripe(each).unlock();
  }

  // A key of its own may share the stripe: nobody is asked to hold anything.
  void hold(std::size_t) override {}

 private:
  static Mutex& stripe(std::size_t i) {
    static std::array<Mutex, kStripes> all;
    return all[i];
  }
  static std::size_t stripe_of(const std::string& name) { return std::hash<std::string>()(name) % kStripes; }

  std::vector<std::string> names_;
  std::vector<std::size_t> stripes_;
};

class MutexPairs : public Client {
 public:
  void cycle(std::size_t, bool) override {
    for (int i = 0; i < 2; ++i) {
      mutex_.lock();
      mutex_.unlock();
    }
  }
  void batch(std::size_t) override {}
  void hold(std::size_t) override {}

 private:
  std::mutex mutex_;
};

template <class Made>
std::unique_ptr<Client> make(std::size_t member, std::size_t keys) {
  return std::make_unique<Made>(member, keys);
}

}  // namespace

Arena& arena() {
  static Arena made{
      .backend = "memory",
      .contenders =
          {
              {.id = "lockr",
               .name = "lockr",
               .client = lockr_clients([] { return open_roomy(R"({"backend": "memory"})"); }),
               .most_held = 1'000'000,
               .most_waiters = 500},
              {.id = "tbb", .name = "oneTBB concurrent_hash_map", .client = make<TbbClient>, .most_held = 1'000'000},
              {.id = "mutex",
               .name = "std::mutex, 1,024 by the name's hash",
               .client = make<StripesClient<std::mutex>>,
               .most_held = 0},
              {.id = "shared_mutex",
               .name = "std::shared_mutex, 1,024 by the name's hash",
               .client = make<StripesClient<std::shared_mutex>>,
               .most_held = 0},
              {.id = "floor",
               .name = "two pairs of a std::mutex that nobody else wants",
               .client = [](std::size_t, std::size_t) { return std::make_unique<MutexPairs>(); },
               .most_members = 1,
               .most_held = 0,
               .is_floor = true},
          },
      .keys = 100'000,
      .timed_every = 16,
  };
  return made;
}

}  // namespace lockr::bench
