#include "core/locker.h"

#include "core/core.h"

namespace lockr::core {
namespace {

constexpr std::size_t kLabelBytes = 128;

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
    if (!options.stop.stop_possible()) {
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

class LockerImpl final : public Locker {
 public:
  explicit LockerImpl(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  ~LockerImpl() override {
    if (core_->in_child()) {
      new std::shared_ptr<Core>(std::move(core_));  // As in SessionImpl.
    } else {
      static_cast<void>(core_->close());
    }
  }

  Result<std::unique_ptr<Session>> open_session(SessionOptions options) override {
    if (core_->in_child()) return fail(Error(errc::forked_process));
    if (core_->closed()) return fail(errc::session_closed, "the locker is closed");
    std::string label = std::move(options.label);
    if (label.empty()) label = core_->config().label();
    if (label.size() > kLabelBytes) label.resize(kLabelBytes);
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
  Status close() override { return core_->close(); }

 private:
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
};

}  // namespace

Result<std::unique_ptr<Locker>> open_locker(const LockerConfig& config, const spi::BackendInfo& info,
                                            std::unique_ptr<spi::Backend> backend, const OpenOptions& options) {
  auto core = Core::open(config, info, std::move(backend), options);
  if (!core) return fail(core.error());
  return std::make_unique<LockerImpl>(*std::move(core));
}

}  // namespace lockr::core
