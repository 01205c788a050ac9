#include "lockr/version.h"

namespace lockr {

const char* version() noexcept { return LOCKR_VERSION_STRING; }

}  // namespace lockr
