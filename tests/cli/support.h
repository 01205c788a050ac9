// Real processes for the tests of the lockr program: start them, hear them, look at them, end them.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lockr::cli_test {

/// How long a test waits for what must happen.
inline constexpr std::chrono::seconds kPatience{30};

/// Asks again and again; false when the condition did not come true within kPatience.
bool eventually(const std::function<bool()>& condition);

using Arguments = std::vector<std::string>;
/// Variables to set; nullopt unsets.
using Environment = std::map<std::string, std::optional<std::string>>;

/// A pseudo-terminal, seen from the side of the screen and keyboard.
class Pty {
 public:
  Pty();
  Pty(const Pty&) = delete;
  Pty& operator=(const Pty&) = delete;
  ~Pty();

  void type(const std::string& keys) const;
  /// Reads the screen until `text` shows up on it after what was expected before; false when it does not.
  bool expect(const std::string& text);
  /// Everything on the screen so far.
  const std::string& screen() const { return screen_; }
  /// Whether the terminal echoes.
  bool echoes() const;
  const std::string& path() const { return path_; }

 private:
  int master_;
  std::string path_;
  std::string screen_;
  std::size_t seen_ = 0;
};

struct Launch {
  Arguments arguments;
  Environment environment{};
  std::vector<int> ignored{};  ///< Signals it starts with ignored.
  Pty* terminal = nullptr;     ///< Its controlling terminal and standard streams; else streams are pipes.
};

/// One process, leader of its own process group, or of a session when it has a terminal. Killed when destroyed.
class Process {
 public:
  explicit Process(const Launch& launch);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Waits for standard output to contain `text`.
  bool prints(const std::string& text);
  /// Waits for standard error to contain `text`.
  bool complains(const std::string& text);
  /// Waits for its end: the exit status, or minus the signal that ended it; nullopt when it does not end.
  std::optional<int> wait();
  /// All it wrote, to the end of the streams, which they must reach.
  std::string output();
  std::string errors();

 private:
  enum class Heard { enough, end, nothing_more };
  Heard hear(int fd, std::string& text, const std::function<bool()>& enough);

  pid_t pid_ = -1;
  std::optional<int> status_;
  int output_fd_ = -1;
  int errors_fd_ = -1;
  std::string output_;
  std::string errors_;
};

/// The ids of a process's children.
std::vector<pid_t> children_of(pid_t pid);
/// The letter of its state, 'T' for stopped; 0 when there is no such process.
char state_of(pid_t pid);
/// Whether there is a process, zombies included.
bool exists(pid_t pid);
/// Whether lockr looks out for the signal by now instead of being ended by it: its main thread blocks it, and not every
/// signal as a runtime does for a moment while it starts.
bool watches(pid_t pid, int signal);

/// Runs lockr on a directory of its own.
class LockrTest : public ::testing::Test {
 protected:
  LockrTest();
  ~LockrTest() override;

  /// A file in the test's directory.
  std::string path(const std::string& name) const { return directory_ + '/' + name; }
  std::string read(const std::string& name) const;
  void write(const std::string& name, const std::string& text) const;

  Launch lockr(Arguments arguments, Environment environment = {}) const;
  /// The same, through a shell: "$LOCKR" is the program.
  Launch shell(const std::string& script, Environment environment = {}) const;

  struct Outcome {
    std::optional<int> status;
    std::string output;
    std::string errors;
  };
  /// Runs to the end.
  static Outcome outcome(const Launch& launch);
  Outcome run(Arguments arguments, Environment environment = {}) const {
    return outcome(lockr(std::move(arguments), std::move(environment)));
  }

  /// The guard of a running `lockr run`.
  static pid_t guard_of(const Process& process);
  /// The process id that the command wrote into a file.
  pid_t pid_in(const std::string& name) const;

 private:
  std::string directory_;
};

/// A command for `lockr run`: keeps the key until it is ended, after it printed "held".
inline const Arguments kHold = {"--", "sh", "-c", "echo held; exec sleep 1000"};
/// The arguments of `lockr run` with a command behind them.
Arguments with(Arguments options, const Arguments& command);

}  // namespace lockr::cli_test
