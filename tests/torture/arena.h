// The arena: the memory that the coordinator and its workers share, and nothing else is between them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tests/torture/checker.h"
#include "tests/torture/fault.h"
#include "tests/torture/history.h"
#include "tests/torture/witness.h"

namespace lockr::torture {

inline constexpr int kMaxSlots = 64;  // Bits of Witness::readers.
inline constexpr int kMaxKeys = 4096;

/// What the coordinator wants next; everybody answers with the same word when it is done.
struct Order {
  enum class Kind : std::uint32_t { wait, work, rest, look, leave };
  static constexpr std::uint32_t word(Kind kind, std::uint32_t stretch) {
    return stretch << 3 | static_cast<std::uint32_t>(kind);
  }
  static constexpr Kind kind(std::uint32_t word) { return static_cast<Kind>(word & 7); }
  static constexpr std::uint32_t stretch(std::uint32_t word) { return word >> 3; }
};

/// Text that one process writes once and another reads.
template <std::size_t kSize>
struct SharedText {
  char bytes[kSize] = {};
  void set(std::string_view text) {
    const std::size_t size = std::min(text.size(), kSize - 1);
    text.copy(bytes, size);
    bytes[size] = '\0';
  }
  std::string get() const { return bytes; }
};

/// Something that a worker found out by itself.
struct Complaint {
  Oracle oracle = Oracle::error;
  SharedText<240> text;
};

/// A row of T that one thread at a time appends to, and that survives it.
template <class T, std::size_t kRoom>
struct Row {
  std::atomic<std::uint32_t> count{0};
  T items[kRoom];
  void push(const T& item) {
    const std::uint32_t at = count.load(std::memory_order_relaxed);
    if (at == kRoom) return;
    items[at] = item;
    count.store(at + 1, std::memory_order_release);
  }
  std::span<const T> all() const { return {items, count.load(std::memory_order_acquire)}; }
};

struct WorkerArea {
  Liveness liveness;
  std::atomic<std::uint32_t> done{0};  ///< The order that was carried out last.
  std::atomic<bool> failed{false};     ///< It ended because of `reason`.
  SharedText<1024> reason;
  SharedText<16384> config;
  std::atomic<std::uint64_t> timeouts{0}, cancels{0}, forks{0};
  std::atomic<std::uint64_t> resident{0};  ///< Bytes, when it rested last.
  std::atomic<std::uint32_t> descriptors{0};
  std::atomic<std::uint32_t> complaining{0};  // A lock of `complaints`; a dead worker's is broken by the coordinator.
  Row<Complaint, 32> complaints;
  Row<Stall, 8192> stalls;
};

/// What the first worker learned when it had opened its engine.
struct Learned {
  std::atomic<bool> known{false};
  Bounds bounds;
  bool shared = false, fencing = false, cross_process = false;
  SharedText<64> backend;
};

struct Settings {
  std::uint64_t seed = 1;
  int workers = 1, threads = 1, keys = 1;
  unsigned hot_percent = 0, shared_percent = 0, hold_one_in = 1;
  bool careless_resource = false;
  std::int64_t hold_us = 0, long_hold_us = 0, timeout_us = 0, long_timeout_us = 0;
  std::size_t attempts_per_slot = 0;
};

class Arena {
 public:
  /// A new one; its descriptor is CLOEXEC.
  explicit Arena(const Settings& settings);
  /// Of a worker.
  explicit Arena(int fd);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  int fd() const noexcept { return fd_; }
  const Settings& settings() const noexcept { return head().settings; }
  int slots() const noexcept { return settings().workers * settings().threads; }

  std::atomic<std::uint32_t>& order() noexcept { return head().order; }
  std::atomic<std::uint32_t>& moods() noexcept { return head().moods; }
  /// Set when a log is full: the stretch should end.
  std::atomic<bool>& full() noexcept { return head().full; }
  Learned& learned() noexcept { return head().learned; }
  WorkerArea& worker(int worker) noexcept { return workers_[worker]; }
  Witness& witness(int key) noexcept { return witnesses_[key]; }

  std::atomic<std::uint32_t>& count(int slot) noexcept { return counts_[slot].value; }
  Attempt* attempts(int slot) noexcept {
    return attempts_ + static_cast<std::size_t>(slot) * settings().attempts_per_slot;
  }

  /// A worker's own finding; any of its threads.
  void complain(int worker, Oracle oracle, const std::string& text) noexcept;

 private:
  struct Head {
    Settings settings;
    std::atomic<std::uint32_t> order{0};
    std::atomic<std::uint32_t> moods{0};
    std::atomic<bool> full{false};
    Learned learned;
  };
  struct alignas(64) Count {
    std::atomic<std::uint32_t> value{0};
  };

  Head& head() const noexcept { return *static_cast<Head*>(base_); }
  void map();

  int fd_ = -1;
  void* base_ = nullptr;
  std::size_t size_ = 0;
  WorkerArea* workers_ = nullptr;
  Witness* witnesses_ = nullptr;
  Count* counts_ = nullptr;
  Attempt* attempts_ = nullptr;
};

}  // namespace lockr::torture
