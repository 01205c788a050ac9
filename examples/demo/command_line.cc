// The lockr program: any command can be guarded, and everybody can see by whom.
#include <fstream>
#include <thread>

#include "process.h"
#include "scenes.h"

namespace demo {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* kKey = "demo:deploy";

// A script that runs from the file `started` to the file `go`, both beside it.
std::filesystem::path write_script(const std::filesystem::path& folder) {
  const std::filesystem::path script = folder / "deploy.sh";
  std::ofstream(script) << "#!/bin/sh\n"
                           "cd \"${0%/*}\"\n"
                           "echo \"  | deploying, fencing token $LOCKR_FENCING_TOKEN\"\n"
                           "touch started\n"
                           "until [ -e go ]; do sleep 0.05; done\n"
                           "echo '  | deployed'\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  return script;
}

bool appears(const std::filesystem::path& file) {
  const auto end = Clock::now() + 5s;
  while (!std::filesystem::exists(file) && Clock::now() < end) std::this_thread::sleep_for(10ms);
  return std::filesystem::exists(file);
}

std::string shown(const Finished& finished) {
  return indented(finished.output + "exit status " + std::to_string(finished.status));
}

}  // namespace

void command_line(const Stage& stage) {
  Screen& screen = stage.screen;
  screen.title("4. `lockr run` guards a shell command");
  const std::filesystem::path script = write_script(stage.folder);

  screen.line(std::string("  $ lockr run ") + kKey + " -- ./deploy.sh &");
  Child deploy = Child::start({stage.lockr, "run", kKey, "--", script});
  screen.expect(appears(stage.folder / "started"), "the command runs");

  screen.line("  $ lockr who");
  const Finished who = run({stage.lockr, "who"});
  screen.line(shown(who));
  screen.expect(who.status == 0 && who.output.find(kKey) != std::string::npos, "`lockr who` shows who holds it");

  screen.line(std::string("  $ lockr run -n ") + kKey + " -- ./deploy.sh");
  const Finished second = run({stage.lockr, "run", "-n", kKey, "--", script});
  screen.line(shown(second));
  screen.expect(second.status == 1, "a second one is refused while the first one runs");

  std::ofstream(stage.folder / "go").flush();
  screen.expect(deploy.wait() == 0, "the first one ends with the exit status of its command");
  screen.expect(run({stage.lockr, "run", "-n", kKey, "--", "true"}).status == 0, "and the key is free again");
}

}  // namespace demo
