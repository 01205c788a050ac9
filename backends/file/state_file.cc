#include "backends/file/state_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "backends/file/errors.h"
#include "backends/file/ofd_lock.h"
#include "backends/file/shards.h"
#include "backends/file/text_words.h"

namespace lockr::file {
namespace {

// Bytes of the state file that stand for something when locked; far beyond its end.
constexpr std::int64_t kMakingByte = std::int64_t{1} << 40;
constexpr std::int64_t kProcessBytes = std::int64_t{1} << 41;
constexpr std::int64_t kBellBytes = std::int64_t{1} << 42;

// A process that uses the directory and lost everything lets go of it within this time; see FileBackend::beat().
constexpr spi::Time kLettingGo = std::chrono::seconds(3);

constexpr int kOpenFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

std::string name_of(const Directory& directory) { return in_quotes(directory.path + "/" + kStateName); }

tl::unexpected<Error> still_used(const Directory& directory) {
  return fail(Error(errc::backend_failure, "files of the lock directory " + in_quotes(directory.path) +
                                               " were taken away, and can't be made again while other processes use "
                                               "the directory: they may hold locks on the old ones; end them")
                  .with_retryable(true));
}

Status read_boot_id(std::uint64_t (&boot)[2]) {
  constexpr char kPath[] = "/proc/sys/kernel/random/boot_id";
  const Descriptor fd(open(kPath, O_RDONLY | O_CLOEXEC));
  char text[36];
  if (fd.get() < 0) return fail(from_errno(errno, std::string("can't open ") + kPath));
  if (read(fd.get(), text, sizeof text) != sizeof text) {
    return fail(errc::backend_failure, std::string(kPath) + " has no boot id; mount a /proc that has one");
  }
  unsigned digit = 0;
  for (const char& c : text) {
    unsigned value = 0;
    if (std::from_chars(&c, &c + 1, value, 16).ec != std::errc()) continue;
    boot[digit / 16 % 2] = boot[digit / 16 % 2] << 4 | value;
    ++digit;
  }
  return {};
}

// A file system that copies on write would want new space for a page written again, and have none when it is full.
void write_in_place(int fd) noexcept {
  int flags = 0;
  if (file_system_type(fd) != BTRFS_SUPER_MAGIC || ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return;
  flags |= FS_NOCOW_FL;
  ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

}  // namespace

StateFile::~StateFile() {
  close();
  if (state_) munmap(state_, sizeof(State));
}

Status StateFile::open(const Directory& directory, const std::string& host, spi::Runtime& runtime, spi::Time until) {
  if (Status read = read_boot_id(boot_); !read) return read;
  if (Status used = use(directory, runtime, until); !used) return used;
  if (Status mapped = map(directory); !mapped) return mapped;
  bury_processes();  // Or what programs left that were killed one after the other would fill the records.
  claim_process(host);
  return {};
}

// Leaves a shared lock on the directory, and the files whole. Whoever makes lock files has the exclusive one, so that
// nobody can hold locks on those that were there before. The same description has first one, then the other: between
// them it has none, and so everything is looked at again.
Status StateFile::use(const Directory& directory, spi::Runtime& runtime, spi::Time until) {
  const int fd = directory.fd.get();
  const spi::Time patience = std::min(until, runtime.steady_now() + kLettingGo);
  std::atomic<std::uint32_t> never_woken = 0;
  for (;;) {
    if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
      const auto whole = has_every_shard_file(directory);
      if (!whole) return fail(whole.error());
      if (*whole) return use_state(directory, runtime, until);
      if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        if (Status made = make_missing(directory, runtime, until); !made) return made;
        continue;
      }
    }
    // Some network file systems, whose risk was accepted, can't lock a directory: files are made once there.
    if (errno != EWOULDBLOCK) return use_state(directory, runtime, until);
    const spi::Time now = runtime.steady_now();
    if (now >= patience) return still_used(directory);
    runtime.park(never_woken, 0, now + std::chrono::milliseconds(1));
  }
}

// Opens the state file, and makes it whole.
Status StateFile::use_state(const Directory& directory, spi::Runtime& runtime, spi::Time until) {
  if (fd_ < 0) {
    if (Status opened = open_file(directory); !opened) return opened;
  }
  const auto found = examine(directory);
  if (!found) return fail(found.error());
  return *found == Found::ready ? Status() : prepare(directory, runtime, until);
}

// With the exclusive lock on the directory. Lockers of lockr 0.1 have no lock on it, but are alive in the state file.
Status StateFile::make_missing(const Directory& directory, spi::Runtime& runtime, spi::Time until) {
  if (Status state = use_state(directory, runtime, until); !state) return state;
  if (ofd_foreign_lock(fd_, kProcessBytes, kProcesses) != F_UNLCK) return still_used(directory);
  return make_shard_files(directory);
}

// A directory of something else gets no thousand files of ours.
Status StateFile::check_nothing_else(const Directory& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(kStateName) || name.starts_with("lock-") || name.starts_with('.') || name == "lost+found")
      continue;
    return fail(errc::invalid_config, "the directory " + in_quotes(directory.path) + " is in use for something else (" +
                                          in_quotes(name) + "); choose an empty one, or one that does not exist yet");
  }
  if (error) return fail(from_errno(error.value(), "can't list the lock directory " + in_quotes(directory.path)));
  return {};
}

