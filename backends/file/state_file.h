// The mapped file `state`: made, checked, and claimed places in.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "backends/file/directory.h"
#include "backends/file/layout.h"
#include "lockr/result.h"
#include "lockr/spi/runtime.h"

namespace lockr::file {

/// One process's mapping of the state file, with at most one place among the processes and one bell.
///
/// If another user of the directory truncates the file under us, touching the mapping raises SIGBUS; that is not
/// handled, as the directory's checks keep strangers out.
class StateFile {
 public:
  StateFile() noexcept = default;
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;
  ~StateFile();

  /// Opens the state of the directory; makes it, and shard files that are missing. Everything that later calls need of
  /// the disk is allocated here. Leaves a shared BSD lock on `directory.fd`. Errors: `capacity` (disk, inodes,
  /// descriptors), `access_denied`, `unsafe_setup` (not a file lockr made), `backend_failure` (not a state file,
  /// another layout, truncated; another process has been making it until `until`, on the steady clock; shard files are
  /// missing and another process uses the directory).
  Status open(const Directory& directory, const std::string& host, spi::Runtime& runtime, spi::Time until);

  State& state() noexcept { return *state_; }
  const State& state() const noexcept { return *state_; }

  /// Our place among the processes, or -1 when all are taken: then we hold unrecorded.
  int process() const noexcept { return process_; }
  std::uint64_t generation() const noexcept { return generation_; }
  /// Whether the file is still the directory's entry. True after close(), and where it can't be told.
  bool stands_in(const Directory& directory) const noexcept;
  /// Whether the locker that made a record is still open.
  bool alive(unsigned process, std::uint64_t generation) const noexcept;
  /// Marks the places of dead processes as free.
  void bury_processes() noexcept;

  /// Takes a bell for good. False when all are taken.
  bool claim_bell() noexcept;
  /// Frees bells whose owner died, and what they left in the buckets.
  void bury_bells() noexcept;

  /// Gives up what was claimed and closes the descriptor; the mapping stays until destruction.
  void close() noexcept;
  /// In a forked child: closes the descriptor. Async-signal-safe.
  void forked() noexcept;

  /// Our bell, or -1. Any thread.
  int bell() const noexcept { return bell_.load(std::memory_order_acquire); }

 private:
  enum class Found { unfinished, former_boot, ready };

  static Status check_nothing_else(const Directory& directory);
  Status open_file(const Directory& directory);
  Result<Found> examine(const Directory& directory);
  Status map(const Directory& directory);
  Status use(const Directory& directory, spi::Runtime& runtime, spi::Time until);
  Status use_state(const Directory& directory, spi::Runtime& runtime, spi::Time until);
  Status make_missing(const Directory& directory, spi::Runtime& runtime, spi::Time until);
  Status prepare(const Directory& directory, spi::Runtime& runtime, spi::Time until);
  Status make(const Directory& directory);
  void reset() noexcept;
  void claim_process(const std::string& host) noexcept;
  bool take_process(unsigned place, const std::string& host) noexcept;
  bool take_bell(unsigned bell) noexcept;
  void clear_bell(unsigned bell) noexcept;

  int fd_ = -1;
  State* state_ = nullptr;
  std::uint64_t boot_[2] = {};
  int process_ = -1;
  std::uint64_t generation_ = 0;
  std::atomic<int> bell_ = -1;
  std::mutex places_;  // One description holds all our byte locks: it would not exclude our own threads.
};

}  // namespace lockr::file
