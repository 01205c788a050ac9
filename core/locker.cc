#include "core/locker.h"

#include <algorithm>
#include <mutex>

#include "core/core.h"

namespace lockr::core {
namespace {

constexpr std::size_t kLabelBytes = 128;

using OpenDedicated = std::function<Result<std::shared_ptr<Core>>()>;

class SessionImpl final : public Session {
 public:
  SessionImpl(std::shared_ptr<Core> core, std::string label, bool detect_deadlocks)
      : core_(std::move(core)), session_(std::make_unique<SessionCore>(std::move(label))) {
    session_->detect_deadlocks = detect_deadlocks;
  }
  ~SessionImpl() override {
    if (core_->in_child()) {
      abandon_in_child();
    } else {
      static_cast<void>(core_->close_session(*session_));
    }
  }

  Result<Releaser> lock(const Key& key, const LockOptions& options) override {
    if (!options.stop.stop_possible() && !has_window(options)) {
      if (TableGrant* grant = core_->take_free(*session_, key, options.mode)) return Releaser(grant);
    }
    return with_namespace(key, [&](const Key& full) { return wrap(core_->lock(*session_, full, options)); });
  }

  Result<Releaser> try_lock(const Key& key, Mode mode) override {
    if (TableGrant* grant = core_->take_free(*session_, key, mode)) return Releaser(grant);
    return with_namespace(key, [&](const Key& full) { return wrap(core_->try_lock(*session_, full, mode)); });
  }

  Result<std::vector<Releaser>> lock_all(std::span<const Key> keys, const LockOptions& options) override {
    auto full = with_namespace(keys);
    if (!full) return fail(full.error());
    return core_->lock_all(*session_, *full, options);
  }

  Result<Releaser> try_lock_any(std::span<const Key> keys, Mode mode) override {
    auto full = with_namespace(keys);
    if (!full) return fail(full.error());
    return core_->try_lock_any(*session_, *full, mode);
  }

  Status close() override { return core_->close_session(*session_); }

  std::string_view label() const noexcept override { return session_->label; }

 private:
  static Result<Releaser> wrap(Result<TableGrant*> grant) {
    if (!grant) return fail(std::move(grant.error()));
    return Releaser(*grant);
  }

  template <class Body>
  Result<Releaser> with_namespace(const Key& key, Body body) {
    const std::string& prefix = core_->config().key_namespace();
    if (prefix.empty() || key.empty()) return body(key);
    const auto full = key.prefixed(prefix);
    if (!full) return fail(full.error());
    return body(*full);
  }

  Result<std::vector<Key>> with_namespace(std::span<const Key> keys) const {
    const std::string& prefix = core_->config().key_namespace();
    std::vector<Key> full;
    for (const Key& key : keys) {
      if (prefix.empty() || key.empty()) {
        full.push_back(key);
        continue;
      }
      auto one = key.prefixed(prefix);
      if (!one) return fail(one.error());
      full.push_back(*std::move(one));
    }
    return full;
  }

  // In a forked child other threads' mutexes may be locked for ever: what the parent shares is left as it is.
  void abandon_in_child() noexcept {
    static_cast<void>(session_.release());
    new std::shared_ptr<Core>(std::move(core_));
  }

  std::shared_ptr<Core> core_;
  std::unique_ptr<SessionCore> session_;
};

// A session on a core of its own, with one connection beneath. What it adds: one acquiring call at a time, and no wait
// for what the locker's table holds, which the engine can't tell from a stranger.
class DedicatedSession final : public Session {
 public:
  DedicatedSession(std::shared_ptr<Core> locker, std::shared_ptr<Core> own, std::string label)
      : locker_(std::move(locker)), own_(std::move(own)), session_(own_, std::move(label), true) {}
  ~DedicatedSession() override {
    if (own_->in_child()) {
      new std::shared_ptr<Core>(std::move(own_));  // As in SessionImpl.
      new std::shared_ptr<Core>(std::move(locker_));
    } else {
      static_cast<void>(close());
    }
  }

