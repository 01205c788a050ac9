// The module "careless_file": locks of the kernel on files, in the two ways in which programs lose them.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "lockr/spi/module.h"
#include "lockr/spi/polling.h"

namespace {

using namespace lockr;
using namespace lockr::spi;

Traits file_traits() {
  Traits traits;
  traits.capabilities = {.backend = "careless_file", .cross_process = true, .takeover = std::chrono::milliseconds(50)};
  traits.identity_is_hash = true;
  return traits;
}

class CarelessFile : public PollingBackend {
 public:
  CarelessFile(Runtime& runtime, std::string directory)
      : PollingBackend(runtime, file_traits(), {.poll_interval = std::chrono::milliseconds(1)}),
        directory_(std::move(directory)) {}

 protected:
  /// -1: somebody else has it.
  virtual int lock(const std::string& path) = 0;
  virtual void unlock(const std::string& path, int fd) = 0;

 private:
  void take(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      const int fd = lock(path_of(*request));
      request->answer = fd < 0 ? Answer::refused : Answer::granted;
      if (fd >= 0) held_[request->identity] = fd;
    }
  }
  void give_back(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      const auto one = held_.extract(request->identity);
      if (!one.empty()) unlock(path_of(*request), one.mapped());
      request->answer = one.empty() ? Answer::not_held : Answer::released;
    }
  }
  Status renew(std::span<Held> /*batch*/) override { return {}; }

  std::string path_of(const Request& request) const { return directory_ + "/" + std::to_string(request.identity); }

  const std::string directory_;
  std::map<std::uint64_t, int> held_;
};

/// A lock of POSIX falls when its process closes the file, through whatever descriptor: as one does who has a look.
class PosixLock final : public CarelessFile {
  using CarelessFile::CarelessFile;

  int lock(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct flock whole {};
    whole.l_type = F_WRLCK;
    if (::fcntl(fd, F_SETLK, &whole) != 0) {
      ::close(fd);
      return -1;
    }
    ::close(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return fd;
  }
  void unlock(const std::string& /*path*/, int fd) override { ::close(fd); }
};

/// Whoever opened the file before it was unlinked locks another file than who comes after.
class TidyLock final : public CarelessFile {
  using CarelessFile::CarelessFile;

  int lock(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    ::close(fd);
    return -1;
  }
  void unlock(const std::string& path, int fd) override {
    ::unlink(path.c_str());
    ::close(fd);
  }
};

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"directory", "unlinks"}); !known) return fail(known.error());
  const auto directory = context.section.string("directory");
  const auto unlinks = context.section.boolean("unlinks");
  if (!directory) return fail(directory.error());
  if (!unlinks) return fail(unlinks.error());
  if (!*directory) return fail(context.section.invalid("directory", "a path"));
  if (unlinks->value_or(false)) return std::make_unique<TidyLock>(context.runtime, **directory);
  return std::make_unique<PosixLock>(context.runtime, **directory);
}

const BackendInfo kCarelessFile{
    .name = "careless_file",
    .schemes = nullptr,
    .summary = "locks of the kernel, lost",
    .schema = R"({"type": "object"})",
    .create = create,
};

}  // namespace

LOCKR_MODULE(kCarelessFile);
