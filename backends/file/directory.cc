#include "backends/file/directory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "backends/file/errors.h"

namespace lockr::file {
namespace {

constexpr std::string_view kShared = "shared_directory";
constexpr std::string_view kNetwork = "network_file_system";

// Numbers that <linux/magic.h> of older kernels lacks.
constexpr long kZfs = 0x2fc12fc1;
constexpr long kXfs = 0x58465342;
constexpr long kF2fs = 0xf2f52010;
constexpr long kCifs = 0xff534d42;
constexpr long kSmb2 = 0xfe534d42;
constexpr long kCeph = 0x00c36400;

struct KnownType {
  long magic;
  const char* name;
  bool safe;  // OFD locks hold among all processes that can open the file, and end with their holder.
};

constexpr KnownType kTypes[] = {
    {EXT4_SUPER_MAGIC, "ext2/3/4", true},
    {kXfs, "xfs", true},
    {BTRFS_SUPER_MAGIC, "btrfs", true},
    {TMPFS_MAGIC, "tmpfs", true},
    {OVERLAYFS_SUPER_MAGIC, "overlayfs", true},
    {kZfs, "zfs", true},
    {kF2fs, "f2fs", true},
    {RAMFS_MAGIC, "ramfs", true},
    {NFS_SUPER_MAGIC, "nfs", false},
    {SMB_SUPER_MAGIC, "smb", false},
    {kCifs, "cifs", false},
    {kSmb2, "smb2", false},
    {V9FS_MAGIC, "9p", false},
    {FUSE_SUPER_MAGIC, "fuse", false},
    {kCeph, "ceph", false},
};

tl::unexpected<Error> unsafe(const std::string& path, std::string_view reason, std::string_view risk) {
  std::string message = "the lock directory " + in_quotes(path) + " ";
  message.append(reason).append("; or accept the risk with \"accept_risk\": [\"").append(risk).append("\"]");
  return fail(errc::unsafe_setup, std::move(message));
}

// A directory in which every user may make, but not take away, an entry; or one of our own.
bool can_create_in(const char* parent) noexcept {
  struct stat found {};
  if (stat(parent, &found) != 0 || !S_ISDIR(found.st_mode)) return false;
  const bool for_everyone = (found.st_mode & S_IWOTH) && (found.st_mode & S_ISVTX);
  return (for_everyone || found.st_uid == geteuid()) && eaccess(parent, W_OK | X_OK) == 0;
}

Status make_directory(const std::string& path, std::optional<gid_t> group) {
  const auto failed = [&](int error) {
    if (error == ENOENT) {
      return fail(errc::invalid_config,
                  "the lock directory " + in_quotes(path) + " has no parent directory to be made in; make that first");
    }
    return fail(from_errno(error, "can't make the lock directory " + in_quotes(path)));
  };
  if (mkdir(path.c_str(), 0700) != 0) return errno == EEXIST ? Status() : failed(errno);
  if (!group) return {};
  const Descriptor made(open(path.c_str(), O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC));
  if (made.get() < 0 || fchown(made.get(), static_cast<uid_t>(-1), *group) != 0 || fchmod(made.get(), 02770) != 0) {
    const int error = errno;
    rmdir(path.c_str());
    return fail(from_errno(error, "can't give the lock directory " + in_quotes(path) + " to its group"));
  }
  return {};
}

// Whether every user may rename the directory away and put another in its place.
std::optional<std::string> parent_open_to_all(const std::string& path) {
  for (std::size_t end = path.rfind('/'); end != path.npos; end = end == 0 ? path.npos : path.rfind('/', end - 1)) {
    const std::string parent = end == 0 ? "/" : path.substr(0, end);
    struct stat found {};
    if (stat(parent.c_str(), &found) == 0 && (found.st_mode & S_IWOTH) && !(found.st_mode & S_ISVTX)) return parent;
  }
  return std::nullopt;
}

Status check_owner(const Directory& directory, const AcceptsRisk& accepts_risk) {
  const struct stat& found = directory.stat;
  const bool ours = found.st_uid == geteuid() || found.st_uid == 0;
  if (accepts_risk(kShared)) return {};
  if (directory.group && found.st_gid != *directory.group) {
    return unsafe(directory.path,
                  "belongs to group " + std::to_string(found.st_gid) + ", not to the configured group " +
                      std::to_string(*directory.group) + "; make the group the same",
                  kShared);
  }
  if (!ours && !(directory.group && (found.st_mode & S_IWGRP))) {
    return unsafe(directory.path,
                  "belongs to user " + std::to_string(found.st_uid) +
                      ", who could take locks away; choose one of your own, or share it through \"group\"",
                  kShared);
  }
  if (const auto parent = parent_open_to_all(directory.path)) {
    return unsafe(directory.path,
                  "is in " + in_quotes(*parent) +
                      ", where every user may put another in its place; use chmod +t or chmod o-w on that",
                  kShared);
  }
  if (found.st_mode & S_IWOTH) {
    return unsafe(directory.path, "is writable by every user, who could take locks away; use chmod o-w on it", kShared);
  }
  if (!directory.group && (found.st_mode & S_IWGRP)) {
    return unsafe(directory.path,
                  "is writable by group " + std::to_string(found.st_gid) +
                      "; name that group in \"group\" to share it, or use chmod g-w on it",
                  kShared);
  }
  return {};
}

Status check_type(const Directory& directory, const AcceptsRisk& accepts_risk, FileSystemType type_of) {
  const long type = type_of(directory.fd.get());
  if (type == -1) {
    return fail(from_errno(errno, "can't tell the file system of the lock directory " + in_quotes(directory.path)));
  }
  char name[64];
  std::snprintf(name, sizeof name, "of the unknown type 0x%lx", static_cast<unsigned long>(type));
  for (const KnownType& known : kTypes) {
    if (known.magic != type) continue;
    if (known.safe) return {};
    std::snprintf(name, sizeof name, "of type %s", known.name);
  }
  if (accepts_risk(kNetwork)) return {};
  return unsafe(directory.path,
                "is on a file system " + std::string(name) +
                    ", where locks may fail silently; choose one on a local file system such as /run/lock",
                kNetwork);
}

}  // namespace

long file_system_type(int fd) {
  struct statfs found {};
  return fstatfs(fd, &found) == 0 ? static_cast<long>(found.f_type) : -1;
}

bool Directory::trusts(const struct stat& file) const noexcept {
  if (!S_ISREG(file.st_mode) || file.st_nlink != 1) return false;
  if (file.st_uid == geteuid() || file.st_uid == 0 || file.st_uid == stat.st_uid) return true;
  return group && file.st_gid == *group;
}

Result<std::string> default_directory() {
  if (const char* chosen = secure_getenv("LOCKR_DIR"); chosen && *chosen) {
    if (*chosen == '/') return std::string(chosen);
    return fail(errc::invalid_config, "the environment variable LOCKR_DIR: expected an absolute path");
  }
  const std::string parent = can_create_in("/run/lock") ? "/run/lock" : "/tmp";
  return parent + "/lockr-" + std::to_string(geteuid());
}

Result<Directory> open_directory(std::string path, std::optional<gid_t> group, const AcceptsRisk& accepts_risk,
                                 FileSystemType type) {
  // A slash at the end would have open() follow a symbolic link in spite of O_NOFOLLOW.
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const int follow = accepts_risk(kShared) ? 0 : O_NOFOLLOW;
  const int flags = O_DIRECTORY | O_RDONLY | O_CLOEXEC | follow;
  int fd = open(path.c_str(), flags);
  if (fd < 0 && errno == ENOENT) {
    if (Status made = make_directory(path, group); !made) return fail(made.error());
    fd = open(path.c_str(), flags);
  }
  if (fd < 0) {
    const int error = errno;
    struct stat found {};
    if (lstat(path.c_str(), &found) == 0 && S_ISLNK(found.st_mode) && follow != 0) {
      return unsafe(path, "is a symbolic link, which someone could turn; name the directory that it points to",
                    kShared);
    }
    if (error == ENOTDIR) {
      return fail(errc::invalid_config,
                  "the lock directory " + in_quotes(path) + " is not a directory; choose another");
    }
    return fail(from_errno(error, "can't open the lock directory " + in_quotes(path)));
  }
  Directory directory{.path = path, .fd = Descriptor(fd), .stat = {}, .group = group};
  if (fstat(fd, &directory.stat) != 0) {
    return fail(from_errno(errno, "can't examine the lock directory " + in_quotes(path)));
  }
  if (Status safe = check_owner(directory, accepts_risk); !safe) return fail(safe.error());
  if (Status safe = check_type(directory, accepts_risk, type); !safe) return fail(safe.error());
  return directory;
}

}  // namespace lockr::file
