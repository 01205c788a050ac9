// Storage that keeps its high-water mark: objects are taken and put back, never freed one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace lockr::core {

/// Objects by number, from 1. Addresses are stable. Not thread-safe. T has `next_free`, a number, for use while it is
/// put back; the first of those is the caller's to keep, beside what it touches anyway.
template <class T>
class Slab {
 public:
  T& at(std::uint32_t index) noexcept { return chunks_[(index - 1) / kChunk][(index - 1) % kChunk]; }
  std::uint32_t size() const noexcept { return size_; }

  std::uint32_t take(std::uint32_t& first_free) {
    if (first_free != 0) return std::exchange(first_free, at(first_free).next_free);
    if (size_ == chunks_.size() * kChunk) chunks_.push_back(std::make_unique<T[]>(kChunk));
    return ++size_;
  }
  void put(std::uint32_t index, std::uint32_t& first_free) noexcept {
    at(index).next_free = std::exchange(first_free, index);
  }

 private:
  static constexpr std::size_t kChunk = 64;
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::uint32_t size_ = 0;
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
