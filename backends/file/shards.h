// The shard files and the descriptors that are open on them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "backends/file/directory.h"
#include "backends/file/layout.h"
#include "lockr/result.h"

namespace lockr::file {

/// Makes the empty files lock-000 to lock-3ff; one that is there already stays. All of them at once, so that later
/// nothing needs the disk, and a missing one can only have been taken away. Only for a caller that knows that nobody
/// else uses the directory: somebody could hold locks on a file that was taken away. Errors: `capacity`,
/// `access_denied`.
Status make_shard_files(const Directory& directory);

/// Whether each of these files is there. Errors: those of listing the directory.
Result<bool> has_every_shard_file(const Directory& directory);

/// Gives every file of the directory the present time if the first one was not used since `before`, seconds of the
/// wall clock: programs that clean /tmp take files by their age, and locking a file does not make it younger.
void renew_file_times(const Directory& directory, std::int64_t before) noexcept;

/// The Error for Shards::Use::error.
Error shard_error(const Directory& directory, unsigned shard, int error);

/// Open descriptors of this locker, one a shard at most. A descriptor with users stays open, because closing it would
/// drop their locks; the others are a cache. Every call may come from any thread; leave(), and enter() of an open
/// shard, are one atomic operation, leave_alone() two.
class Shards {
 public:
  /// `directory` must outlive this object. At most `idle` descriptors without users stay open.
  Shards(const Directory& directory, unsigned idle) noexcept;
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;
  ~Shards() { close(); }

  struct Use {
    int fd = -1;             ///< Open until leave(); -1 when it can't be opened.
    std::uint32_t life = 0;  ///< Which incarnation of the shard's descriptor.
    int error = 0;           ///< Why it can't: an errno; see shard_error().
  };
  /// Opens the shard if need be and counts one user. Waits while another thread is in leave_alone().
  Use enter(unsigned shard) noexcept {
    std::uint64_t slot = slots_[shard].load(std::memory_order_acquire);
    while (may_enter(slot)) [[likely]] {
        if (slots_[shard].compare_exchange_weak(slot, slot + 1)) return {.fd = fd_of(slot), .life = life_of(slot)};
      }
    return enter_slowly(shard);
  }
  /// Takes back one user, unless that incarnation has been abandoned since: its locks are lost.
  void leave(unsigned shard, std::uint32_t life) noexcept {
    std::uint64_t slot = slots_[shard].load(std::memory_order_relaxed);
    do {
      if (life_of(slot) != life || (slot & kUsers) == 0) return;
    } while (!slots_[shard].compare_exchange_weak(slot, slot - 1));
  }
  /// For the only user of a shard: calls `unlock_all` with its descriptor while no other can come, and takes the user
  /// back if that returns true. False, and nothing was called: there are other users, or it has been abandoned.
  template <class UnlockAll>
  bool leave_alone(unsigned shard, std::uint32_t life, UnlockAll unlock_all) noexcept {
    Slot& place = slots_[shard];
    std::uint64_t slot = place.load(std::memory_order_relaxed);
    if (life_of(slot) != life || (slot & kUsers) != 1) return false;
    std::uint64_t alone = slot | kAlone;
    if (!place.compare_exchange_strong(slot, alone)) return false;
    const std::uint64_t after = unlock_all(fd_of(slot)) ? slot - 1 : slot;
    place.compare_exchange_strong(alone, after);  // Unless it was abandoned meanwhile.
    place.notify_all();
    return true;
  }
  /// The descriptor of an incarnation that has users; -1 when it has been abandoned. It stays open while it has them.
  int descriptor(unsigned shard, std::uint32_t life) const noexcept {
    const std::uint64_t slot = slots_[shard].load(std::memory_order_acquire);
    return life_of(slot) == life ? fd_of(slot) : -1;
  }
  /// A duplicate of an incarnation's descriptor, CLOEXEC; -1 with errno, which is ESTALE when it is not open any more.
  /// The lock may be released meanwhile, so nothing is closed while this looks.
  int duplicate(unsigned shard, std::uint32_t life) noexcept;

  struct Lost {
    unsigned shard;
    std::uint32_t life;
  };
  /// Compares open shards with the directory's entries, and abandons those that are gone; all of them, for good, when
  /// the directory itself is, or when the state file no longer stands in it. Each is told twice, by this call and the
  /// next, for a grant that was under way.
  std::vector<Lost> check(bool state_stands);

  /// Gives back every lock and closes. True when there was one.
  bool close() noexcept;
  /// While a fork() runs: nothing is being opened or closed.
  void before_fork() noexcept { mutex_.lock(); }
  void after_fork() noexcept { mutex_.unlock(); }
  /// In a forked child, instead of after_fork(): closes and gives nothing back. Async-signal-safe.
  void forked() noexcept;

 private:
  // Descriptor + 1 in the upper 24 bits, incarnation in 16, kAlone and users in the lower 24.
  using Slot = std::atomic<std::uint64_t>;
  static constexpr std::uint64_t kUsers = 0xffffff;
  static constexpr std::uint64_t kAlone = 0x800000;  // Its only user is in leave_alone().
  static constexpr unsigned kLifeShift = 24;
  static constexpr unsigned kFdShift = 40;
  static int fd_of(std::uint64_t slot) noexcept { return static_cast<int>(slot >> kFdShift) - 1; }
  static std::uint32_t life_of(std::uint64_t slot) noexcept { return (slot >> kLifeShift) & 0xffff; }
  static bool may_enter(std::uint64_t slot) noexcept { return fd_of(slot) >= 0 && (slot & kAlone) == 0; }

  Use enter_slowly(unsigned shard) noexcept;
  int open_file(unsigned shard) noexcept;
  bool close_idle(unsigned most) noexcept;
  bool directory_stands() const noexcept;
  bool stands_in_directory(unsigned shard) const noexcept;
  void abandon(unsigned shard);

  // Once so many are abandoned no more is opened; as many may be open then.
  static constexpr unsigned kMostAbandoned = kShards;

  const Directory& directory_;
  const unsigned idle_;
  std::array<Slot, kShards> slots_{};

  bool forked_ = false;

  std::mutex mutex_;  // Opening and closing. Guards what follows.
  std::array<ino_t, kShards> inodes_{};
  unsigned open_count_ = 0;
  unsigned hand_ = 0;
  bool directory_gone_ = false;
  std::vector<Lost> told_once_;
  // Descriptors of abandoned shards: still in use, perhaps, by a call under way. Fixed, for forked().
  std::array<std::atomic<int>, kMostAbandoned + kShards> abandoned_;
  unsigned abandoned_count_ = 0;
};

}  // namespace lockr::file
