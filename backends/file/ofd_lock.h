// Byte locks that belong to the open file description: they survive close() of other descriptors of the file, and end
// with the last duplicate of their own.
#pragma once

#include <fcntl.h>

#include <cerrno>
#include <cstdint>

namespace lockr::file {

/// F_RDLCK, F_WRLCK or F_UNLCK on `length` bytes, 0 for all that follow, without waiting; 0 or an errno, EAGAIN when
/// somebody else has one.
inline int ofd_lock(int fd, short type, std::int64_t offset, std::int64_t length = 1) noexcept {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = offset;
  range.l_len = length;
  while (fcntl(fd, F_OFD_SETLK, &range) != 0) {
    if (errno == EINTR) continue;
    return errno == EACCES ? EAGAIN : errno;
  }
  return 0;
}

/// What somebody else has on one of the bytes: F_RDLCK, F_WRLCK or, also when it can't be told, F_UNLCK.
inline short ofd_foreign_lock(int fd, std::int64_t offset, std::int64_t length = 1) noexcept {
  struct flock range {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = offset;
  range.l_len = length;
  return fcntl(fd, F_OFD_GETLK, &range) == 0 ? range.l_type : static_cast<short>(F_UNLCK);
}

/// Gives back every byte; 0 or an errno.
inline int ofd_unlock_all(int fd) noexcept { return ofd_lock(fd, F_UNLCK, 0, 0); }

}  // namespace lockr::file
