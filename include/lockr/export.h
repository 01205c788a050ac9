// LOCKR_API marks what the shared library exports; everything else has hidden visibility.
#pragma once

#define LOCKR_API __attribute__((visibility("default")))
