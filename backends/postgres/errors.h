// The one place where an SQLSTATE or a failure of libpq becomes an Error.
#pragma once

#include <libpq-fe.h>

#include <string>
#include <string_view>

#include "lockr/result.h"

namespace lockr::postgres {

/// SQLSTATEs that the code acts on.
inline constexpr std::string_view kLockTimeout = "55P03";
inline constexpr std::string_view kDeadlock = "40P01";
inline constexpr std::string_view kCancelled = "57014";

/// `what` is a clause without an end, "can't give back a lock"; the server's sentence and a hint follow.
Error from_sqlstate(std::string_view sqlstate, std::string_view what, std::string_view server_says);

/// Of a result with an error.
Error from_result(const PGresult* result, std::string_view what);

/// Of a connection that could not be made. Understands the SQLSTATE in libpq's verbose words.
Error from_failed_connect(std::string_view libpq_says);

/// Of a connection that ended: what the server said last, when it said something.
Error connection_ended(std::string_view sqlstate, std::string_view server_says);

/// Of a connection on which something else arrived than what was asked for.
Error no_answer();

/// The text in one line, control bytes replaced, without a dot at its end: to stand inside a sentence.
std::string one_line(std::string_view text);

}  // namespace lockr::postgres