Status StateFile::open_file(const Directory& directory) {
  const int at = directory.fd.get();
  // Without O_CREAT first: fs.protected_regular forbids that on another user's file in a sticky directory.
  while ((fd_ = openat(at, kStateName, kOpenFlags)) < 0 && errno == ENOENT) {
    if (Status ours = check_nothing_else(directory); !ours) return ours;
    fd_ = openat(at, kStateName, kOpenFlags | O_CREAT | O_EXCL, directory.file_mode());
    if (fd_ < 0 && errno == EEXIST) continue;
    if (fd_ < 0 || fchmod(fd_, directory.file_mode()) == 0) break;
    return fail(from_errno(errno, "can't set the mode of " + name_of(directory)));
  }
  if (fd_ < 0) return fail(from_errno(errno, "can't open " + name_of(directory)));
  struct stat found {};
  if (fstat(fd_, &found) != 0) return fail(from_errno(errno, "can't examine " + name_of(directory)));
  if (directory.trusts(found)) return {};
  return fail(errc::unsafe_setup, name_of(directory) +
                                      " is not a file that lockr made for this directory; remove it when no process "
                                      "uses the directory (no switch accepts this)");
}

Result<StateFile::Found> StateFile::examine(const Directory& directory) {
  struct stat found {};
  if (fstat(fd_, &found) != 0) return fail(from_errno(errno, "can't examine " + name_of(directory)));
  struct {
    std::uint64_t magic;
    std::uint32_t layout, bytes;
    std::uint64_t boot[2];
  } header{};
  static_assert(sizeof header == 32 && offsetof(Header, boot) == 16);
  if (pread(fd_, &header, sizeof header, 0) < 0) return fail(from_errno(errno, "can't read " + name_of(directory)));
  if (header.magic == 0) return Found::unfinished;
  const auto damaged = [&](const std::string& how) {
    return fail(errc::backend_failure,
                name_of(directory) + " " + how + "; remove the directory when no process uses it, or choose another");
  };
  if (header.magic != kMagic) return damaged("is not a lockr state file");
  if (header.layout != kLayout) {
    return damaged("has layout " + std::to_string(header.layout) + ", this lockr uses layout " +
                   std::to_string(kLayout));
  }
  if (header.bytes != sizeof(State) || found.st_size < static_cast<off_t>(sizeof(State))) {
    return damaged("is truncated");
  }
  return header.boot[0] == boot_[0] && header.boot[1] == boot_[1] ? Found::ready : Found::former_boot;
}

