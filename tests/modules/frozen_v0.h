/* The module interface as it was in version 0. Frozen: modules in the field do not change with us, so neither does
   this file. When spi::kVersion grows, the module of the version before is frozen beside it. */
#ifndef LOCKR_FROZEN_V0_H
#define LOCKR_FROZEN_V0_H

#include <stdint.h>

struct lockr_module_v0 {
  uint32_t spi_version; /* 0 */
  const char* name;
  void* (*create)(const char* section);
};

extern const struct lockr_module_v0 lockr_module;

#endif
