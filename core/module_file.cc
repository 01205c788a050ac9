#include "core/module_file.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/module.h"
#include "core/text.h"
#include "lockr/releaser.h"

namespace lockr::core {
namespace {

constexpr int kMostLinks = 40;  // As many as the kernel follows.

std::string quoted(const std::string& path) { return '"' + printable(path) + '"'; }

Error from_errno(int error, const std::string& path, const std::string& place) {
  const auto told = [&](errc code, const std::string& what) {
    return Error(code, module_name(path) + " " + what).with_native(std::strerror(error));
  };
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return told(errc::invalid_config, "does not exist: there is no " + quoted(place));
    case ELOOP:
      return told(errc::invalid_config, "can't be found: its symbolic links lead round in a circle or are too many");
    case ENAMETOOLONG:
      return told(errc::invalid_config, "can't be found: the path is too long");
    case EACCES:
    case EPERM:
      return told(errc::access_denied, "can't be opened: this user has no access to " + quoted(place));
    case EMFILE:
    case ENFILE:
      return told(errc::capacity, "can't be opened: no descriptors left; raise `ulimit -n`");
    default:
      return told(errc::backend_failure, "can't be opened: the system refuses " + quoted(place));
  }
}

/// Follows the path as the kernel does, and looks at each step.
class Walk {
 public:
  explicit Walk(const std::string& path) : path_(path), rest_(path) {}

  Status run();
  /// The file that the path led to.
  bool found(const struct stat& file) const { return file.st_dev == file_.st_dev && file.st_ino == file_.st_ino; }

 private:
  Status step(const std::string& name);
  Status follow(const Descriptor& link);
  Status back_to_root();
  Status check(const struct stat& found, const std::string& place) const;
  tl::unexpected<Error> unsafe(const std::string& place, const std::string& why) const;

