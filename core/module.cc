#include "core/module.h"

#include <dlfcn.h>

#include <string_view>

#include "core/module_file.h"
#include "core/text.h"
#include "lockr/spi/module.h"

namespace lockr::core {
namespace {

constexpr const char* kSymbol = "lockr_module";

tl::unexpected<Error> incompatible(const std::string& path, std::string_view why) {
  return fail(errc::incompatible_plugin, module_name(path) + " " + std::string(why));
}

std::string last_dl_error() {
  const char* text = dlerror();
  return text ? text : "";
}

// Never unloaded: values made by its code may outlive its backend.
Result<void*> link(const std::string& path) {
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle) return handle;
  return fail(Error(errc::incompatible_plugin,
                    module_name(path) + " can't be linked; a library or a symbol that it needs is missing")
                  .with_native(last_dl_error()));
}

}  // namespace

std::string module_name(const std::string& path) { return "the module \"" + printable(path) + "\""; }

Result<const spi::BackendInfo*> load_module(const std::string& path) {
  if (auto fit = check_module_file(path); !fit) return fail(fit.error());
  const auto handle = link(path);
  if (!handle) return fail(handle.error());
  const void* const symbol = dlsym(*handle, kSymbol);
  if (!symbol) return incompatible(path, "is not a module of lockr: it has no symbol lockr_module");
  // Of another version only this much is known.
  const auto version = *static_cast<const std::uint32_t*>(symbol);
  if (version != spi::kVersion) {
    return incompatible(path, "was built for version " + std::to_string(version) +
                                  " of lockr's plugin interface, this library has version " +
                                  std::to_string(spi::kVersion) + "; build it again with these headers");
  }
  const auto& module = *static_cast<const spi::Module*>(symbol);
  if (module.layout != spi::kLayout) {
    return incompatible(path,
                        "was built with another C++ standard library, or with options that change its types; build it "
                        "again as this library was");
  }
  if (!module.backend || !module.backend->name || *module.backend->name == '\0') {
    return incompatible(path, "has no backend in it");
  }
  if (!module.backend->create || !module.backend->summary || !module.backend->schema) {
    return incompatible(path, "has a backend without a factory, summary or schema");
  }
  return module.backend;
}

}  // namespace lockr::core
