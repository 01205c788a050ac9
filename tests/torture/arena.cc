#include "tests/torture/arena.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

namespace lockr::torture {
namespace {

[[noreturn]] void give_up(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

// Of the parts, in this order, each on pages of its own.
struct Layout {
  explicit Layout(const Settings& settings) {
    const auto count = static_cast<std::size_t>(settings.workers);
    const auto slots = count * static_cast<std::size_t>(settings.threads);
    head = take(4096 * 4);
    workers = take(count * sizeof(WorkerArea));
    witnesses = take(static_cast<std::size_t>(settings.keys) * sizeof(Witness));
    counts = take(slots * 64);
    attempts = take(slots * settings.attempts_per_slot * sizeof(Attempt));
  }
  std::size_t take(std::size_t bytes) {
    const std::size_t at = size;
    size += (bytes + 4095) / 4096 * 4096;
    return at;
  }
  std::size_t size = 0;
  std::size_t head, workers, witnesses, counts, attempts;
};

template <class T>
T* at(void* base, std::size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

}  // namespace

Arena::Arena(const Settings& settings) : fd_(::memfd_create("lockr-torture", MFD_CLOEXEC)) {
  if (fd_ < 0) give_up("memfd_create");
  size_ = Layout(settings).size;
  if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0) give_up("can't have shared memory");
  map();
  static_assert(sizeof(Head) <= 4096 * 4 && sizeof(Count) == 64);
  // Zeroed memory is what most of it begins as; what has other values is made.
  ::new (base_) Head{};
  head().settings = settings;
  const Layout layout(settings);
  for (int i = 0; i < settings.workers; ++i) {
    ::new (static_cast<void*>(at<WorkerArea>(base_, layout.workers) + i)) WorkerArea{};
  }
  map();
}

Arena::Arena(int fd) : fd_(fd) {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) give_up("no shared memory was inherited");
  size_ = static_cast<std::size_t>(status.st_size);
  map();
}

Arena::~Arena() {
  ::munmap(base_, size_);
  ::close(fd_);
}

void Arena::map() {
  if (!base_) {
    base_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (base_ == MAP_FAILED) give_up("can't map the shared memory");
  }
  const Layout layout(settings());
  workers_ = at<WorkerArea>(base_, layout.workers);
  witnesses_ = at<Witness>(base_, layout.witnesses);
  counts_ = at<Count>(base_, layout.counts);
  attempts_ = at<Attempt>(base_, layout.attempts);
}

void Arena::complain(int worker, Oracle oracle, const std::string& text) noexcept {
  WorkerArea& area = this->worker(worker);
  while (area.complaining.exchange(1) != 0) ::usleep(100);
  Complaint complaint{.oracle = oracle, .text = {}};
  complaint.text.set(text);
  area.complaints.push(complaint);
  area.complaining.store(0);
}

}  // namespace lockr::torture
