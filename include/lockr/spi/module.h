// A backend as a module: a shared object that a config names in "plugin".
//
//     static const lockr::spi::BackendInfo table_backend{.name = "table", …, .create = create};
//     LOCKR_MODULE(table_backend);
//
// Link it with lockr-spi (pkg-config; lockr::spi in CMake), never with lockr: a module carries its own copy of the code
// that the headers in spi/ need, exports `lockr_module` and nothing else, and needs no symbol of the program that loads
// it. What both sides agree on is fixed by spi::kVersion and kLayout; a module that differs in either is refused before
// any code of it is called but its static constructors, which must not throw. It is never unloaded.
//
// A C++ exception that leaves `create` is `incompatible_plugin`, one that leaves a call of the backend is
// `backend_failure`; spi/backend.h says what follows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "lockr/spi/backend.h"

namespace lockr::spi {

/// A number that differs where the types that cross the boundary have another layout: another standard library, its
/// debug mode, an option that changes the size of a type.
inline constexpr std::uint64_t kLayout = [] {
  const std::size_t facts[] = {
      sizeof(void*),
      sizeof(std::string),
      sizeof(std::vector<int>),
      sizeof(std::function<void()>),
      sizeof(std::shared_ptr<int>),
      sizeof(Error),
      sizeof(Result<std::unique_ptr<Backend>>),
      sizeof(Key),
      sizeof(Holder),
      sizeof(Capabilities),
      sizeof(Traits),
      sizeof(Request),
      sizeof(OpenContext),
      sizeof(BackendInfo),
#ifdef _GLIBCXX_USE_CXX11_ABI
      1 + _GLIBCXX_USE_CXX11_ABI,
#endif
#ifdef _LIBCPP_ABI_VERSION
      100 + _LIBCPP_ABI_VERSION,
#endif
#ifdef _GLIBCXX_DEBUG
      1000,
#endif
  };
  std::uint64_t mixed = 0xcbf29ce484222325u;  // FNV-1a
  for (const std::size_t fact : facts) mixed = (mixed ^ fact) * 0x100000001b3u;
  return mixed;
}();

/// What a module exports. Of every version the first member is `spi_version`; the others are this version's.
struct Module {
  std::uint32_t spi_version;
  std::uint64_t layout;
  const BackendInfo* backend;
};

}  // namespace lockr::spi

extern "C" LOCKR_API const lockr::spi::Module lockr_module;  // NOLINT(readability-identifier-naming): a C symbol

/// Exports a BackendInfo, once in a module, outside of any namespace.
#define LOCKR_MODULE(info) \
  const ::lockr::spi::Module lockr_module { ::lockr::spi::kVersion, ::lockr::spi::kLayout, &(info) }