// Through a description of its own: a mapping keeps its description open, and with it the byte locks, in every child.
Status StateFile::map(const Directory& directory) {
  if (state_) return {};
  const Descriptor fd(openat(directory.fd.get(), kStateName, kOpenFlags));
  struct stat locked {
  }, mapped{};
  if (fd.get() < 0 || fstat(fd_, &locked) != 0 || fstat(fd.get(), &mapped) != 0) {
    return fail(from_errno(errno, "can't open " + name_of(directory) + " again"));
  }
  if (locked.st_ino != mapped.st_ino || mapped.st_size < static_cast<off_t>(sizeof(State))) {
    return fail(Error(errc::backend_failure, name_of(directory) + " was replaced while it was opened; open it again")
                    .with_retryable(true));
  }
  void* at = mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail(from_errno(errno, "can't map " + name_of(directory)));
  state_ = static_cast<State*>(at);
  return {};
}

// Not the blocking form of the lock: who makes the file may be stopped.
Status StateFile::prepare(const Directory& directory, spi::Runtime& runtime, spi::Time until) {
  std::atomic<std::uint32_t> never_woken = 0;
  while (const int error = ofd_lock(fd_, F_WRLCK, kMakingByte)) {
    if (error != EAGAIN) return fail(from_errno(error, "can't lock " + name_of(directory)));
    const spi::Time now = runtime.steady_now();
    if (now >= until) {
      return fail(Error(errc::backend_failure, "another process is making " + name_of(directory) +
                                                   " and does not get on; look for a stopped one")
                      .with_retryable(true));
    }
    runtime.park(never_woken, 0, now + std::chrono::milliseconds(1));
  }
  Status made;
  if (auto found = examine(directory); !found) {
    made = fail(found.error());
  } else if (*found == Found::unfinished) {
    made = make(directory);
  } else if (*found == Found::former_boot) {
    if (made = map(directory); made) reset();
  }
  ofd_lock(fd_, F_UNLCK, kMakingByte);
  return made;
}

Status StateFile::make(const Directory& directory) {
  write_in_place(fd_);
  if (const int error = posix_fallocate(fd_, 0, sizeof(State)); error != 0) {
    if (ftruncate(fd_, 0) != 0) return fail(from_errno(errno, "can't empty " + name_of(directory)));
    return fail(
        from_errno(error, "can't allocate " + std::to_string(sizeof(State)) + " bytes for " + name_of(directory)));
  }
  if (Status made = make_shard_files(directory); !made) return made;
  if (Status mapped = map(directory); !mapped) return mapped;
  Header& header = state_->header;
  header.layout = kLayout;
  header.bytes = sizeof(State);
  header.boot[0] = boot_[0];
  header.boot[1] = boot_[1];
  header.magic.store(kMagic, std::memory_order_release);
  return {};
}

// After a reboot no one holds or waits. The tokens stay: they must grow.
void StateFile::reset() noexcept {
  for (Process& process : state_->processes) process.generation = 0;
  for (Bell& bell : state_->bells) bell.word = bell.sleeping = bell.taken = 0;
  for (Bucket& bucket : state_->buckets) {
    for (Word* word : {&bucket.waiting, &bucket.aged, &bucket.rung, &bucket.freed, &bucket.reserved, &bucket.claim})
      *word = 0;
  }
  state_->header.boot[0] = boot_[0];
  state_->header.boot[1].store(boot_[1], std::memory_order_release);
}

void StateFile::claim_process(const std::string& host) noexcept {
  const std::lock_guard lock(places_);
  for (unsigned place = 0; place < kProcesses; ++place) {
    const bool free = state_->processes[place].generation.load(std::memory_order_acquire) % 2 == 0;
    if (free && take_process(place, host)) return;
  }
}

bool StateFile::take_process(unsigned place, const std::string& host) noexcept {
  if (ofd_lock(fd_, F_WRLCK, kProcessBytes + place) != 0) return false;
  Process& process = state_->processes[place];
  const std::uint64_t last = process.generation.load(std::memory_order_relaxed);
  for (Word& word : process.host) word.store(0, std::memory_order_relaxed);
  store_text(process.host, host);
  process.pid.store(static_cast<std::uint64_t>(getpid()), std::memory_order_relaxed);
  process_ = static_cast<int>(place);
  generation_ = last + 1 + last % 2;  // Odd, and another.
  process.generation.store(generation_, std::memory_order_release);
  return true;
}

