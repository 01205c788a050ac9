// The commands of the lockr program, and the statuses they exit with. Each takes the arguments after its name.
#pragma once

#include <string>
#include <vector>

namespace lockr::cli {

/// docs/cli.md lists these for users; beside them stand the status of the guarded command and -E's.
enum Exit : int {
  kSuccess = 0,
  kNotAcquired = 1,      ///< The lock was not acquired.
  kUsage = 64,           ///< The command line is wrong (EX_USAGE).
  kLockLost = 124,       ///< The lock was lost, or --at-most is over, and the command was ended.
  kFailed = 125,         ///< Config, engine, unsafe set-up, access: lockr could not do its work.
  kNotExecutable = 126,  ///< The command was found and can't be executed.
  kNotFound = 127,       ///< The command was not found.
  kSignalled = 128,      ///< Plus the number of the signal that ended the command, or lockr while it waited.
};

using Arguments = std::vector<std::string>;

int run(const Arguments& arguments);
int who(const Arguments& arguments);
int why(const Arguments& arguments);
int doctor(const Arguments& arguments);
int backends(const Arguments& arguments);
int config(const Arguments& arguments);
int postgres(const Arguments& arguments);

}  // namespace lockr::cli
