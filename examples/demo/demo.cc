// lockr's main job, shown on real processes: `./dev demo` builds and runs it.
//
// usage: demo [--quick] LOCKR_PROGRAM
#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "process.h"
#include "scenes.h"

namespace {

using namespace std::chrono_literals;

// A folder of our own, gone at the end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = std::filesystem::temp_directory_path() / "lockr-demo-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) {
      std::perror(pattern.c_str());
      std::exit(1);
    }
    path_ = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

int play(const std::filesystem::path& folder, const std::string& lockr, std::chrono::milliseconds working_time) {
  demo::Screen screen;
  const demo::Stage stage{screen, folder, lockr, working_time};
  demo::without_locks(stage);
  demo::with_locks(stage);
  demo::killed_holder(stage);
  demo::command_line(stage);
  screen.line("");
  screen.line(screen.all_kept() ? "Everything went as promised." : "Something did NOT go as promised; see FAIL above.");
  return screen.all_kept() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc == 3 && std::string(argv[1]) == "--quick";
  if (argc != 2 && !quick) {
    std::fputs("usage: demo [--quick] LOCKR_PROGRAM\n", stderr);
    return 64;
  }
  const std::string lockr = std::filesystem::absolute(argv[argc - 1]);

  // The scenes play in a child, so that however they end, also by a signal, the folder is removed.
  Scratch scratch;
  ::setenv("LOCKR_DIR", (scratch.path() / "locks").c_str(), 1);
  ::unsetenv("LOCKR_CONFIG");
  ::unsetenv("LOCKR_URL");
  demo::Child scenes = demo::Child::fork([&] { return play(scratch.path(), lockr, quick ? 500ms : 3000ms); });
  static const pid_t playing = scenes.pid();
  std::signal(SIGINT, SIG_IGN);  // the terminal sends it to the scenes as well
  std::signal(SIGTERM, [](int signal) { ::kill(playing, signal); });
  return scenes.wait();
}
