// What does it cost to guard a command? `lockr run` over the file backend against flock(1), and the command alone.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "placement.h"
#include "report.h"

extern char** environ;

namespace {

using lockr::bench::give_up;

// A directory that goes with the program.
const std::string& directory() {
  static const struct Directory {
    std::string path = "/tmp/lockr-bench-XXXXXX";
    Directory() {
      if (!mkdtemp(path.data())) give_up("no directory can be made in /tmp");
    }
    ~Directory() { std::filesystem::remove_all(path); }
  } made;
  return made.path;
}

using Words = std::vector<std::string>;

bool succeeds(Words words) {
  std::vector<char*> pointers;
  for (std::string& each : words) pointers.push_back(each.data());
  pointers.push_back(nullptr);
  pid_t pid = 0;
  int status = 0;
  if (posix_spawnp(&pid, pointers[0], nullptr, nullptr, pointers.data(), environ) != 0) return false;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Words with_lockr() {
  return {LOCKR_PROGRAM, "run", "--backend", "file:" + directory() + "/locks", "nightly:report", "--", "true"};
}
Words with_flock() { return {"flock", directory() + "/file", "true"}; }

void spawn(benchmark::State& state, const Words& words) {
  if (!succeeds(words)) give_up(words[0] + " failed");
  for (auto _ : state) benchmark::DoNotOptimize(succeeds(words));
}

// A program that is not there is not measured, and its row says so.
void register_all() {
  const auto add = [](const char* name, const Words& words) {
    benchmark::RegisterBenchmark(name, [words](benchmark::State& state) { spawn(state, words); })->UseRealTime();
  };
  add("lockr_run", with_lockr());
  if (succeeds({"flock", "--version"})) add("flock", with_flock());
  add("alone", {"true"});
}

lockr::bench::Row row(const std::string& question, const std::string& peer, const std::string& peer_name) {
  return {.question = question,
          .backend = "file",
          .ours = "lockr_run",
          .peer = peer,
          .peer_name = peer_name,
          .at_most = true};
}

}  // namespace

int main(int argc, char** argv) {
  return lockr::bench::run(argc, argv,
                           {row("file: lockr run KEY -- true, against flock(1)", "flock", "flock FILE true"),
                            row("file: lockr run KEY -- true, against the command alone", "alone", "true")},
                           register_all);
}
