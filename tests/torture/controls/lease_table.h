// An engine in a file: leases in memory that processes share. It serves without locks of its own, so that a process may
// be stopped or killed inside of it. What the controls are about is planted in lease_module.cc, not here.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "lockr/releaser.h"

namespace lockr::torture {

/// One row of the table, as it is stored: 12 bits of owner, 28 bits of when it ends (ms on the boot clock, modulo),
/// 24 bits that count the grants, which are the fencing token.
struct Lease {
  static constexpr std::uint64_t kOwners = 1 << 12, kTimes = 1 << 28, kGrants = 1 << 24;
  static constexpr std::uint64_t kForEver = kTimes - 1;

  std::uint64_t owner;
  std::uint64_t until;
  std::uint64_t grants;

  static Lease of(std::uint64_t word) { return {word % kOwners, word / kOwners % kTimes, word / kOwners / kTimes}; }
  std::uint64_t word() const { return (grants % kGrants * kTimes + until) * kOwners + owner; }
  bool held(std::uint64_t now) const { return owner != 0 && until > now; }
};

/// The table, mapped. Throws std::runtime_error when it can't be.
class LeaseTable {
 public:
  static constexpr std::size_t kRows = 4096;

  struct Row {
    std::atomic<std::uint64_t> identity;  // 0: not in use yet.
    std::atomic<std::uint64_t> lease;
    std::atomic<std::uint32_t> releases;
  };

  explicit LeaseTable(const std::string& path) {
    const Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (file.get() < 0 || ::ftruncate(file.get(), sizeof(Page)) != 0) throw std::runtime_error("no table at " + path);
    void* const page = ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (page == MAP_FAILED) throw std::runtime_error("the table can't be mapped");
    page_ = static_cast<Page*>(page);
  }
  LeaseTable(const LeaseTable&) = delete;
  LeaseTable& operator=(const LeaseTable&) = delete;
  ~LeaseTable() { ::munmap(page_, sizeof(Page)); }

  /// A number that nobody else has.
  std::uint64_t new_owner() {
    const std::uint64_t owner = page_->owners.fetch_add(1) + 1;
    if (owner >= Lease::kOwners) throw std::runtime_error("the table has had too many owners");
    return owner;
  }

  Row& row(std::uint64_t identity) {
    for (std::size_t i = 0; i < kRows; ++i) {
      Row& one = page_->rows[(identity + i) % kRows];
      std::uint64_t found = one.identity.load();
      if (found == 0 && one.identity.compare_exchange_strong(found, identity)) return one;
      if (found == identity) return one;
    }
    throw std::runtime_error("the table is full");
  }
  std::array<Row, kRows>& rows() { return page_->rows; }

  /// Milliseconds on the boot clock; rounded down, so that a lease of so many lasts at most as long.
  static std::uint64_t now() {
    timespec time{};
    ::clock_gettime(CLOCK_BOOTTIME, &time);
    return (static_cast<std::uint64_t>(time.tv_sec) * 1000 + static_cast<std::uint64_t>(time.tv_nsec) / 1'000'000) %
           Lease::kForEver;
  }

  /// Every lock is gone.
  void forget_all() {
    for (Row& row : page_->rows) {
      for (std::uint64_t word = row.lease.load();;) {
        Lease lease = Lease::of(word);
        lease.owner = 0;
        if (row.lease.compare_exchange_weak(word, lease.word())) break;
      }
    }
  }
  std::size_t count_held() const {
    std::size_t held = 0;
    for (const Row& row : page_->rows) held += Lease::of(row.lease.load()).held(now());
    return held;
  }

  /// Rung whenever something may have changed for somebody who listens.
  std::uint32_t bell() const { return page_->bell.load(); }
  void ring() {
    page_->bell.fetch_add(1);
    ::syscall(SYS_futex, &page_->bell, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
  }
  void listen(std::uint32_t heard, std::int64_t nanoseconds) const {
    const timespec patience{.tv_sec = nanoseconds / 1'000'000'000, .tv_nsec = nanoseconds % 1'000'000'000};
    ::syscall(SYS_futex, &page_->bell, FUTEX_WAIT, heard, &patience, nullptr, 0);
  }

  /// When the "server" was last restarted, for whoever simulates that.
  std::atomic<std::uint64_t>& restarted() { return page_->restarted; }

 private:
  struct Page {
    std::atomic<std::uint64_t> owners;
    std::atomic<std::uint64_t> restarted;
    std::atomic<std::uint32_t> bell;
    std::array<Row, kRows> rows;
  };

  Page* page_;
};

}  // namespace lockr::torture
