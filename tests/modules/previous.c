/* A module of version 1. Nothing behind its version may be read. */
#include "frozen_v1.h"

const struct lockr_module_v1 lockr_module = {.spi_version = 1, .layout = 0, .backend = 0};
