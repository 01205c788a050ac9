#include "tests/support/small_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

namespace lockr::testing {
namespace {

constexpr const char* kFiller = "filler";

}  // namespace

SmallDisk::SmallDisk(const std::string& directory, const std::string& options) : mounts_(-1), root_(-1) {
  std::string failed;
  // On a thread of its own, which alone is moved. The namespace lives by its descriptor.
  std::thread([&] {
    const auto may = [&](bool done, const char* what) {
      if (!done && failed.empty()) failed = std::string(what) + ": " + std::strerror(errno);
      return done;
    };
    if (!may(::unshare(CLONE_NEWNS) == 0, "no mount namespace") ||
        !may(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "no mounts of our own") ||
        !may(::mount("tmpfs", directory.c_str(), "tmpfs", 0, options.c_str()) == 0, "no tmpfs")) {
      return;
    }
    mounts_ = Descriptor(::open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC));
    root_ = Descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    may(mounts_.get() >= 0 && root_.get() >= 0, "the disk can't be opened");
  }).join();
  if (!failed.empty()) throw Refused(failed);
}

bool SmallDisk::enter() const noexcept { return ::setns(mounts_.get(), CLONE_NEWNS) == 0; }

void SmallDisk::fill() const {
  constexpr std::size_t kMost = 64u << 20;
  const Descriptor file(::openat(root_.get(), kFiller, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const std::array<char, 4096> block{};
  for (std::size_t written = 0; file.get() >= 0 && written < kMost;) {
    const ssize_t count = ::write(file.get(), block.data(), block.size());
    if (count < 0 && errno == ENOSPC) return;
    if (count < 0 && errno != EINTR) break;
    if (count > 0) written += static_cast<std::size_t>(count);
  }
  free();
  throw std::runtime_error("the small disk can't be filled");
}

void SmallDisk::free() const { ::unlinkat(root_.get(), kFiller, 0); }

}  // namespace lockr::testing
