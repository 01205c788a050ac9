#include "lockr_client.h"

#include <mutex>
#include <utility>

namespace lockr::bench {
namespace {

constexpr std::size_t kAtOnce = 500;

template <class T>
T must(Result<T> result) {
  if (!result) give_up(result.error().to_string());
  return *std::move(result);
}

// Key 0, and a member's own.
std::vector<Key> keys_of(std::size_t member, std::size_t count) {
  std::vector<Key> keys{must(Key::parse("tenant:hot:invoice"))};
  for (std::size_t i = 0; i < count; ++i) {
    keys.push_back(must(Key::from_scopes({"tenant", std::to_string(member), std::to_string(i), "invoice"})));
  }
  return keys;
}

class LockrClient : public Client {
 public:
  LockrClient(std::shared_ptr<Locker> locker, std::vector<Key> keys, Ending ending)
      : locker_(std::move(locker)), session_(must(locker_->open_session())), keys_(std::move(keys)), ending_(ending) {}

  void cycle(std::size_t key, bool shared) override {
    auto held = session_->lock(keys_[key], shared ? kShared : kExclusive);
    if (!held) give_up(held.error().to_string());
    if (ending_ == Ending::destructor) return;
    if (auto released = held->release(); !released) give_up(released.error().to_string());
  }

  // Closing a session gives everything back in as few round trips as there is a call for.
  void batch(std::size_t count) override {
    const auto session = must(locker_->open_session());
    const auto held =
        session->lock_all(std::vector<Key>(keys_.begin() + 1, keys_.begin() + 1 + static_cast<long>(count)));
    if (!held) give_up(held.error().to_string());
    if (auto closed = session->close(); !closed) give_up(closed.error().to_string());
  }

  void hold(std::size_t count) override {
    held_.reserve(count);
    for (std::size_t first = 0; first < count; first += kAtOnce) {
      std::vector<Key> keys;
      for (std::size_t i = first; i < std::min(first + kAtOnce, count); ++i) {
        keys.push_back(i == 0 ? keys_[0] : must(Key::from_scopes({"held", std::to_string(i)})));
      }
      auto held = must(session_->lock_all(keys));
      std::move(held.begin(), held.end(), std::back_inserter(held_));
    }
  }

 private:
  static inline const LockOptions kExclusive{.timeout = forever};
  static inline const LockOptions kShared{.mode = Mode::shared, .timeout = forever};

  std::shared_ptr<Locker> locker_;
  std::unique_ptr<Session> session_;
  std::vector<Key> keys_;
  Ending ending_;
  std::vector<Releaser> held_;
};

struct OpenedOnce {
  std::mutex mutex;
  std::weak_ptr<Locker> locker;
};

}  // namespace

MakeClient lockr_clients(std::function<std::unique_ptr<Locker>()> open, Ending ending) {
  return [open = std::move(open), ending, once = std::make_shared<OpenedOnce>()](std::size_t member, std::size_t keys) {
    std::shared_ptr<Locker> locker;
    {
      std::lock_guard lock(once->mutex);
      locker = once->locker.lock();
      if (!locker) once->locker = locker = std::shared_ptr<Locker>(open());
    }
    return std::make_unique<LockrClient>(std::move(locker), keys_of(member, keys), ending);
  };
}

std::unique_ptr<Locker> open_roomy(const std::string& json) {
  const std::string limits = R"(, "limits": {"held": 2000000}})";
  return must(open(must(LockerConfig::from_json(json.substr(0, json.rfind('}')) + limits))));
}

}  // namespace lockr::bench
