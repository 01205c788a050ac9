// A disk of our own that is small enough to be filled.
#pragma once

#include <stdexcept>
#include <string>

#include "lockr/releaser.h"

namespace lockr::testing {

/// A tmpfs in a mount namespace: it is where a directory is, for those who enter. Needs root, or Network::prepare().
class SmallDisk {
 public:
  /// The system does not give one; what() tells why.
  class Refused : public std::runtime_error {
    using std::runtime_error::runtime_error;
  };

  /// `options`: of the tmpfs, "size=4m,mode=700". Throws Refused.
  SmallDisk(const std::string& directory, const std::string& options);

  /// Moves the calling process, which has one thread, to where the disk is. False: it can't be. Async-signal-safe.
  bool enter() const noexcept;
  /// For a Daemon that is to see it.
  int mounts() const noexcept { return mounts_.get(); }

  /// Leaves no block on it, until free(). Throws std::runtime_error when there is no end to it.
  void fill() const;
  void free() const;

 private:
  Descriptor mounts_;
  Descriptor root_;
};

}  // namespace lockr::testing
