// lockr postgres init: what fencing needs in a database.
#include "lockr/postgres.h"

#include <iostream>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/settings.h"
#include "cli/text.h"

namespace lockr::cli {

int postgres(const Arguments& arguments) {
  const auto parsed = parse_postgres(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const PostgresOptions& options = std::get<PostgresOptions>(parsed);
  if (options.print) {
    std::cout << lockr::postgres::init_sql() << lockr::postgres::grants_sql(options.role);
    return kSuccess;
  }
  const auto settings = load_settings(options.engine);
  const Status done = settings ? lockr::postgres::init(settings->config) : fail(settings.error());
  if (!done) {
    complain(describe(done.error()));
    return kFailed;
  }
  // SQL too, so that it can be piped into psql.
  std::cout << "-- The schema lockr and its sequence are there. A service that uses fencing tokens needs:\n"
            << lockr::postgres::grants_sql(options.role);
  return kSuccess;
}

}  // namespace lockr::cli
