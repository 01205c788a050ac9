#include "tests/cli/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace lockr::cli_test {
namespace {

using Clock = std::chrono::steady_clock;

std::string program() {
  const char* path = std::getenv("LOCKR_PROGRAM");
  return path == nullptr ? "" : path;
}

// Reads what is there; false at the end of the stream.
bool read_some(int fd, std::string& text, std::chrono::milliseconds patience) {
  pollfd event{fd, POLLIN, 0};
  if (::poll(&event, 1, static_cast<int>(patience.count())) <= 0) return true;
  char buffer[4096];
  const ssize_t size = ::read(fd, buffer, sizeof buffer);
  if (size <= 0) return false;
  text.append(buffer, static_cast<std::size_t>(size));
  return true;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A field of /proc/PID/status, empty when there is none.
std::string status_field(pid_t pid, const std::string& name) {
  std::stringstream lines(read_file("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
  }
  return "";
}

[[noreturn]] void become(const Launch& launch, int output, int errors) {
  if (launch.terminal != nullptr) {
    ::setsid();
    const int terminal = ::open(launch.terminal->path().c_str(), O_RDWR);
    ::ioctl(terminal, TIOCSCTTY, 0);
    for (const int fd : {0, 1, 2}) ::dup2(terminal, fd);
    if (terminal > 2) ::close(terminal);
  } else {
    ::setpgid(0, 0);
    ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
    ::dup2(output, 1);
    ::dup2(errors, 2);
  }
  ::close_range(3, ~0u, 0);
  // Whoever runs the tests in the background of a shell has them ignore INT and QUIT.
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE}) std::signal(number, SIG_DFL);
  for (const int number : launch.ignored) std::signal(number, SIG_IGN);
  for (const auto& [name, value] : launch.environment) {
    value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }
  std::vector<char*> arguments;
  for (const std::string& argument : launch.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  ::_exit(99);
}

}  // namespace

bool eventually(const std::function<bool()>& condition) {
  const auto end = Clock::now() + kPatience;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

Pty::Pty() : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
  ::grantpt(master_);
  ::unlockpt(master_);
  char name[128] = {};
  ::ptsname_r(master_, name, sizeof name);
  path_ = name;
}

Pty::~Pty() { ::close(master_); }

void Pty::type(const std::string& keys) const {
  EXPECT_EQ(::write(master_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

bool Pty::expect(const std::string& text) {
  const auto end = Clock::now() + kPatience;
  for (;;) {
    if (const std::size_t at = screen_.find(text, seen_); at != screen_.npos) {
      seen_ = at + text.size();
      return true;
    }
    if (Clock::now() > end || !read_some(master_, screen_, std::chrono::milliseconds(100))) return false;
  }
}

bool Pty::echoes() const {
  termios modes{};
  return ::tcgetattr(master_, &modes) == 0 && (modes.c_lflag & ECHO) != 0;
}

Process::Process(const Launch& launch) {
  int output[2];
  int errors[2];
  EXPECT_EQ(::pipe2(output, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(errors, O_CLOEXEC), 0);
  pid_ = ::fork();
  if (pid_ == 0) become(launch, output[1], errors[1]);
  if (launch.terminal == nullptr) ::setpgid(pid_, pid_);
  ::close(output[1]);
  ::close(errors[1]);
  output_fd_ = output[0];
  errors_fd_ = errors[0];
}

Process::~Process() {
  if (!status_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(output_fd_);
  ::close(errors_fd_);
}

void Process::signal(int number) const { EXPECT_EQ(::kill(pid_, number), 0); }

Process::Heard Process::hear(int fd, std::string& text, const std::function<bool()>& enough) {
  const auto end = Clock::now() + kPatience;
  while (!enough()) {
    if (Clock::now() > end) return Heard::nothing_more;
    if (!read_some(fd, text, std::chrono::milliseconds(100))) return enough() ? Heard::enough : Heard::end;
  }
  return Heard::enough;
}

bool Process::prints(const std::string& text) {
  return hear(output_fd_, output_, [&] { return output_.find(text) != output_.npos; }) == Heard::enough;
}

bool Process::complains(const std::string& text) {
  return hear(errors_fd_, errors_, [&] { return errors_.find(text) != errors_.npos; }) == Heard::enough;
}

std::optional<int> Process::wait() {
  int status = 0;
  const bool ended = status_ || eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
  if (!status_ && ended) status_ = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  return status_;
}

std::string Process::output() {
  EXPECT_EQ(hear(output_fd_, output_, [] { return false; }), Heard::end) << "standard output stays open";
  return output_;
}

std::string Process::errors() {
  EXPECT_EQ(hear(errors_fd_, errors_, [] { return false; }), Heard::end) << "standard error stays open";
  return errors_;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  const std::string number = std::to_string(pid);
  std::stringstream pids(read_file("/proc/" + number + "/task/" + number + "/children"));
  for (pid_t child; pids >> child;) children.push_back(child);
  return children;
}

char state_of(pid_t pid) {
  const std::string state = status_field(pid, "State");
  return state.empty() ? '\0' : state.front();
}

bool exists(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

bool watches(pid_t pid, int signal) {
  const std::string mask = status_field(pid, "SigBlk");
  if (mask.empty()) return false;
  const auto blocked = [bits = std::stoull(mask, nullptr, 16)](int number) {
    return ((bits >> (number - 1)) & 1) != 0;
  };
  return blocked(signal) && !blocked(SIGALRM);
}

LockrTest::LockrTest() {
  // In memory where there is such a file system: each test makes a lock directory with a thousand files.
  const bool in_memory = ::access("/dev/shm", W_OK) == 0;
  const std::string parent = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path().string();
  std::string name = parent + "/lockr-cli-test-XXXXXX";
  directory_ = ::mkdtemp(name.data()) == nullptr ? "" : name;
  EXPECT_NE(directory_, "");
  EXPECT_NE(program(), "") << "set LOCKR_PROGRAM to the path of the lockr program";
}

LockrTest::~LockrTest() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::string LockrTest::read(const std::string& name) const { return read_file(path(name)); }

void LockrTest::write(const std::string& name, const std::string& text) const { std::ofstream(path(name)) << text; }

Launch LockrTest::lockr(Arguments arguments, Environment environment) const {
  arguments.insert(arguments.begin(), program());
  environment.insert({{"LOCKR_DIR", path("locks")},
                      {"LOCKR_CONFIG", std::nullopt},
                      {"LOCKR_URL", std::nullopt},
                      {"LOCKR_KEY", std::nullopt},
                      {"LOCKR_FENCING_TOKEN", std::nullopt},
                      {"LOCKR", program()},
                      {"DIR", directory_}});
  return {.arguments = std::move(arguments), .environment = std::move(environment)};
}

Launch LockrTest::shell(const std::string& script, Environment environment) const {
  Launch launch = lockr({}, std::move(environment));
  launch.arguments = {"/bin/sh", "-c", script};
  return launch;
}

LockrTest::Outcome LockrTest::outcome(const Launch& launch) {
  Process process(launch);
  Outcome result;
  result.output = process.output();
  result.errors = process.errors();
  result.status = process.wait();
  return result;
}

pid_t LockrTest::guard_of(const Process& process) {
  const auto children = children_of(process.pid());
  EXPECT_EQ(children.size(), 1u);
  return children.empty() ? -1 : children.front();
}

pid_t LockrTest::pid_in(const std::string& name) const {
  EXPECT_TRUE(eventually([&] { return read(name).ends_with('\n'); }));
  return static_cast<pid_t>(std::atoi(read(name).c_str()));
}

Arguments with(Arguments options, const Arguments& command) {
  options.insert(options.end(), command.begin(), command.end());
  return options;
}

}  // namespace lockr::cli_test
