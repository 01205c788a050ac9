#include "tests/conformance/other_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"

extern char** environ;

namespace lockr::testing {
namespace {

constexpr std::chrono::seconds kStartLimit{20};
constexpr std::string_view kHeld = "held\n";

// A child that holds a key, and the pipes to it.
class Child final : public OtherProcess {
 public:
  Child(pid_t pid, Descriptor input, Descriptor output)
      : pid_(pid), input_(std::move(input)), output_(std::move(output)) {}
  ~Child() override { kill(); }

  void kill() override {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
  }

  bool tell(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(input_.get(), text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
  }

  /// Everything it says up to the end of a line.
  std::string hear() {
    const auto deadline = std::chrono::steady_clock::now() + kStartLimit;
    std::string said;
    while (said.empty() || said.back() != '\n') {
      pollfd poll{.fd = output_.get(), .events = POLLIN, .revents = 0};
      const auto left = deadline - std::chrono::steady_clock::now();
      const auto ready =
          ::poll(&poll, 1, static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(left).count()));
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) return said + "(nothing within 20 s)";
      std::array<char, 512> buffer{};
      const ssize_t got = ::read(output_.get(), buffer.data(), buffer.size());
      if (got <= 0) return said + "(it ended)";
      said.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return said;
  }

 private:
  pid_t pid_;
  Descriptor input_;
  Descriptor output_;
};

struct Pipe {
  Descriptor read_end{-1};
  Descriptor write_end{-1};
};

std::optional<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return std::nullopt;
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

Error system_failure(const char* what) {
  return Error(errc::backend_failure, std::string("a child process can't be made: ") + what + " failed")
      .with_native(std::strerror(errno));
}

Result<std::unique_ptr<Child>> start_child() {
  auto in = make_pipe();
  auto out = make_pipe();
  if (!in || !out) return fail(system_failure("pipe2"));
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in->read_end.get(), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out->write_end.get(), STDOUT_FILENO);
  std::string program = "/proc/self/exe";
  std::string argument = kHoldArgument;
  std::array<char*, 3> arguments{program.data(), argument.data(), nullptr};
  pid_t pid = 0;
  errno = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
  const bool started = errno == 0;
  ::posix_spawn_file_actions_destroy(&actions);
  if (!started) return fail(system_failure("posix_spawn"));
  return std::make_unique<Child>(pid, std::move(in->write_end), std::move(out->read_end));
}

Result<Releaser> take(const Registry& registry, const std::string& config_text, const std::string& key_text,
                      std::unique_ptr<Locker>& locker) {
  auto config = LockerConfig::from_json(config_text);
  if (!config) return fail(config.error());
  auto key = Key::parse(key_text);
  if (!key) return fail(key.error());
  auto opened = registry.open(*config);
  if (!opened) return fail(opened.error());
  locker = *std::move(opened);
  return locker->lock(*key, {.timeout = kStartLimit});
}

}  // namespace

int hold_for_parent(const Registry& registry) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string config;
  std::string key;
  if (!std::getline(std::cin, config) || !std::getline(std::cin, key)) return 1;
  std::unique_ptr<Locker> locker;
  const auto held = take(registry, config, key, locker);
  if (!held) {
    std::cout << held.error().to_string() << std::endl;
    return 1;
  }
  std::cout << kHeld << std::flush;
  std::cin.get();
  return 0;
}

Result<std::unique_ptr<OtherProcess>> hold_in_child(const std::string& config, const Key& key) {
  auto child = start_child();
  if (!child) return fail(child.error());
  if (!(*child)->tell(config + "\n" + std::string(key.string()) + "\n")) return fail(system_failure("write"));
  const std::string said = (*child)->hear();
  if (said == kHeld) return *std::move(child);
  return fail(errc::backend_failure, "the child process does not hold the key; it says: " + said);
}

}  // namespace lockr::testing
