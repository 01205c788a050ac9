// The backends this library was built with, and those it was built without; backends/meson.build generates both lists.
#pragma once

#include <span>
#include <string_view>

#include "lockr/spi/backend.h"

namespace lockr::core {

std::span<const spi::BackendInfo* const> builtin_backends() noexcept;

struct LeftOutBackend {
  std::string_view name;
  std::string_view reason;  // "not found: hiredis >= 0.14"
  std::string_view remedy;
};

std::span<const LeftOutBackend> left_out_backends() noexcept;

}  // namespace lockr::core
