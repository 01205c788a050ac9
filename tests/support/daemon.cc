#include "tests/support/daemon.h"

#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "lockr/releaser.h"

extern char** environ;

namespace lockr::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kPatience{30};

[[noreturn]] void give_up(const std::string& what) { throw std::runtime_error(what); }

[[noreturn]] void give_up_with_errno(const std::string& what) { give_up(what + ": " + std::strerror(errno)); }

const passwd& nobody() {
  static const passwd* const entry = ::getpwnam("nobody");
  if (!entry) give_up("this system has no user \"nobody\" to run servers as");
  return *entry;
}

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A thread that lives as long as this process: what it starts ends when this process does, however that ends. (The
// parent-death signal means the thread, and a test may start a server on one that ends before.)
class Starter {
 public:
  Starter() {
    std::thread([this] { run(); }).detach();
  }
  pid_t start(std::function<pid_t()> body) {
    std::packaged_task<pid_t()> task(std::move(body));
    auto result = task.get_future();
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
    return result.get();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<pid_t()>> tasks_;
};

Starter& starter() {
  static auto* const one = new Starter;  // Never destroyed: its thread does not end.
  return *one;
}

std::vector<std::string> unprivileged(std::vector<std::string> command) {
  std::vector<std::string> all{"setpriv", "--pdeathsig", "QUIT"};
  if (::geteuid() == 0) {
    for (const std::string& each : {"--reuid=" + std::to_string(nobody().pw_uid),
                                    "--regid=" + std::to_string(nobody().pw_gid), std::string("--clear-groups")}) {
      all.push_back(each);
    }
  }
  all.emplace_back("--");
  for (std::string& each : command) all.push_back(std::move(each));
  return all;
}

pid_t spawn_here(const std::vector<std::string>& command, const std::string& log) {
  std::vector<std::string> words = unprivileged(command);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  ::posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  // Out of the terminal's reach: its Ctrl-C goes to the test, whose end then ends the server.
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  pid_t pid = 0;
  errno = ::posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (errno != 0) give_up_with_errno("can't run " + words[0]);
  return pid;
}

// Moves this thread for as long as it lives.
class Visit {
 public:
  explicit Visit(Place place) : network_(-1), mounts_(-1) {
    if (place.network >= 0) network_ = move_to(place.network, CLONE_NEWNET, "/proc/thread-self/ns/net");
    if (place.mounts < 0) return;
    if (::unshare(CLONE_FS) != 0) give_up_with_errno("the directories of threads can't be parted");
    mounts_ = move_to(place.mounts, CLONE_NEWNS, "/proc/thread-self/ns/mnt");
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  ~Visit() {
    // Where this fails the next server would start in the wrong place.
    if (network_.get() >= 0 && ::setns(network_.get(), CLONE_NEWNET) != 0) std::abort();
    if (mounts_.get() >= 0 && ::setns(mounts_.get(), CLONE_NEWNS) != 0) std::abort();
  }

 private:
  static Descriptor move_to(int where, int kind, const char* own) {
    Descriptor home(::open(own, O_RDONLY | O_CLOEXEC));
    if (home.get() < 0 || ::setns(where, kind) != 0) give_up_with_errno("a server's namespace can't be entered");
    return home;
  }

  Descriptor network_;
  Descriptor mounts_;
};

pid_t spawn(const std::vector<std::string>& command, const std::string& log, Place place = {}) {
  return starter().start([&] {
    const Visit visit(place);
    return spawn_here(command, log);
  });
}

}  // namespace

DaemonDirectory::DaemonDirectory() {
  std::string path = "/tmp/lockr-XXXXXX";
  if (!::mkdtemp(path.data())) give_up_with_errno("can't make a directory in /tmp");
  path_ = path;
  give_to_daemon(path_);
}

DaemonDirectory::~DaemonDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void DaemonDirectory::write(const std::string& name, const std::string& text) const {
  std::ofstream(*this / name) << text;
  ::chmod((*this / name).c_str(), 0644);
}

std::string DaemonDirectory::read(const std::string& name) const { return contents(*this / name); }

void DaemonDirectory::copy_in(const fs::path& folder, const std::string& name) const {
  const fs::path copy = *this / name;
  fs::copy(folder, copy, fs::copy_options::recursive);
  give_to_daemon(copy);
  for (const auto& entry : fs::recursive_directory_iterator(copy)) give_to_daemon(entry.path());
}

void DaemonDirectory::give_to_daemon(const fs::path& path) const {
  if (::geteuid() == 0 && ::lchown(path.c_str(), nobody().pw_uid, nobody().pw_gid) != 0) {
    give_up_with_errno("can't give " + path.string() + " to nobody");
  }
}

Daemon::Daemon(std::vector<std::string> command, std::string log, Place place)
    : name_(command.front()), log_(std::move(log)), pid_(spawn(command, log_, place)) {}

Daemon::~Daemon() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool Daemon::ended() {
  if (pid_ != 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = 0;
  return pid_ == 0;
}

void Daemon::wait_until(const std::function<bool()>& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!ready()) {
    if (ended()) give_up(name_ + " ended; it says:\n" + contents(log_));
    if (std::chrono::steady_clock::now() >= deadline) give_up(name_ + " is not ready; it says:\n" + contents(log_));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void Daemon::stop(int signal) {
  if (ended()) return;
  ::kill(pid_, signal);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!ended()) {
    if (std::chrono::steady_clock::now() >= deadline) give_up(name_ + " does not end; it says:\n" + contents(log_));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void run_as_daemon(const std::vector<std::string>& command, const std::string& log) {
  const pid_t pid = spawn(command, log);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) give_up(command.front() + " failed:\n" + contents(log));
}

}  // namespace lockr::testing