  const std::string& path_;
  std::string rest_;
  std::string at_ = "/";  // The directory that `here_` is.
  Descriptor here_{-1};
  struct stat here_stat_ {};
  struct stat file_ {};
  bool arrived_ = false;
  int links_ = 0;
};

tl::unexpected<Error> Walk::unsafe(const std::string& place, const std::string& why) const {
  return fail(errc::unsafe_setup, module_name(path_) + " is not loaded: " + quoted(place) + " " + why);
}

Status Walk::check(const struct stat& found, const std::string& place) const {
  if (found.st_uid != 0 && found.st_uid != geteuid()) {
    return unsafe(place, "belongs to user " + std::to_string(found.st_uid) +
                             ", who could replace it; it must belong to root or to this user");
  }
  if (S_ISLNK(found.st_mode) || !(found.st_mode & S_IWOTH)) return {};
  if (S_ISDIR(found.st_mode) && (found.st_mode & S_ISVTX)) return {};
  return unsafe(place, "is writable by every user; use chmod o-w on it");
}

Status Walk::back_to_root() {
  at_ = "/";
  here_ = Descriptor(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (here_.get() < 0 || fstat(here_.get(), &here_stat_) != 0) return fail(from_errno(errno, path_, at_));
  return check(here_stat_, at_);
}

Status Walk::follow(const Descriptor& link) {
  std::array<char, PATH_MAX> target{};
  const ssize_t size = readlinkat(link.get(), "", target.data(), target.size());
  if (size <= 0 || ++links_ > kMostLinks) return fail(from_errno(size < 0 ? errno : ELOOP, path_, at_));
  rest_ = std::string(target.data(), static_cast<std::size_t>(size)) + "/" + rest_;
  return rest_.front() == '/' ? back_to_root() : Status();
}

Status Walk::step(const std::string& name) {
  const std::string place = (at_ == "/" ? at_ : at_ + "/") + name;
  Descriptor next(openat(here_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (next.get() < 0 || fstat(next.get(), &found) != 0) return fail(from_errno(errno, path_, place));
  if (auto safe = check(found, place); !safe) return safe;
  // A loader takes the directory of the name that it was given, be that a link, for the module's $ORIGIN.
  const bool last = rest_.find_first_not_of('/') == std::string::npos;
  if (last && !S_ISDIR(found.st_mode) && (here_stat_.st_mode & S_IWOTH)) {
    return unsafe(at_, "is writable by every user, who could put other libraries beside it; move it elsewhere");
  }
  if (S_ISLNK(found.st_mode)) return follow(next);
  if (S_ISDIR(found.st_mode)) {
    at_ = place;
    here_ = std::move(next);
    here_stat_ = found;
    return {};
  }
  if (!S_ISREG(found.st_mode)) return fail(errc::invalid_config, module_name(path_) + " is not a regular file");
  file_ = found;
  arrived_ = true;
  return {};
}

Status Walk::run() {
  if (auto begun = back_to_root(); !begun) return begun;
  while (true) {
    rest_.erase(0, rest_.find_first_not_of('/'));
    if (rest_.empty()) break;
    if (arrived_) return fail(from_errno(ENOTDIR, path_, path_));
    const std::string name = rest_.substr(0, rest_.find('/'));
    rest_.erase(0, name.size());
    if (auto stepped = step(name); !stepped) return stepped;
  }
  if (arrived_) return {};
  return fail(errc::invalid_config, module_name(path_) + " is a directory; name the file in it");
}

// ---- the file's own tables

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#else
constexpr Elf64_Half kMachine = EM_AARCH64;
#endif

tl::unexpected<Error> incompatible(const std::string& path, std::string_view why) {
  return fail(errc::incompatible_plugin, module_name(path) + " " + std::string(why));
}

bool read_at(int fd, std::uint64_t offset, void* into, std::size_t size) {
  return pread(fd, into, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

bool ends_within(std::uint64_t offset, std::uint64_t size, std::uint64_t whole) {
  return offset <= whole && size <= whole - offset;
}

// A loader maps what the program headers say and dies of SIGBUS where the file is shorter.
Status check_elf(const std::string& path, int fd, std::uint64_t size) {
  constexpr std::string_view kTruncated = "is truncated; copy or build it again";
  Elf64_Ehdr header{};
  const std::size_t readable = std::min<std::size_t>(size, sizeof header);
  if (!read_at(fd, 0, &header, readable)) return fail(from_errno(errno, path, path));
  if (readable < SELFMAG || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return incompatible(path, "is not a shared object (ELF)");
  }
  if (readable < sizeof header) return incompatible(path, kTruncated);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kMachine) {
    return incompatible(path, "was built for another kind of machine");
  }
  if (header.e_type != ET_DYN || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return incompatible(path, "is not a shared object");
  }
  // The table of sections is the last thing in the file, and nothing but debuggers may miss it.
  if (!ends_within(header.e_shoff, std::uint64_t{header.e_shnum} * header.e_shentsize, size)) {
    return incompatible(path, kTruncated);
  }
  for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    const std::uint64_t place = header.e_phoff + i * sizeof segment;
    if (!ends_within(place, sizeof segment, size) || !read_at(fd, place, &segment, sizeof segment) ||
        !ends_within(segment.p_offset, segment.p_filesz, size)) {
      return incompatible(path, kTruncated);
    }
  }
  return {};
}

}  // namespace

Status check_module_file(const std::string& path) {
  if (!path.starts_with('/')) {
    return fail(errc::invalid_config, module_name(path) + " is not named by an absolute path");
  }
  if (path.find('$') != std::string::npos) {
    return fail(errc::invalid_config,
                module_name(path) + " has a $ in its path, which a loader would expand; rename it");
  }
  if (path.find('\0') != std::string::npos) {
    return fail(errc::invalid_config, module_name(path) + " has a NUL byte in its path");
  }
  Walk walk(path);
  if (auto trusted = walk.run(); !trusted) return trusted;
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat found {};
  if (file.get() < 0 || fstat(file.get(), &found) != 0) return fail(from_errno(errno, path, path));
  if (!walk.found(found)) {  // Links of /proc lead elsewhere than they say.
    return fail(errc::unsafe_setup, module_name(path) + " is not loaded: the file that opens is not the one that its " +
                                        "links name; name the file itself");
  }
  return check_elf(path, file.get(), static_cast<std::uint64_t>(found.st_size));
}

}  // namespace lockr::core
