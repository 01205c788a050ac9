// The lock directory: which one, made if it is missing, and whether it is safe.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "lockr/releaser.h"
#include "lockr/result.h"

namespace lockr::file {

using AcceptsRisk = std::function<bool(std::string_view risk)>;
/// The file system's magic number as statfs(2) tells it, or -1 with errno.
using FileSystemType = long (*)(int fd);
long file_system_type(int fd);

struct Directory {
  std::string path;
  Descriptor fd;
  struct stat stat;            ///< As it was when opened.
  std::optional<gid_t> group;  ///< Set: members of this group share it.

  /// Whether a file in it, opened by us, is one that lockr made: regular, one name, an owner we trust.
  bool trusts(const struct stat& file) const noexcept;
  mode_t file_mode() const noexcept { return group ? 0660 : 0600; }
};

/// $LOCKR_DIR, else /run/lock/lockr-UID where the user may create that, else /tmp/lockr-UID.
/// Errors: `invalid_config` for a $LOCKR_DIR that is not absolute.
Result<std::string> default_directory();

/// Opens the directory `path`, or makes it: for its owner alone, or with `group` for the members of that group.
/// Errors: `unsafe_setup`, each naming the risk that accepts it (`shared_directory`: a symbolic link, another owner,
/// writable by others; `network_file_system`: a type that is not known to keep OFD locks on one host); `access_denied`,
/// `capacity`, `invalid_config` (its parent is missing, not a directory), `backend_failure`.
Result<Directory> open_directory(std::string path, std::optional<gid_t> group, const AcceptsRisk& accepts_risk,
                                 FileSystemType type = file_system_type);

}  // namespace lockr::file
