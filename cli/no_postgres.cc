// lockr postgres init, in a build without that backend.
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/text.h"

namespace lockr::cli {

int postgres(const Arguments& arguments) {
  const auto parsed = parse_postgres(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  complain("this lockr was built without the PostgreSQL backend; use one that has it, see `lockr backends`");
  return kFailed;
}

}  // namespace lockr::cli
