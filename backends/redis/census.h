// Who holds and who waits, as the server has it.
#pragma once

#include <vector>

#include "backends/redis/link.h"
#include "backends/redis/site.h"

namespace lockr::redis {

/// Of one key, or of all under the prefix. Waits for the answers until then (steady); not on the service thread, which
/// receives them. Errors: `connection_lost`, `access_denied`, `backend_failure`.
Result<std::vector<Holder>> take_census(const Site& site, Link& link, const Key* key, Time until);

}  // namespace lockr::redis
