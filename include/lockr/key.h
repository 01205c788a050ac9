// Key: the name of a thing to lock.
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
/// that speaks to the same engine (docs/keys.md has golden vectors). An immutable value that is cheap to copy: up to 23
/// bytes lie inside it, copies of a longer one share an allocation. Every const call may be made from many threads at
/// once. A moved-from Key is empty and is refused as
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

  Key(const Key& other) noexcept : store_(other.store_), hash_(other.hash_) {
    if (shared()) retain();
  }
  Key(Key&& other) noexcept : store_(std::exchange(other.store_, Store{})), hash_(std::exchange(other.hash_, 0)) {}
  Key& operator=(const Key& other) noexcept {
    if (other.shared()) other.retain();
    if (shared()) drop();
    store_ = other.store_;
    hash_ = other.hash_;
    return *this;
  }
  Key& operator=(Key&& other) noexcept {
    Key(std::move(other)).swap(*this);
    return *this;
  }
  ~Key() {
    if (shared()) drop();
  }

  /// The scopes joined with ':'. Valid until this Key is assigned to, moved from or destroyed.
  std::string_view string() const noexcept {
    if (!shared()) return {store_.text, store_.size};
    const Rep* rep = this->rep();
    return {reinterpret_cast<const char*>(rep + 1), rep->size};
  }
  /// XXH3-64, seed 0, of string(). PostgreSQL's advisory locks take it reinterpreted as int64. 0 for an empty key.
  std::uint64_t hash() const noexcept { return hash_; }
  /// The scopes; views into string().
  std::vector<std::string_view> scopes() const;
  /// True of none() and after a move.
  bool empty() const noexcept { return store_.size == 0; }

  /// A key with `scope` before the others; the errors of from_scopes.
  Result<Key> prefixed(std::string_view scope) const;

  friend bool operator==(const Key& a, const Key& b) noexcept {
    return a.hash() == b.hash() && a.string() == b.string();
  }
  /// The canonical order: by hash, then by string. lock_all takes keys in this order.
  friend std::strong_ordering operator<=>(const Key& a, const Key& b) noexcept {
    if (auto order = a.hash() <=> b.hash(); order != 0) return order;
    return a.string() <=> b.string();
  }

 private:
  // Of a key with over kInside bytes, one allocation: this header, then the bytes.
  struct Rep {
    mutable std::atomic<std::int32_t> references;
    std::uint32_t size;
  };
  static constexpr std::uint8_t kInside = 23;
  static constexpr std::uint8_t kShared = 0xff;
  // The bytes themselves and how many, or the address of a Rep and kShared. A lock reads nothing else of a short key,
  // and counts no reference: between processors either costs more than the rest of the lock.
  struct Store {
    alignas(8) char text[kInside] = {};
    std::uint8_t size = 0;
  };

  Key(const Store& store, std::uint64_t hash) noexcept : store_(store), hash_(hash) {}
  static Key make(std::string_view text);
  bool shared() const noexcept { return store_.size == kShared; }
  const Rep* rep() const noexcept {
    std::uintptr_t address = 0;
    std::memcpy(&address, store_.text, sizeof address);
    return reinterpret_cast<const Rep*>(address);
  }
  void swap(Key& other) noexcept {
    std::swap(store_, other.store_);
    std::swap(hash_, other.hash_);
  }
  void retain() const noexcept { rep()->references.fetch_add(1, std::memory_order_relaxed); }
  void drop() const noexcept {
    if (rep()->references.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(rep());
  }
  static void destroy(const Rep* rep) noexcept;

  Store store_;
  std::uint64_t hash_;
};

}  // namespace lockr