  Result<Releaser> lock(const Key& key, const LockOptions& options) override {
    return alone([&]() -> Result<Releaser> {
      if (auto tried = try_before(options, [&] { return session_.lock(key, at_once(options)); })) {
        return *std::move(tried);
      }
      if (keeps_out(key, options.mode)) return fail(held_here().with_key(key.string()));
      return session_.lock(key, options);
    });
  }

  Result<Releaser> try_lock(const Key& key, Mode mode) override {
    return alone([&] { return session_.try_lock(key, mode); });
  }

  Result<std::vector<Releaser>> lock_all(std::span<const Key> keys, const LockOptions& options) override {
    return alone([&]() -> Result<std::vector<Releaser>> {
      if (auto tried = try_before(options, [&] { return session_.lock_all(keys, at_once(options)); })) {
        return *std::move(tried);
      }
      const auto here =
          std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return keeps_out(k, options.mode); });
      if (here != keys.end()) return fail(held_here().with_key(here->string()));
      return session_.lock_all(keys, options);
    });
  }

  Result<Releaser> try_lock_any(std::span<const Key> keys, Mode mode) override {
    return alone([&] { return session_.try_lock_any(keys, mode); });
  }

  Status close() override {
    Status released = session_.close();
    Status ended = own_->close();
    return released ? ended : released;
  }

  std::string_view label() const noexcept override { return session_.label(); }

 private:
  template <class Body>
  auto alone(Body body) -> decltype(body()) {
    if (busy_.exchange(true, std::memory_order_acquire) && !own_->in_child()) {
      return fail(Error(errc::session_busy,
                        "another thread is inside a call of this dedicated session; retry, or "
                        "open a session for each thread"));
    }
    auto result = body();
    busy_.store(false, std::memory_order_release);
    return result;
  }

  static LockOptions at_once(LockOptions options) {
    options.timeout = std::chrono::nanoseconds(0);
    return options;
  }

  // The answer of a try, where that decides the call.
  template <class Try>
  static auto try_before(const LockOptions& options, Try attempt) -> std::optional<decltype(attempt())> {
    const bool tries_only = options.timeout && *options.timeout <= std::chrono::nanoseconds(0);
    if (tries_only || options.stop.stop_requested()) return std::nullopt;  // lock() says it.
    auto tried = attempt();
    if (tried || tried.error().code() != errc::not_acquired) return tried;
    return std::nullopt;
  }

  bool keeps_out(const Key& key, Mode mode) {
    const std::string& prefix = own_->config().key_namespace();
    const Result<Key> full = prefix.empty() ? Result<Key>(key) : key.prefixed(prefix);
    return full && locker_->keeps_out(*full, mode);
  }

  static Error held_here() {
    return Error(errc::deadlock,
                 "another session of this process's locker holds the key: a dedicated session does not wait for it");
  }

  std::shared_ptr<Core> locker_;
  std::shared_ptr<Core> own_;
  SessionImpl session_;
  std::atomic<bool> busy_{false};
};

class LockerImpl final : public Locker {
 public:
  LockerImpl(std::shared_ptr<Core> core, OpenDedicated open_dedicated)
      : core_(std::move(core)), open_dedicated_(std::move(open_dedicated)) {}
  ~LockerImpl() override {
    if (core_->in_child()) {
      new std::shared_ptr<Core>(std::move(core_));  // As in SessionImpl.
    } else {
      static_cast<void>(LockerImpl::close());
    }
  }

  Result<std::unique_ptr<Session>> open_session(SessionOptions options) override {
    if (core_->in_child()) return fail(Error(errc::forked_process));
    if (core_->closed()) return fail(locker_closed());
    std::string label = std::move(options.label);
    if (label.empty()) label = core_->config().label();
    if (label.size() > kLabelBytes) label.resize(kLabelBytes);
    if (options.dedicated) return open_dedicated(std::move(label));
    return std::make_unique<SessionImpl>(core_, std::move(label), options.deadlock_detection);
  }

