// What is asked of a file before its code may run in this process.
#pragma once

#include <string>

#include "lockr/result.h"

namespace lockr::core {

/// Whether the path is absolute and leads to a shared object for this machine that is whole, and that nobody but root
/// and this process's user can have put there. Errors: those of load_module().
///
/// Every directory that is looked up in, every symbolic link that is followed and the file itself must belong to root
/// or to us, and not be writable by everybody. A directory like /tmp, writable by everybody but sticky, may lie on the
/// way, as what root and we own in it stays ours; it may not hold the module, as others could put libraries beside it.
/// A group that may write is trusted.
Status check_module_file(const std::string& path);

}  // namespace lockr::core
