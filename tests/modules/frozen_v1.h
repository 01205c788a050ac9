/* The module interface as it was in version 1. Frozen, see frozen_v0.h. */
#ifndef LOCKR_FROZEN_V1_H
#define LOCKR_FROZEN_V1_H

#include <stdint.h>

struct lockr_module_v1 {
  uint32_t spi_version; /* 1 */
  uint64_t layout;
  const void* backend;
};

extern const struct lockr_module_v1 lockr_module;

#endif
