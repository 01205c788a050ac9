// The one place where a reply of Redis or a failure of a socket becomes an Error.
#pragma once

#include <string_view>

#include "lockr/result.h"

namespace lockr::redis {

/// Of an error reply, "OOM command not allowed …". `what` is a clause without an end, "can't take a lock"; the server's
/// words and a hint follow.
Error from_reply(std::string_view what, std::string_view reply);

/// Whether the reply says that the server does not know a script's digest.
bool is_noscript(std::string_view reply) noexcept;
/// Whether a script may have done a part of its work before this error ended it. The server does not undo that. Those
/// that forbid to write at all come before anything was written.
bool is_half_done(std::string_view reply) noexcept;
/// Whether the reply says that this server can't be written to any more: the connection is to be made anew.
bool is_demoted(std::string_view reply) noexcept;

/// Of a call of the system that failed.
Error from_errno(std::string_view what, int number);

/// `connection_lost` with a sentence.
Error connection_ended(std::string_view why);

/// The text in one line, control bytes replaced: to stand inside a sentence.
std::string one_line(std::string_view text);

}  // namespace lockr::redis
