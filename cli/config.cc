// lockr config check and schema, lockr backends: what can be told without an engine.
#include <algorithm>
#include <iostream>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/settings.h"
#include "cli/text.h"
#include "lockr/registry.h"
#include "lockr/spi/backend.h"

namespace lockr::cli {

int config(const Arguments& arguments) {
  const auto parsed = parse_config(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const ConfigOptions& options = std::get<ConfigOptions>(parsed);
  if (options.schema) {
    std::cout << Registry::builtin().config_schema();
    return kSuccess;
  }
  const auto settings = load_settings(options.engine);
  if (!settings) return failed(describe(settings.error()));
  std::cout << "good: " << settings->origin << " (backend " << printable(settings->config.backend()) << ")\n";
  return kSuccess;
}

int backends(const Arguments& arguments) {
  if (const auto status = parse_backends(arguments)) return *status;
  const Registry registry = Registry::builtin();
  std::size_t longest = 0;
  for (const std::string& name : registry.names()) longest = std::max(longest, name.size());
  for (const std::string& name : registry.names()) {
    std::cout << name << std::string(longest - name.size() + 2, ' ') << registry.find(name)->summary << '\n';
  }
  return kSuccess;
}

}  // namespace lockr::cli
