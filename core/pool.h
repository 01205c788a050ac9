// Storage that keeps its high-water mark: objects are taken and put back, never freed one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace lockr::core {

/// Objects by number, from 1. Addresses are stable. Not thread-safe. T has `next_free`, a number, for use while it is
/// put back. Those put back are in lists that the caller keeps.
template <class T>
class Slab {
 public:
  static constexpr std::size_t kChunk = 16;

  struct FreeList {
    std::uint32_t first = 0;
    std::uint32_t size = 0;
  };

  T& at(std::uint32_t index) noexcept { return chunks_[(index - 1) / kChunk][(index - 1) % kChunk]; }
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(chunks_.size() * kChunk); }

  /// A list that is empty is filled first, with objects that lie side by side.
  std::uint32_t take(FreeList& list) {
    if (list.first == 0) fill(list);
    --list.size;
    return std::exchange(list.first, at(list.first).next_free);
  }
  void put(std::uint32_t index, FreeList& list) noexcept {
    ++list.size;
    at(index).next_free = std::exchange(list.first, index);
  }

 private:
  void fill(FreeList& list) {
    std::uint32_t index = size() + kChunk;
    chunks_.push_back(std::make_unique<T[]>(kChunk));
    for (std::size_t i = 0; i < kChunk; ++i) put(index--, list);
  }

  std::vector<std::unique_ptr<T[]>> chunks_;
};

/// Objects by address. Not thread-safe.
template <class T>
class Pool {
 public:
  T* take() {
    if (free_.empty()) {
      chunks_.push_back(std::make_unique<T[]>(kChunk));
      free_.reserve(chunks_.size() * kChunk);  // put() must not allocate.
      for (std::size_t i = kChunk; i-- > 0;) free_.push_back(&chunks_.back()[i]);
    }
    T* object = free_.back();
    free_.pop_back();
    return object;
  }
  void put(T* object) { free_.push_back(object); }

 private:
  static constexpr std::size_t kChunk = 16;
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::vector<T*> free_;
};

}  // namespace lockr::core
