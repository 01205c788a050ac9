#include "lockr/registry.h"

#include <algorithm>
#include <utility>

#include "core/backend_name.h"
#include "core/builtin_backends.h"
#include "core/guarded_backend.h"
#include "core/locker.h"
#include "core/module.h"
#include "core/risks.h"
#include "core/text.h"
#include "core/thrown.h"
#include "lockr/spi/backend.h"

namespace lockr {
namespace {

bool serves(const spi::BackendInfo& backend, std::string_view scheme) {
  const auto schemes = core::split_words(backend.schemes);
  return std::find(schemes.begin(), schemes.end(), scheme) != schemes.end();
}

// Said of any unknown name: it may be another scheme of one of these.
std::string left_out_backends() {
  std::string text;
  for (const core::LeftOutBackend& backend : core::left_out_backends()) {
    text.append(text.empty() ? "; left out when this lockr was built: " : ", ");
    text.append(backend.name).append(" (").append(backend.reason).append(")");
  }
  return text;
}

Error unknown_backend(const LockerConfig& config, const std::vector<const spi::BackendInfo*>& backends) {
  for (const core::LeftOutBackend& backend : core::left_out_backends()) {
    if (backend.name != config.backend()) continue;
    return Error(errc::unknown_backend, "the backend " + core::shown_backend(config) +
                                            " was left out when this lockr was built (" + std::string(backend.reason) +
                                            "); " + std::string(backend.remedy));
  }
  std::vector<std::string_view> known;
  for (const auto* backend : backends) known.emplace_back(backend->name);
  return Error(errc::unknown_backend, "there is no backend " + core::shown_backend(config) + "; " +
                                          core::suggestion(config.backend(), known) + left_out_backends());
}

bool is_builtin(const spi::BackendInfo& backend) noexcept {
  const auto all = core::builtin_backends();
  return std::find(all.begin(), all.end(), &backend) != all.end();
}

// The backend that the config's module has, in a registry that may have others.
Result<const spi::BackendInfo*> load(Registry registry, const LockerConfig& config) {
  const auto loaded = core::load_module(config.plugin());
  if (!loaded) return fail(loaded.error());
  if (registry.find((*loaded)->name) != *loaded) {
    if (auto added = registry.add(**loaded); !added) return fail(added.error());
  }
  if (registry.find(config.backend()) == *loaded) return *loaded;
  return fail(errc::invalid_config, core::module_name(config.plugin()) + " has the backend " +
                                        core::in_quotes((*loaded)->name) + ", where the config's \"backend\" is " +
                                        core::shown_backend(config));
}

Result<const spi::BackendInfo*> look_up(const Registry& registry, const LockerConfig& config,
                                        const std::vector<const spi::BackendInfo*>& backends) {
  if (!config.plugin().empty()) {
    auto loaded = load(registry, config);
    if (loaded) return loaded;
    const Error& error = loaded.error();
    return fail(Error(error.code(), "/plugin: " + error.message()).with_native(std::string(error.native())));
  }
  const auto* backend = registry.find(config.backend());
  if (!backend) return fail(unknown_backend(config, backends));
  return backend;
}

// A config may be one for several engines: risks of others than the one that is chosen do no harm.
Result<const spi::BackendInfo*> choose(const Registry& registry, const LockerConfig& config,
                                       const std::vector<const spi::BackendInfo*>& backends) {
  auto chosen = look_up(registry, config, backends);
  if (!chosen) return chosen;
  std::vector<std::string_view> risks = core::split_words((*chosen)->risks);
  for (const auto* backend : backends) {
    for (const std::string_view risk : core::split_words(backend->risks)) {
      if (std::find(risks.begin(), risks.end(), risk) == risks.end()) risks.push_back(risk);
    }
  }
  risks.push_back(core::kReadableConfig);
  if (auto known = core::check_risks(config, risks); !known) return fail(known.error());
  return chosen;
}

Result<std::unique_ptr<spi::Backend>> call_factory(const spi::BackendInfo& backend, const spi::OpenContext& context) {
  try {
    return backend.create(context);
  } catch (...) {
    return fail(Error(errc::incompatible_plugin,
                      "the backend " + core::in_quotes(backend.name) + " threw an exception instead of being made")
                    .with_native(core::thrown_text()));
  }
}

Result<std::unique_ptr<spi::Backend>> create(const spi::BackendInfo& backend, const LockerConfig& config,
                                             const OpenOptions& options, bool dedicated) {
  spi::Runtime& runtime = options.runtime ? *options.runtime : spi::system_runtime();
  const spi::OpenContext context{
      .section = config.section(),
      .runtime = runtime,
      .connect_timeout = config.connect_timeout(),
      .reply_timeout = config.reply_timeout(),
      .label = config.label(),
      .accepts_risk = [config](std::string_view risk) { return config.accepts_risk(risk); },
      .log = options.log ? options.log : [](LogLevel, std::string_view) {},
      .dedicated = dedicated,
  };
  auto made = call_factory(backend, context);
  if (!made) return made;
  if (!*made && !backend.table_alone) {
    return fail(errc::incompatible_plugin, "the backend " + core::in_quotes(backend.name) + " made nothing to open");
  }
  if (!*made || is_builtin(backend)) return made;
  return std::make_unique<core::GuardedBackend>(backend.name, *std::move(made), runtime, context.log);
}

}  // namespace

Registry Registry::builtin() {
  Registry registry;
  for (const auto* backend : core::builtin_backends()) registry.backends_.push_back(backend);
  return registry;
}

Status Registry::add(const spi::BackendInfo& backend) {
  if (backend.spi_version != spi::kVersion) {
    return fail(errc::incompatible_plugin, "a backend was built for version " + std::to_string(backend.spi_version) +
                                               " of lockr's plugin interface, this library has version " +
                                               std::to_string(spi::kVersion) + "; build it again with these headers");
  }
  auto names = core::split_words(backend.schemes);
  names.insert(names.begin(), backend.name);
  for (const std::string_view name : names) {
    const auto* other = find(name);
    if (!other) continue;
    return fail(errc::invalid_config, "the backend " + core::in_quotes(backend.name) +
                                          " can't be added: " + core::in_quotes(name) +
                                          " already stands for the backend " + core::in_quotes(other->name));
  }
  backends_.push_back(&backend);
  return {};
}

Status Registry::load(const std::string& path) {
  const auto loaded = core::load_module(path);
  if (!loaded) return fail(loaded.error());
  if (std::find(backends_.begin(), backends_.end(), *loaded) != backends_.end()) {
    return fail(errc::invalid_config, core::module_name(path) + " is named twice: its backend " +
                                          core::in_quotes((*loaded)->name) + " was added before");
  }
  return add(**loaded);
}

std::vector<std::string> Registry::names() const {
  std::vector<std::string> names;
  for (const auto* backend : backends_) names.emplace_back(backend->name);
  return names;
}

const spi::BackendInfo* Registry::find(std::string_view name) const noexcept {
  const auto named = [&](const auto* backend) { return backend->name == name; };
  auto it = std::find_if(backends_.begin(), backends_.end(), named);
  if (it == backends_.end()) {
    it = std::find_if(backends_.begin(), backends_.end(), [&](const auto* backend) { return serves(*backend, name); });
  }
  return it == backends_.end() ? nullptr : *it;
}

Status Registry::check(const LockerConfig& config) const {
  const auto backend = choose(*this, config, backends_);
  if (!backend) return fail(backend.error());
  const auto created = create(**backend, config, {}, false);
  return created ? Status() : Status(fail(created.error()));
}

Result<std::unique_ptr<Locker>> Registry::open(const LockerConfig& config, OpenOptions options) const {
  const auto info = choose(*this, config, backends_);
  if (!info) return fail(info.error());
  auto backend = create(**info, config, options, false);
  if (!backend) return fail(std::move(backend.error()));
  const auto make_dedicated = [info = *info, config, options] { return create(*info, config, options, true); };
  return core::open_locker(config, **info, std::move(*backend), options, make_dedicated);
}

Result<std::unique_ptr<Locker>> open(const LockerConfig& config, OpenOptions options) {
  return Registry::builtin().open(config, std::move(options));
}

}  // namespace lockr
