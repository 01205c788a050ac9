// The lockr program: finds the command and runs it.
#include <fcntl.h>
#include <unistd.h>

#include <iostream>
#include <string_view>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/text.h"
#include "lockr/version.h"

namespace lockr::cli {
namespace {

struct Command {
  std::string_view name;
  int (*call)(const Arguments&);
};

constexpr Command kCommands[] = {
    {"run", run},           {"who", who},       {"why", why},           {"doctor", doctor},
    {"backends", backends}, {"config", config}, {"postgres", postgres},
};

int dispatch(const Arguments& arguments) {
  if (arguments.empty()) return usage_error("", "no command given");
  const std::string& name = arguments.front();
  if (name == "-h" || name == "--help" || name == "help") {
    std::cout << program_help();
    return kSuccess;
  }
  if (name == "-V" || name == "--version") {
    std::cout << "lockr " << version() << '\n';
    return kSuccess;
  }
  for (const Command& command : kCommands) {
    if (command.name == name) return command.call({arguments.begin() + 1, arguments.end()});
  }
  return usage_error("", "there is no command \"" + printable(name) + '"');
}

// A descriptor we open must not become somebody's standard output.
void open_standard_descriptors() {
  int fd;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) ::close(fd);
}

}  // namespace
}  // namespace lockr::cli

int main(int count, char** values) {
  using namespace lockr::cli;
  open_standard_descriptors();
  const int status = dispatch(count > 0 ? Arguments(values + 1, values + count) : Arguments());
  if (!std::cout.flush() && status == kSuccess) {
    complain("can't write to standard output");
    return kFailed;
  }
  return status;
}
