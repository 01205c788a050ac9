// Taking and giving back: the kernel's lock, then the token and the record.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "backends/file/bells.h"
#include "backends/file/records.h"
#include "backends/file/shards.h"
#include "lockr/spi/backend.h"

namespace lockr::file {

/// Fills in the answers of requests. Every call may come from any thread, for different identities.
class Locks {
 public:
  /// Everything must outlive this object.
  Locks(const Directory& directory, Shards& shards, StateFile& file, Bells& bells, Records& records,
        spi::Runtime& runtime, std::string label) noexcept
      : directory_(directory),
        shards_(shards),
        file_(file),
        bells_(bells),
        records_(records),
        runtime_(runtime),
        label_(std::move(label)) {}

  /// Granted, refused or failed.
  void take(spi::Request& request) noexcept;
  /// Released, not_held or unknown.
  void give_back(spi::Request& request) noexcept;
  /// Gives back and, unless another process waits, takes again.
  void yield(spi::Request& request) noexcept;
  /// All or none of them; each is answered.
  void take_all(std::span<spi::Request* const> requests) noexcept;
  /// The first that is free; each is answered.
  void take_any(std::span<spi::Request* const> requests) noexcept;

  /// What others hold of the identity: F_RDLCK, F_WRLCK or, also when it can't be told, F_UNLCK.
  short foreign(std::uint64_t identity) noexcept;

  /// Record of a wait, for people.
  void record_wait(const spi::Request& request) noexcept;
  void forget_wait(const spi::Request& request) noexcept { records_.remove(request.identity, true); }

 private:
  void lock(spi::Request& request) noexcept;
  void finish(spi::Request& request) noexcept;
  spi::Answer unlock(spi::Request& request) noexcept;
  std::uint64_t next_token(std::uint64_t identity, std::uint64_t now_ns) noexcept;
  std::string_view label_of(const spi::Request& request) const noexcept {
    return request.label.empty() ? std::string_view(label_) : request.label;
  }

  const Directory& directory_;
  Shards& shards_;
  StateFile& file_;
  Bells& bells_;
  Records& records_;
  spi::Runtime& runtime_;
  const std::string label_;
};

}  // namespace lockr::file
