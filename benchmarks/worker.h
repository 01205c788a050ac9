// Real processes for benchmarks, told what to do through pipes.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

namespace lockr::bench {

/// A process that runs this program once more in another role, or another program. What fails ends the program.
class Worker {
 public:
  explicit Worker(const std::vector<std::string>& arguments, const std::string& program = "/proc/self/exe");
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  /// Kills it if it still runs.
  ~Worker();

  /// Writes one line to its standard input.
  void say(const std::string& line);
  /// Reads lines of its standard output until one equals `line`.
  void await(const std::string& line);
  /// Reads the rest of its output, and waits for its end, which must be in good order.
  std::vector<std::string> finish();
  void kill();

 private:
  bool read_line(std::string& line);

  pid_t pid_ = 0;
  std::FILE* in_ = nullptr;
  std::FILE* out_ = nullptr;
};

/// What a program printed, both ways; one that fails ends this one.
std::string output_of(const std::string& command_line);

/// Whether there is such a program, and whether Python has these modules.
bool program_is_there(const std::string& name);
bool python_has(const std::vector<std::string>& modules);

}  // namespace lockr::bench
