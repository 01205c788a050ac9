// What one open Locker consists of. Sessions and releasers keep it alive after the Locker is gone.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/engine.h"
#include "core/notifier.h"
#include "core/table_storage.h"
#include "lockr/config.h"
#include "lockr/registry.h"

namespace lockr::core {

/// Whether the hold is to last for a certain time.
inline bool has_window(const LockOptions& options) noexcept {
  return options.hold_at_least > Time{0} || options.hold_at_most != forever;
}

class Core : public std::enable_shared_from_this<Core> {
 public:
  static Result<std::shared_ptr<Core>> open(const LockerConfig& config, const spi::BackendInfo& info,
                                            std::unique_ptr<spi::Backend> backend, const OpenOptions& options);
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  ~Core();

  /// The common case alone; null: see lock() and try_lock(). Inline.
  TableGrant* take_free(SessionCore& session, const Key& key, Mode mode) {
    return quick_ && !key.empty() && !in_child() ? table_->take_free(session, key, mode) : nullptr;
  }
  bool give_free(TableGrant& grant) noexcept { return quick_ && !in_child() && table_->give_free(grant); }

  Result<TableGrant*> lock(SessionCore& session, const Key& key, const LockOptions& options);
  Result<TableGrant*> try_lock(SessionCore& session, const Key& key, Mode mode);
  Result<std::vector<Releaser>> lock_all(SessionCore& session, std::span<const Key> keys, const LockOptions& options);
  Result<Releaser> try_lock_any(SessionCore& session, std::span<const Key> keys, Mode mode);
  Status close_session(SessionCore& session);

  Status release(TableGrant& grant);
  void dispose(TableGrant& grant);
  void lapse(const TableGrant& grant) noexcept { engine_.lapse(grant); }
  Result<std::vector<Descriptor>> descriptors(const TableGrant& grant);

  Result<std::vector<Holder>> inspect(const Key* key);
  Stats stats();
  Status close() { return close(release_deadline()); }
  Status close(Time until);
  /// When a call that starts now has waited for release_timeout, on the steady clock.
  Time release_deadline() noexcept;
  /// Whether a session here holds the key in a way that keeps this mode out.
  bool keeps_out(const Key& key, Mode mode);

  Table& table() noexcept { return *table_; }
  spi::Runtime& runtime() noexcept { return runtime_; }
  bool in_child() const noexcept { return engine_.in_child(); }
  bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }
  const LockerConfig& config() const noexcept { return config_; }
  const Capabilities& capabilities() const noexcept { return capabilities_; }

 private:
  /// When a call gives up, on the steady clock; counted from when it first has to wait.
  struct Patience {
    const LockerConfig& config;
    const LockOptions* options = nullptr;  // Null: a try.
    Time until{0};                         // 0: not counted yet.
    Time answered{0};                      // The same.

    bool tries_only() const noexcept;
    bool stopped() const noexcept { return options && options->stop.stop_requested(); }
    Time deadline(Time from);
    /// Of what only asks, as all of a try does: when the answers have to be there.
    Time answer_deadline(Time from);
  };

  Core(const LockerConfig& config, std::unique_ptr<spi::Backend> backend, const OpenOptions& options,
       spi::Runtime& runtime);
  Status check(const Key& key, Mode mode) const;
  Status check_window(const LockOptions& options) const;
  void set_window(TableGrant& grant, const LockOptions& options);
  Result<TableGrant*> acquire(SessionCore& session, const Key& key, Mode mode, Patience& patience);
  void await(Waiter& waiter, Follower& follower, const std::stop_token& stop);
  Status await_release(Entry& entry, ReleaseWait& wait, Follower& follower);
  std::optional<Error> ask_group(SessionCore& session, std::span<const Key* const> keys, Mode mode, spi::Group rule,
                                 Patience& patience, std::vector<TableGrant*>& grants);
  std::optional<Error> ask_groups(SessionCore& session, std::span<const Key* const> keys, Mode mode, spi::Group rule,
                                  Patience& patience, std::vector<TableGrant*>& grants);
  Result<std::vector<Releaser>> take_in_order(SessionCore& session, std::span<const Key* const> order,
                                              Patience& patience);
  void finish(Effects& effects, Time until = kNever);

  const LockerConfig config_;
  spi::Runtime& runtime_;
  const std::shared_ptr<Observer> observer_;
  Engine engine_;
  Capabilities capabilities_;
  std::unique_ptr<Table> table_;
  std::unique_ptr<Notifier> notifier_;
  std::string host_;
  bool quick_ = false;  // No engine, namespace, limit or wish for held times: take_free() serves.
  std::atomic<std::uint32_t> next_group_{0};
  std::atomic<bool> closed_{false};
  std::shared_ptr<Core> self_;  // While grants outlive the locker.
};

}  // namespace lockr::core
