/* A module of version 0. Nothing of it may be called. */
#include <stdlib.h>

#include "frozen_v0.h"

static void* create(const char* section) {
  (void)section;
  abort();
}

const struct lockr_module_v0 lockr_module = {.spi_version = 0, .name = "old", .create = create};
