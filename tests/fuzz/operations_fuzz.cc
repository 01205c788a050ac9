// Sequences of calls that don't wait, of three sessions on four keys, against a model of a page: who may have what, how
// often, and what is left when all have gone.
#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "tests/fuzz/fuzz.h"

namespace lockr::fuzz {
namespace {

constexpr std::size_t kSessions = 3;
constexpr std::size_t kKeys = 4;
constexpr std::size_t kMostHeld = 64;

/// How often each session holds each key, in either mode.
class Model {
 public:
  bool may_take(std::size_t session, std::size_t key, Mode mode) const {
    for (std::size_t other = 0; other < kSessions; ++other) {
      if (other == session) continue;
      if (count(other, key, Mode::exclusive) > 0) return false;
      if (mode == Mode::exclusive && count(other, key, Mode::shared) > 0) return false;
    }
    return true;
  }
  /// Shared to exclusive within a session.
  bool upgrades(std::size_t session, std::size_t key, Mode mode) const {
    return mode == Mode::exclusive && count(session, key, Mode::shared) > 0 &&
           count(session, key, Mode::exclusive) == 0;
  }
  unsigned& count(std::size_t session, std::size_t key, Mode mode) {
    return counts_[session][key][mode == Mode::exclusive ? 0 : 1];
  }
  unsigned count(std::size_t session, std::size_t key, Mode mode) const {
    return counts_[session][key][mode == Mode::exclusive ? 0 : 1];
  }

 private:
  std::array<std::array<std::array<unsigned, 2>, kKeys>, kSessions> counts_{};
};

struct Held {
  std::size_t session;
  std::size_t key;
  Mode mode;
  Releaser releaser;
};

class Play {
 public:
  Play() {
    for (auto& session : sessions_) session = locker_->open_session().value();
    for (std::size_t i = 0; i < kKeys; ++i) {
      const char name = static_cast<char>('a' + i);
      keys_.push_back(Key::parse({&name, 1}).value());
    }
  }

  void step(Input& input) {
    const std::size_t session = input.below(kSessions);
    switch (input.below(7)) {
      case 0:
      case 1:
        return try_lock(session, input.below(kKeys), mode(input));
      case 2:
        return lock_all(session, input);
      case 3:
        return try_lock_any(session, input);
      case 4:
        return release(input, true);
      case 5:
        return release(input, false);
      default:
        return reopen(session);
    }
  }

  /// All have gone: nothing may be left.
  void end() {
    held_.clear();
    for (auto& session : sessions_) expect(session->close().has_value(), "a session can be closed");
    const auto listed = locker_->inspect();
    expect(listed && listed->empty(), "when all is given back nobody is listed");
    const auto other = locker_->open_session().value();
    expect(other->lock_all(keys_, {.timeout = std::chrono::nanoseconds(0)}).has_value(),
           "when all is given back all is free");
  }

 private:
  static Mode mode(Input& input) { return input.below(2) == 0 ? Mode::exclusive : Mode::shared; }

  void note(std::size_t session, std::size_t key, Mode mode, Releaser releaser) {
    expect(releaser.held() && !releaser.lost(), "what was granted is held");
    expect(releaser.key() == keys_[key], "a releaser knows its key");
    ++model_.count(session, key, mode);
    held_.push_back({session, key, mode, std::move(releaser)});
  }

  void try_lock(std::size_t session, std::size_t key, Mode mode) {
    if (held_.size() >= kMostHeld) return;
    auto got = sessions_[session]->try_lock(keys_[key], mode);
    const bool upgrade = model_.upgrades(session, key, mode);
    expect(got.has_value() == (model_.may_take(session, key, mode) && !upgrade), "try_lock grants what is free");
    if (got) return note(session, key, mode, *std::move(got));
    expect(got.error().code() == (upgrade ? errc::deadlock : errc::not_acquired), "try_lock refuses what is taken");
  }

  std::vector<std::size_t> some_keys(Input& input) {
    std::vector<std::size_t> some(1 + input.below(kKeys));
    for (std::size_t& key : some) key = input.below(kKeys);
    return some;
  }
  std::vector<Key> named(const std::vector<std::size_t>& some) const {
    std::vector<Key> keys;
    for (const std::size_t key : some) keys.push_back(keys_[key]);
    return keys;
  }

  void lock_all(std::size_t session, Input& input) {
    const Mode as = mode(input);
    const std::vector<std::size_t> some = some_keys(input);
    if (held_.size() + some.size() > kMostHeld) return;
    auto got = sessions_[session]->lock_all(named(some), {.mode = as, .timeout = std::chrono::nanoseconds(0)});
    const bool all = std::all_of(some.begin(), some.end(), [&](std::size_t key) {
      return model_.may_take(session, key, as) && !model_.upgrades(session, key, as);
    });
    expect(got.has_value() == all, "lock_all grants all or none");
    if (!got) return;
    expect(got->size() == some.size(), "lock_all gives one releaser a key");
    for (std::size_t i = 0; i < some.size(); ++i) note(session, some[i], as, std::move((*got)[i]));
  }

  void try_lock_any(std::size_t session, Input& input) {
    const Mode as = mode(input);
    const std::vector<std::size_t> some = some_keys(input);
    if (held_.size() >= kMostHeld) return;
    auto got = sessions_[session]->try_lock_any(named(some), as);
    const auto first = std::find_if(some.begin(), some.end(), [&](std::size_t key) {
      return model_.may_take(session, key, as) && !model_.upgrades(session, key, as);
    });
    expect(got.has_value() == (first != some.end()), "try_lock_any grants one if one is free");
    if (!got) return;
    expect(got->key() == keys_[*first], "try_lock_any grants the first that is free");
    note(session, *first, as, *std::move(got));
  }

  void release(Input& input, bool by_call) {
    if (held_.empty()) return;
    const auto one = held_.begin() + static_cast<std::ptrdiff_t>(input.below(held_.size()));
    --model_.count(one->session, one->key, one->mode);
    if (by_call) {
      expect(one->releaser.release().has_value(), "what is held can be released");
      expect(!one->releaser.held(), "what was released is not held");
      expect(one->releaser.release().has_value(), "a second release is nothing");
    }
    std::swap(*one, held_.back());
    held_.pop_back();
  }

  void reopen(std::size_t session) {
    expect(sessions_[session]->close().has_value(), "a session can be closed");
    std::erase_if(held_, [&](const Held& held) {
      if (held.session != session) return false;
      expect(!held.releaser.held(), "a session that is closed holds nothing");
      --model_.count(session, held.key, held.mode);
      return true;
    });
    sessions_[session] = locker_->open_session().value();
  }

  std::unique_ptr<Locker> locker_ = open(LockerConfig::from_url("memory:").value()).value();
  std::array<std::unique_ptr<Session>, kSessions> sessions_;
  std::vector<Key> keys_;
  Model model_;
  std::vector<Held> held_;
};

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::Input input(data, size);
  lockr::fuzz::Play play;
  while (!input.empty()) play.step(input);
  play.end();
  return 0;
}