bool StateFile::stands_in(const Directory& directory) const noexcept {
  struct stat ours {
  }, found{};
  if (fd_ < 0 || fstat(fd_, &ours) != 0) return true;
  if (fstatat(directory.fd.get(), kStateName, &found, AT_SYMLINK_NOFOLLOW) != 0) return errno != ENOENT;
  return found.st_ino == ours.st_ino && found.st_dev == ours.st_dev;
}

bool StateFile::alive(unsigned process, std::uint64_t generation) const noexcept {
  const std::uint64_t now = state_->processes[process].generation.load(std::memory_order_acquire);
  if (now != generation || now % 2 == 0) return false;
  return static_cast<int>(process) == process_ || ofd_foreign_lock(fd_, kProcessBytes + process) != F_UNLCK;
}

void StateFile::bury_processes() noexcept {
  const std::lock_guard lock(places_);
  for (unsigned place = 0; place < kProcesses; ++place) {
    Process& process = state_->processes[place];
    if (static_cast<int>(place) == process_ || process.generation.load(std::memory_order_acquire) % 2 == 0) continue;
    if (ofd_lock(fd_, F_WRLCK, kProcessBytes + place) != 0) continue;
    const std::uint64_t last = process.generation.load(std::memory_order_relaxed);
    process.generation.store(last + last % 2, std::memory_order_release);
    ofd_lock(fd_, F_UNLCK, kProcessBytes + place);
  }
}

bool StateFile::claim_bell() noexcept {
  const std::lock_guard lock(places_);
  if (bell() >= 0) return true;
  for (const bool dead_ones : {false, true}) {
    for (unsigned bell = 0; bell < kBells; ++bell) {
      const bool taken = state_->bells[bell].taken.load(std::memory_order_acquire) != 0;
      if (taken == dead_ones && take_bell(bell)) return true;
    }
  }
  return false;
}

bool StateFile::take_bell(unsigned bell) noexcept {
  if (ofd_lock(fd_, F_WRLCK, kBellBytes + bell) != 0) return false;
  clear_bell(bell);
  state_->bells[bell].sleeping = 0;
  state_->bells[bell].taken = 1;
  bell_.store(static_cast<int>(bell), std::memory_order_release);
  return true;
}

void StateFile::clear_bell(unsigned bell) noexcept {
  const std::uint64_t others = ~(std::uint64_t{1} << bell);
  for (Bucket& bucket : state_->buckets) {
    for (Word* mask : {&bucket.waiting, &bucket.aged, &bucket.rung}) {
      if (mask->load(std::memory_order_relaxed) & ~others) mask->fetch_and(others);
    }
  }
}

void StateFile::bury_bells() noexcept {
  const std::lock_guard lock(places_);
  for (unsigned place = 0; place < kBells; ++place) {
    FutexWord& taken = state_->bells[place].taken;
    if (static_cast<int>(place) == bell() || taken.load(std::memory_order_acquire) == 0) continue;
    if (ofd_lock(fd_, F_WRLCK, kBellBytes + place) != 0) continue;
    clear_bell(place);
    taken.store(0, std::memory_order_release);
    ofd_lock(fd_, F_UNLCK, kBellBytes + place);
  }
}

void StateFile::close() noexcept {
  if (fd_ < 0) return;
  if (state_ && bell() >= 0) {
    clear_bell(static_cast<unsigned>(bell()));
    state_->bells[bell()].taken.store(0, std::memory_order_release);
  }
  if (state_ && process_ >= 0) {
    state_->processes[process_].generation.store(generation_ + 1, std::memory_order_release);
  }
  ofd_unlock_all(fd_);
  ::close(std::exchange(fd_, -1));
}

void StateFile::forked() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

}  // namespace lockr::file
