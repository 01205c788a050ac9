#include "backends/file/shards.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "backends/file/errors.h"
#include "backends/file/ofd_lock.h"

namespace lockr::file {
namespace {

struct ShardName {
  char text[16];
  explicit ShardName(unsigned shard) noexcept { std::snprintf(text, sizeof text, "lock-%03x", shard); }
};

constexpr int kOpenFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

}  // namespace

Status make_shard_files(const Directory& directory) {
  for (unsigned shard = 0; shard < kShards; ++shard) {
    const ShardName name(shard);
    const mode_t mode = directory.file_mode();
    const Descriptor made(openat(directory.fd.get(), name.text, kOpenFlags | O_CREAT | O_EXCL, mode));
    if (made.get() < 0 && errno == EEXIST) continue;
    if (made.get() < 0 || fchmod(made.get(), mode) != 0) {
      return fail(from_errno(errno, "can't make " + in_quotes(directory.path + "/" + name.text)));
    }
  }
  return {};
}

Result<bool> has_every_shard_file(const Directory& directory) {
  const auto failed = [&](int error) {
    return fail(from_errno(error, "can't list the lock directory " + in_quotes(directory.path)));
  };
  const int fd = openat(directory.fd.get(), ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failed(errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(fdopendir(fd), closedir);
  if (!listing) {
    const int error = errno;
    ::close(fd);
    return failed(error);
  }
  unsigned found = 0;
  errno = 0;
  while (const dirent* entry = readdir(listing.get())) {
    unsigned shard = kShards;
    const std::string_view name(entry->d_name);
    if (name.starts_with("lock-")) std::from_chars(name.data() + 5, name.data() + name.size(), shard, 16);
    if (shard < kShards && name == ShardName(shard).text) ++found;
  }
  if (errno != 0) return failed(errno);
  return found == kShards;
}

void renew_file_times(const Directory& directory, std::int64_t before) noexcept {
  const int at = directory.fd.get();
  struct stat first {};
  if (fstatat(at, ShardName(0).text, &first, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (std::min(first.st_atim.tv_sec, first.st_mtim.tv_sec) >= before) return;
  for (unsigned shard = 0; shard < kShards; ++shard) {
    utimensat(at, ShardName(shard).text, nullptr, AT_SYMLINK_NOFOLLOW);
  }
  utimensat(at, kStateName, nullptr, AT_SYMLINK_NOFOLLOW);
}

Error shard_error(const Directory& directory, unsigned shard, int error) {
  const std::string name = in_quotes(directory.path + "/" + ShardName(shard).text);
  switch (error) {
    case ENOENT:
      return Error(errc::backend_failure,
                   name + " was taken away; it is made again when a locker opens the directory and no other process " +
                       "uses it, as somebody may still hold locks on the old one");
    case ESTALE:
      return Error(errc::backend_failure, "the lock directory " + in_quotes(directory.path) +
                                              " was moved, removed or replaced; open a new locker");
    case EUCLEAN:
      return Error(errc::backend_failure, name + " is not a file that lockr made for this directory; " +
                                              "remove the directory when no process uses it");
    default:
      return from_errno(error, "can't open " + name);
  }
}

Shards::Shards(const Directory& directory, unsigned idle) noexcept : directory_(directory), idle_(idle) {
  for (Slot& slot : slots_) slot.store(std::uint64_t{1} << kLifeShift, std::memory_order_relaxed);  // 0 is no seat's.
  for (auto& fd : abandoned_) fd.store(-1, std::memory_order_relaxed);
}

Shards::Use Shards::enter_slowly(unsigned shard) noexcept {
  Slot& place = slots_[shard];
  for (;;) {
    std::uint64_t slot = place.load(std::memory_order_acquire);
    if (may_enter(slot)) {
      if (place.compare_exchange_weak(slot, slot + 1)) return {.fd = fd_of(slot), .life = life_of(slot)};
      continue;
    }
    if (fd_of(slot) >= 0) {
      place.wait(slot, std::memory_order_acquire);
      continue;
    }
    const std::lock_guard lock(mutex_);
    slot = place.load(std::memory_order_acquire);
    if (fd_of(slot) >= 0) continue;
    const int fd = directory_gone_ || abandoned_count_ >= kMostAbandoned ? -ESTALE : open_file(shard);
    if (fd < 0) return {.error = -fd};
    ++open_count_;
    slot |= static_cast<std::uint64_t>(fd + 1) << kFdShift;
    place.store(slot + 1, std::memory_order_release);
    return {.fd = fd_of(slot), .life = life_of(slot)};
  }
}

// A descriptor, or a negative errno.
int Shards::open_file(unsigned shard) noexcept {
  const ShardName name(shard);
  if (open_count_ >= idle_) close_idle(open_count_ - idle_ + 1);
  int fd = openat(directory_.fd.get(), name.text, kOpenFlags);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE) && close_idle(kShards)) {
    fd = openat(directory_.fd.get(), name.text, kOpenFlags);
  }
  if (fd < 0) return -errno;
  struct stat found {};
  int error = fstat(fd, &found) == 0 ? 0 : errno;
  if (error == 0 && !directory_.trusts(found)) error = EUCLEAN;
  if (error == 0 && fd >= (1 << 24) - 1) error = EMFILE;
  if (error != 0) {
    ::close(fd);
    return -error;
  }
  inodes_[shard] = found.st_ino;
  return fd;
}

// Goes round like a clock's hand; true when at least one was closed.
bool Shards::close_idle(unsigned most) noexcept {
  unsigned closed = 0;
  for (unsigned looked = 0; looked < kShards && closed < most; ++looked) {
    Slot& place = slots_[hand_];
    hand_ = (hand_ + 1) % kShards;
    std::uint64_t slot = place.load(std::memory_order_acquire);
    if (fd_of(slot) < 0 || (slot & kUsers) != 0) continue;
    const std::uint64_t without = slot & ((std::uint64_t{1} << kFdShift) - 1);
    if (!place.compare_exchange_strong(slot, without, std::memory_order_acq_rel)) continue;
    ::close(fd_of(slot));
    --open_count_;
    ++closed;
  }
  return closed > 0;
}

bool Shards::directory_stands() const noexcept {
  struct stat found {};
  if (stat(directory_.path.c_str(), &found) != 0) return errno != ENOENT && errno != ENOTDIR;
  return found.st_ino == directory_.stat.st_ino && found.st_dev == directory_.stat.st_dev;
}

bool Shards::stands_in_directory(unsigned shard) const noexcept {
  struct stat found {};
  if (fstatat(directory_.fd.get(), ShardName(shard).text, &found, AT_SYMLINK_NOFOLLOW) != 0) return errno != ENOENT;
  return found.st_ino == inodes_[shard];
}

std::vector<Shards::Lost> Shards::check(bool state_stands) {
  const std::lock_guard lock(mutex_);
  std::vector<Lost> lost;
  told_once_.swap(lost);
  directory_gone_ = directory_gone_ || !state_stands;
  if (open_count_ == 0) return lost;
  directory_gone_ = directory_gone_ || !directory_stands();
  for (unsigned shard = 0; shard < kShards; ++shard) {
    if (fd_of(slots_[shard].load(std::memory_order_acquire)) < 0) continue;
    if (directory_gone_ || !stands_in_directory(shard)) abandon(shard);
  }
  lost.insert(lost.end(), told_once_.begin(), told_once_.end());
  return lost;
}

void Shards::abandon(unsigned shard) {
  std::uint64_t slot = slots_[shard].load(std::memory_order_acquire);
  std::uint64_t next = 0;
  do {
    next = static_cast<std::uint64_t>((life_of(slot) + 1) & 0xffff) << kLifeShift;
  } while (!slots_[shard].compare_exchange_weak(slot, next, std::memory_order_acq_rel));
  --open_count_;
  told_once_.push_back({.shard = shard, .life = life_of(slot)});
  abandoned_[abandoned_count_++].store(fd_of(slot), std::memory_order_release);
}

int Shards::duplicate(unsigned shard, std::uint32_t life) noexcept {
  const std::lock_guard lock(mutex_);
  const std::uint64_t slot = slots_[shard].load(std::memory_order_acquire);
  if (life_of(slot) == life && fd_of(slot) >= 0) return fcntl(fd_of(slot), F_DUPFD_CLOEXEC, 0);
  errno = ESTALE;
  return -1;
}

bool Shards::close() noexcept {
  if (forked_) return false;  // Whoever had the mutex does not live in the child.
  const std::lock_guard lock(mutex_);
  bool held = false;
  for (Slot& place : slots_) {
    const std::uint64_t slot = place.exchange(0, std::memory_order_acq_rel);
    if (fd_of(slot) < 0) continue;
    held = held || (slot & kUsers) != 0;
    // A duplicate elsewhere, or a child made without our fork handler, would keep them.
    ofd_unlock_all(fd_of(slot));
    ::close(fd_of(slot));
  }
  for (auto& abandoned : abandoned_) {
    if (const int fd = abandoned.exchange(-1, std::memory_order_acq_rel); fd >= 0) ::close(fd);
  }
  open_count_ = abandoned_count_ = 0;
  return held;
}

void Shards::forked() noexcept {
  mutex_.unlock();
  forked_ = true;
  for (Slot& place : slots_) {
    if (const int fd = fd_of(place.exchange(0, std::memory_order_acq_rel)); fd >= 0) ::close(fd);
  }
  for (auto& abandoned : abandoned_) {
    if (const int fd = abandoned.exchange(-1, std::memory_order_acq_rel); fd >= 0) ::close(fd);
  }
}

}  // namespace lockr::file
