#include "worker.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <utility>

extern char** environ;

namespace lockr::bench {
namespace {

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::_Exit(1);
}

}  // namespace

Worker::Worker(const std::vector<std::string>& arguments, const std::string& program) {
  std::array<int, 2> to{};
  std::array<int, 2> from{};
  if (pipe2(to.data(), O_CLOEXEC) != 0 || pipe2(from.data(), O_CLOEXEC) != 0) fail("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
  std::vector<char*> all{const_cast<char*>(program.c_str())};
  for (const std::string& each : arguments) all.push_back(const_cast<char*>(each.c_str()));
  all.push_back(nullptr);
  if (posix_spawn(&pid_, program.c_str(), &actions, nullptr, all.data(), environ) != 0) fail(program.c_str());
  posix_spawn_file_actions_destroy(&actions);
  close(to[0]);
  close(from[1]);
  in_ = fdopen(to[1], "w");
  out_ = fdopen(from[0], "r");
}

Worker::~Worker() {
  if (pid_ != 0) kill();
  std::fclose(in_);
  std::fclose(out_);
}

void Worker::say(const std::string& line) {
  if (std::fputs((line + "\n").c_str(), in_) < 0 || std::fflush(in_) != 0) fail("a worker does not listen");
}

bool Worker::read_line(std::string& line) {
  line.clear();
  for (int c = std::getc(out_); c != EOF; c = std::getc(out_)) {
    if (c == '\n') return true;
    line += static_cast<char>(c);
  }
  return false;
}

void Worker::await(const std::string& line) {
  for (std::string each; read_line(each);) {
    if (each == line) return;
  }
  std::fprintf(stderr, "a worker ended before it said \"%s\"\n", line.c_str());
  std::_Exit(1);
}

std::vector<std::string> Worker::finish() {
  std::vector<std::string> lines;
  for (std::string line; read_line(line);) lines.push_back(line);
  int status = 0;
  if (waitpid(std::exchange(pid_, 0), &status, 0) < 0) fail("waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return lines;
  std::fputs("a worker failed\n", stderr);
  std::_Exit(1);
}

void Worker::kill() {
  ::kill(pid_, SIGKILL);
  waitpid(std::exchange(pid_, 0), nullptr, 0);
}

bool program_is_there(const std::string& name) {
  return std::system(("command -v " + name + " >/dev/null").c_str()) == 0;
}

bool python_has(const std::vector<std::string>& modules) {
  std::string command =
      "/usr/bin/python3 -c 'import sys, importlib.util; "
      "sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))'";
  for (const std::string& each : modules) command += " " + each;
  return std::system((command + " 2>/dev/null").c_str()) == 0;
}

std::string output_of(const std::string& command_line) {
  std::FILE* const out = popen((command_line + " 2>&1").c_str(), "r");
  if (!out) fail("popen");
  std::string text;
  for (int c = std::getc(out); c != EOF; c = std::getc(out)) text += static_cast<char>(c);
  if (pclose(out) == 0) return text;
  std::fprintf(stderr, "%s failed:\n%s", command_line.c_str(), text.c_str());
  std::_Exit(1);
}

}  // namespace lockr::bench