  Result<Releaser> lock(const Key& key, const LockOptions& options) override {
    return on_its_own(key, [&](SessionCore& session, const Key& full) { return core_->lock(session, full, options); });
  }

  Result<Releaser> try_lock(const Key& key, Mode mode) override {
    return on_its_own(key, [&](SessionCore& session, const Key& full) { return core_->try_lock(session, full, mode); });
  }

  Result<std::vector<Holder>> inspect(const Key* key) override {
    if (!key) return core_->inspect(nullptr);
    const Result<Key> full = with_namespace(*key);
    if (!full) return fail(full.error());
    return core_->inspect(&*full);
  }
  Stats stats() const override { return core_->stats(); }
  const Capabilities& capabilities() const noexcept override { return core_->capabilities(); }
  Status close() override {
    const spi::Time until = core_->release_deadline();
    Status first;
    for (const auto& session : last_dedicated()) {
      if (auto closed = session->close(until); !closed && first) first = closed;
    }
    Status closed = core_->close(until);
    return first ? closed : first;
  }

 private:
  static Error locker_closed() { return Error(errc::session_closed, "the locker is closed"); }

  Result<std::unique_ptr<Session>> open_dedicated(std::string label) {
    if (!open_dedicated_ || !core_->capabilities().dedicated) {
      return fail(errc::unsupported, "the backend \"" + core_->capabilities().backend + "\" has no dedicated sessions");
    }
    auto own = open_dedicated_();
    if (!own) return fail(own.error());
    {
      std::lock_guard lock(mutex_);
      std::erase_if(dedicated_, [](const std::weak_ptr<Core>& each) { return each.expired(); });
      if (!closing_) {
        dedicated_.push_back(*own);
        return std::make_unique<DedicatedSession>(core_, *std::move(own), std::move(label));
      }
    }
    static_cast<void>((*own)->close());
    return fail(locker_closed());
  }

  // The cores of open dedicated sessions, of which there will be no more.
  std::vector<std::shared_ptr<Core>> last_dedicated() {
    std::vector<std::shared_ptr<Core>> all;
    std::lock_guard lock(mutex_);
    closing_ = true;
    for (const auto& each : dedicated_) {
      if (auto core = each.lock()) all.push_back(std::move(core));
    }
    return all;
  }

  Result<Key> with_namespace(const Key& key) const {
    const std::string& prefix = core_->config().key_namespace();
    return prefix.empty() || key.empty() ? Result<Key>(key) : key.prefixed(prefix);
  }

  // A session that ends with its only grant.
  template <class Acquire>
  Result<Releaser> on_its_own(const Key& key, Acquire acquire) {
    auto session = std::make_unique<SessionCore>(core_->config().label());
    session->one_shot = true;
    const Result<Key> full = with_namespace(key);
    if (!full) return fail(full.error());
    auto grant = acquire(*session, *full);
    if (!grant) return fail(std::move(grant.error()));
    static_cast<void>(session.release());
    return Releaser(*grant);
  }

  std::shared_ptr<Core> core_;
  const OpenDedicated open_dedicated_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Core>> dedicated_;  // Guarded by mutex_, as is the next.
  bool closing_ = false;
};

}  // namespace

Result<std::unique_ptr<Locker>> open_locker(const LockerConfig& config, const spi::BackendInfo& info,
                                            std::unique_ptr<spi::Backend> backend, const OpenOptions& options,
                                            MakeBackend make_dedicated) {
  auto core = Core::open(config, info, std::move(backend), options);
  if (!core) return fail(core.error());
  OpenDedicated open_dedicated;
  if (make_dedicated) {
    open_dedicated = [config, &info, options, make = std::move(make_dedicated)]() -> Result<std::shared_ptr<Core>> {
      auto made = make();
      if (!made) return fail(made.error());
      return Core::open(config, info, *std::move(made), options);
    };
  }
  return std::make_unique<LockerImpl>(*std::move(core), std::move(open_dedicated));
}

}  // namespace lockr::core
