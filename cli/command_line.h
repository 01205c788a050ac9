// From arguments to options. Each parse function prints what there is to say (help to standard output, a mistake to
// standard error) and then returns the status to exit with instead of options.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/commands.h"
#include "cli/settings.h"
#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/releaser.h"

namespace lockr::cli {

template <class Options>
using Parsed = std::variant<Options, int>;

struct RunOptions {
  EngineChoice engine;
  std::vector<Key> keys;
  std::vector<std::string> command;  ///< What is executed; of `-c STRING` the shell that does.
  Mode mode = Mode::exclusive;
  std::chrono::nanoseconds timeout{0};  ///< Zero: try.
  int not_acquired_status = kNotAcquired;
  std::chrono::nanoseconds grace{0};
  std::chrono::nanoseconds at_least{0};
  std::chrono::nanoseconds at_most = forever;
  std::string label;
  bool verbose = false;
};

struct WhoOptions {
  EngineChoice engine;
  std::optional<Key> key;
  bool json = false;
};

struct WhyOptions {
  EngineChoice engine;
  Key key = Key::none();
  bool json = false;
};

Parsed<RunOptions> parse_run(const Arguments& arguments);
Parsed<WhoOptions> parse_who(const Arguments& arguments);
Parsed<WhyOptions> parse_why(const Arguments& arguments);
Parsed<EngineChoice> parse_doctor(const Arguments& arguments);
/// Nothing but --help: the status to exit with, or nullopt to go on.
std::optional<int> parse_backends(const Arguments& arguments);
struct ConfigOptions {
  EngineChoice engine;
  bool schema = false;  ///< Print the schema; else check.
};
/// `config check [FILE]` and `config schema`.
Parsed<ConfigOptions> parse_config(const Arguments& arguments);

struct PostgresOptions {
  EngineChoice engine;
  bool print = false;
  std::string role;
};
/// `postgres init`.
Parsed<PostgresOptions> parse_postgres(const Arguments& arguments);

/// The text of `lockr --help`.
std::string program_help();
/// Says what is wrong with the command line and where help is; returns kUsage. `command` is empty for the program.
int usage_error(std::string_view command, std::string_view message);

}  // namespace lockr::cli
