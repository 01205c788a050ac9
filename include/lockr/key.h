// Key: the name of a thing to lock.
#pragma once

#include <sys/single_threaded.h>

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "lockr/result.h"

namespace lockr {

/// A name of one or more scopes, for example ("tenant", "42", "invoice").
///
/// Its string is the scopes joined with ':'; its hash is XXH3-64 with seed 0 of that string, the same in every language
/// that speaks to the same engine (docs/keys.md has golden vectors). An immutable value: copies share one allocation
/// and are cheap; every const call may be made from many threads at once. A moved-from Key is empty and is refused as
/// `invalid_key` wherever it is used.
class LOCKR_API Key {
 public:
  static constexpr std::size_t kMaxBytes = 1024;

  /// Makes a key of scopes. Errors, all `invalid_key` and naming the index of the scope at fault (from 0): no scope, an
  /// empty scope, a scope with ':' in it, more than 1,024 bytes in all (with the colons). Any other byte is allowed.
  static Result<Key> from_scopes(std::span<const std::string_view> scopes);
  static Result<Key> from_scopes(std::initializer_list<std::string_view> scopes);

  /// Makes a key of its string, "tenant:42". Same errors as from_scopes.
  static Result<Key> parse(std::string_view text);

  /// The empty key, which a moved-from Key equals too.
  static const Key& none() noexcept;

  Key(const Key& other) noexcept : rep_(other.rep_), hash_(other.hash_) { retain(); }
  Key(Key&& other) noexcept : rep_(std::exchange(other.rep_, nullptr)), hash_(std::exchange(other.hash_, 0)) {}
  Key& operator=(const Key& other) noexcept {
    Key(other).swap(*this);
    return *this;
  }
  Key& operator=(Key&& other) noexcept {
    Key(std::move(other)).swap(*this);
    return *this;
  }
  ~Key() { drop(); }

  /// The scopes joined with ':'. Valid as long as this Key or a copy of it.
  std::string_view string() const noexcept { return rep_ ? std::string_view(text(), rep_->size) : std::string_view(); }
  /// XXH3-64, seed 0, of string(). PostgreSQL's advisory locks take it reinterpreted as int64. 0 for an empty key.
  std::uint64_t hash() const noexcept { return hash_; }
  /// The scopes; views into string().
  std::vector<std::string_view> scopes() const;
  /// True of none() and after a move.
  bool empty() const noexcept { return rep_ == nullptr; }

  /// A key with `scope` before the others; the errors of from_scopes.
  Result<Key> prefixed(std::string_view scope) const;

  friend bool operator==(const Key& a, const Key& b) noexcept {
    return a.rep_ == b.rep_ || (a.hash() == b.hash() && a.string() == b.string());
  }
  /// The canonical order: by hash, then by string. lock_all takes keys in this order.
  friend std::strong_ordering operator<=>(const Key& a, const Key& b) noexcept {
    if (auto order = a.hash() <=> b.hash(); order != 0) return order;
    return a.string() <=> b.string();
  }

 private:
  // One allocation: this header, then the bytes.
  struct Rep {
    mutable std::atomic<std::int32_t> references;
    std::uint32_t size;
  };

  Key(const Rep* rep, std::uint64_t hash) noexcept : rep_(rep), hash_(hash) {}
  static Key make(std::string_view text);
  void swap(Key& other) noexcept {
    std::swap(rep_, other.rep_);
    std::swap(hash_, other.hash_);
  }
  const char* text() const noexcept { return reinterpret_cast<const char*>(rep_ + 1); }
  void retain() const noexcept {
    if (rep_) add(1);
  }
  void drop() noexcept {
    if (rep_ && add(-1) == 1) destroy(rep_);
  }
  // Returns the count before. While the process has one thread, plain instructions do.
  std::int32_t add(std::int32_t change) const noexcept {
    if (!__libc_single_threaded) return rep_->references.fetch_add(change, std::memory_order_acq_rel);
    const std::int32_t before = rep_->references.load(std::memory_order_relaxed);
    rep_->references.store(before + change, std::memory_order_relaxed);
    return before;
  }
  static void destroy(const Rep* rep) noexcept;

  const Rep* rep_;
  std::uint64_t hash_;  // Here, so that looking a key up does not wait for the allocation to come from memory.
};

}  // namespace lockr
