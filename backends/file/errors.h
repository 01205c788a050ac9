// The one place where an errno becomes an Error.
#pragma once

#include <string>
#include <string_view>

#include "lockr/result.h"

namespace lockr::file {

/// `what` is a clause without an end, "can't open the lock directory \"/x\""; a hint on what to do is added where the
/// errno has a usual remedy. The native detail is "ENOSPC (28)".
Error from_errno(int error, std::string_view what);

/// The text in double quotes, control bytes as \xNN, cut after 256 bytes: safe for a terminal and a log.
std::string in_quotes(std::string_view text);

}  // namespace lockr::file
