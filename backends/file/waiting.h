// Waits of this process for what other processes hold.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "backends/file/death_watch.h"
#include "backends/file/locks.h"
#include "lockr/spi/backend.h"

namespace lockr::file {

/// The requests that wait, and the service thread's sleep. A wait tries again when a ring came for it; on the death of
/// who is recorded as holder; and by itself after kFirstLook, then every kLook, which bounds what a lost ring costs.
/// From its first look on newcomers stand back for it.
class Waiting {
 public:
  static constexpr spi::Time kFirstLook = std::chrono::milliseconds(5);
  static constexpr spi::Time kLook = std::chrono::milliseconds(20);

  Waiting(StateFile& file, Bells& bells, Records& records, Locks& locks, spi::Runtime& runtime)
      : file_(file), bells_(bells), records_(records), locks_(locks), runtime_(runtime), deaths_(runtime, [this] {
          look_at_all();
        }) {}

  void set_sink(spi::Sink& sink) noexcept { sink_ = &sink; }

  /// Tries for a moment, then adds a wait; done() may be called before it returns. False when every bell is taken.
  bool start(spi::Request& request) noexcept;
  /// Ends a wait with `refused`, unless its answer is on its way.
  void stop(spi::Request& request) noexcept;

  /// Service thread: serves waits until one ended, `until` (steady), or wake(). Sleeps between.
  void pump(spi::Time until) noexcept;
  void wake() noexcept;

  /// Ends the watching thread. No wait is served any more.
  void close() noexcept { deaths_.close(); }
  /// In a forked child. Async-signal-safe.
  void forked() noexcept { deaths_.forked(); }

 private:
  struct Wait {
    spi::Request* request;
    std::uint64_t identity;
    spi::Time next_look;
    bool aged = false;
    bool rung = false;
  };
  enum class Why { first, ring, look };

  bool try_briefly(spi::Request& request) noexcept;
  bool ready_to_ring() noexcept;
  void look_at_all() noexcept;
  void note_rings() noexcept;
  bool waits_for(std::uint64_t identity) const noexcept;
  bool try_again(Wait& wait, Why why, spi::Time now) noexcept;
  void refused(Wait& wait, Why why, spi::Time now) noexcept;
  void remove(std::size_t at) noexcept;
  bool serve(spi::Time now) noexcept;
  spi::Time plan(spi::Time now, spi::Time until) noexcept;
  void rouse() noexcept;
  void sleep(FutexWord& word, std::uint32_t seen, spi::Time until) noexcept;

  StateFile& file_;
  Bells& bells_;
  Records& records_;
  Locks& locks_;
  spi::Runtime& runtime_;
  spi::Sink* sink_ = nullptr;

  std::mutex mutex_;
  // Guarded by mutex_, which is also held over a try, so that one try at a time runs.
  std::vector<Wait> waits_;
  spi::Time full_until_{0};  // Every bell was taken; looked for again from then on.
  spi::Time planned_{0};     // When the service thread will wake by itself.
  spi::Time last_wait_{0};

  std::vector<spi::Request*> answered_;  // The service thread's.

  FutexWord own_word_ = 0;                     // Slept on while there is no bell.
  std::atomic<FutexWord*> word_ = &own_word_;  // Moves to the bell's once.
  std::atomic<bool> woken_ = false;
  std::atomic<bool> look_at_all_ = false;
  DeathWatch deaths_;
};

}  // namespace lockr::file
