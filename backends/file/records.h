// Who holds and who waits, for people: the records in the state file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/file/state_file.h"
#include "lockr/releaser.h"

namespace lockr::file {

/// A record as it was read. The numbers are those its writer left; the text may be cut.
struct RecordView {
  std::uint64_t identity = 0;
  unsigned process = 0;
  std::uint64_t pid = 0;
  std::uint64_t since_ns = 0;
  Mode mode = Mode::exclusive;
  bool waiting = false;
  bool key_cut = false;
  std::string key, label, host;
};

/// Adding and removing are wait-free and take no lock; reading is for the occasional `who`.
class Records {
 public:
  explicit Records(StateFile& file) noexcept : file_(file) {}

  struct Entry {
    std::uint64_t identity;
    Mode mode;
    bool waiting;
    std::uint64_t since_ns;
    std::string_view key, label;
  };
  /// Writes a record where one is free within the identity's window. False when none is.
  bool add(const Entry& entry) noexcept;
  /// Removes our record of that identity and kind, if there is one.
  void remove(std::uint64_t identity, bool waiting) noexcept;

  /// Whether some holder's record lies where the identity's would lie first: a guess for one load, that costs no system
  /// call.
  bool seems_held(std::uint64_t identity) const noexcept;

  /// Removes our records of what we held in a shard that is lost.
  void forget_shard(unsigned shard) noexcept;

  /// Whether an add() failed since the last call.
  bool crowded() noexcept { return crowded_.exchange(false, std::memory_order_relaxed); }

  /// Records of open lockers, of one identity or of all.
  std::vector<RecordView> read(std::optional<std::uint64_t> identity) const;
  /// The pids that other lockers recorded as holders of the identity.
  std::vector<int> holders(std::uint64_t identity) const;

 private:
  std::uint64_t claim_of(std::uint64_t identity, bool waiting) const noexcept;
  std::optional<unsigned> claim(unsigned home, std::uint64_t claim) noexcept;
  bool stale(std::uint64_t claim) const noexcept;
  std::optional<RecordView> read_at(unsigned place) const;

  StateFile& file_;
  std::atomic<bool> crowded_ = false;
};

}  // namespace lockr::file
