// The SQL. Prepared once a connection, unless a pooler was accepted that may change server sessions; keys are
// parameters only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "lockr/releaser.h"

namespace lockr::postgres {

/// Names of prepared statements. Those of one key take $1 int8; those of many exclusive keys $1 int8[], of any modes
/// $1 int8[], $2 bool[] (shared); they answer in the order given. A take answers true or, with fencing, the sequence's
/// next number; false or NULL: refused.
enum class Statement : std::uint8_t {
  take_exclusive,
  take_shared,
  take_many,
  take_many_exclusive,  ///< As the other, without the second array: half the work for the server.
  take_all,  ///< All or none of the keys; what was taken before the first refusal is given back. One row: the
             ///< number of the first that was refused, from 1, or NULL; with fencing, a token for all.
  take_all_exclusive,
  take_any,  ///< One row (number of the key from 1, take's answer) for the first that is free, or none.
  take_any_exclusive,
  give_exclusive,
  give_shared,
  give_many,
  give_many_exclusive,
  slice,           ///< $1 text: how long the rest of the message may wait for a lock, as lock_timeout.
  pass_exclusive,  ///< Waits, and holds to the end of the message.
  pass_shared,
  keep_exclusive,  ///< Behind a pass: holds on; one column, or two with the token.
  keep_shared,
  after_slice,  ///< $1 int8: gives the key back if this connection holds it; answers who else does.
};
inline constexpr std::size_t kStatements = 18;

const char* name_of(Statement statement) noexcept;
/// What the SQL depends on.
struct Dialect {
  bool fencing = false;
  std::int64_t database = 0;  ///< The database's oid.
};
std::string sql_of(Statement statement, const Dialect& dialect);

inline Statement take_one(Mode mode) {
  return mode == Mode::shared ? Statement::take_shared : Statement::take_exclusive;
}
inline Statement give_one(Mode mode) {
  return mode == Mode::shared ? Statement::give_shared : Statement::give_exclusive;
}

}  // namespace lockr::postgres
