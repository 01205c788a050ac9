// For tests of the file backend: a directory, a locker's backend with its service thread, another process.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "backends/file/file_backend.h"
#include "lockr/config.h"
#include "tests/support/eventually.h"

namespace lockr::testing {

/// Longer than anything here takes.
inline constexpr std::chrono::seconds kPatience{20};

/// A new empty directory of our own, gone at the end. In memory where there is such a place: a lock directory has a
/// thousand files.
class TempDirectory {
 public:
  TempDirectory() {
    const bool in_memory = !std::getenv("TMPDIR") && ::access("/dev/shm", W_OK) == 0;
    const std::filesystem::path parent = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string name = (parent / "lockr-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) {
      std::perror("mkdtemp");
      std::abort();
    }
    path_ = name;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// One open locker's backend, a Sink that remembers, and on demand the service thread.
class Party final : public spi::Sink {
 public:
  struct Opening {
    std::optional<gid_t> group{};
    std::vector<std::string> risks{};
    file::FileSystemType type = file::file_system_type;
    LogHook log{};
    spi::Runtime& runtime = spi::system_runtime();
    std::chrono::milliseconds patience = kPatience;
  };

  explicit Party(const std::string& directory) : Party(directory, Opening{}) {}
  Party(const std::string& directory, Opening opening) : runtime_(opening.runtime) {
    const auto config = LockerConfig::from_url("file:").value();
    const spi::OpenContext context{
        .section = config.section(),
        .runtime = runtime_,
        .connect_timeout = kPatience,
        .reply_timeout = kPatience,
        .label = "party",
        .accepts_risk =
            [risks = opening.risks](std::string_view risk) {
              return std::find(risks.begin(), risks.end(), risk) != risks.end();
            },
        .log = opening.log,
    };
    backend_ = std::make_unique<file::FileBackend>(file::Options{.directory = directory, .group = opening.group},
                                                   context, opening.type);
    opened_ = backend_->open(*this, runtime_.steady_now() + opening.patience);
  }
  ~Party() { close(); }

  const Status& opened() const { return opened_; }
  spi::Backend& backend() { return *backend_; }

  /// A request; it stays valid as long as this object.
  spi::Request& request(std::string_view key, Mode mode = Mode::exclusive, std::string_view label = "session") {
    const std::lock_guard lock(mutex_);
    const Key made = Key::parse(key).value();
    Owned& owned = requests_.emplace_back(Owned{made, std::string(label), {}});
    owned.request.key = &owned.key;
    owned.request.identity = made.hash();
    owned.request.mode = mode;
    owned.request.label = owned.label;
    return owned.request;
  }

  spi::Answer submit(spi::Request& request, spi::Op op = spi::Op::take) {
    spi::Request* batch[] = {&request};
    request.op = op;
    request.group = 0;
    request.answer = spi::Answer::pending;
    backend_->submit(0, batch);
    return request.answer;
  }
  spi::Answer give_back(spi::Request& granted) { return submit(granted, spi::Op::give_back); }
  /// Takes the key; whether it was granted.
  bool take(std::string_view key, Mode mode = Mode::exclusive) {
    return submit(request(key, mode)) == spi::Answer::granted;
  }

  /// Begins a wait, which needs the service thread.
  bool start_wait(spi::Request& request) {
    request.answer = spi::Answer::pending;
    {
      const std::lock_guard lock(mutex_);
      answered_[&request] = 0;
    }
    return backend_->start_wait(request);
  }
  bool answered(spi::Request& request) {
    const std::lock_guard lock(mutex_);
    return answered_[&request] > 0;
  }
  /// The answer of a wait, `pending` when none came.
  spi::Answer answer_of(spi::Request& request) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [&] { return answered_[&request] > 0; });
    return answered_[&request] > 0 ? request.answer : spi::Answer::pending;
  }

  /// Starts the service thread.
  Party& serve() {
    service_ = std::thread([this] {
      while (!stopping_) backend_->pump(spi::kNever);
    });
    return *this;
  }
  void close() {
    if (std::exchange(closed_, true)) return;
    stopping_ = true;
    if (opened_) backend_->wake();
    if (service_.joinable()) service_.join();
    backend_->close(runtime_.steady_now());
  }

  std::vector<Holder> holders(std::string_view key) {
    const Key made = Key::parse(key).value();
    return backend_->inspect(&made, spi::kNever).value();
  }
  std::vector<Holder> holders() { return backend_->inspect(nullptr, spi::kNever).value(); }

  struct Loss {
    spi::Seat seat;
    bool everything;
    errc code;
  };
  std::vector<Loss> losses() {
    const std::lock_guard lock(mutex_);
    return losses_;
  }

  void done(spi::Request& request) noexcept override {
    const std::lock_guard lock(mutex_);
    ++answered_[&request];
    changed_.notify_all();
  }
  void hint(std::uint64_t) noexcept override {}
  void alive(spi::Seat, spi::Time) noexcept override {}
  void lost(spi::Seat seat, const Key* key, const Error& error) noexcept override {
    const std::lock_guard lock(mutex_);
    losses_.push_back({seat, key == nullptr, error.code()});
  }
  void reconnected() noexcept override {}
  std::vector<Holder> describe() noexcept override { return {}; }

 private:
  struct Owned {
    Key key;
    std::string label;
    spi::Request request;
  };

  spi::Runtime& runtime_;
  std::unique_ptr<file::FileBackend> backend_;
  Status opened_;
  std::thread service_;
  std::atomic<bool> stopping_ = false;
  bool closed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Owned> requests_;
  std::map<const spi::Request*, int> answered_;
  std::vector<Loss> losses_;
};

/// Another process: a fork of this one, made while this one has no thread but its own. It and we pass bytes.
class Child {
 public:
  class Link {
   public:
    Link(int in, int out) : in_(in), out_(out) {}
    void say(char byte) const {
      if (::write(out_, &byte, 1) != 1) ::_exit(90);
    }
    /// The next byte; '\0' when the other side is gone or says nothing for long.
    char hear() const {
      pollfd polled{.fd = in_, .events = POLLIN, .revents = 0};
      char byte = 0;
      const int patience = static_cast<int>(std::chrono::milliseconds(kPatience).count());
      if (::poll(&polled, 1, patience) != 1 || ::read(in_, &byte, 1) != 1) return '\0';
      return byte;
    }

   private:
    int in_, out_;
  };

  /// `body` runs in the child; its result is the exit status.
  explicit Child(const std::function<int(const Link&)>& body) {
    int down[2], up[2];
    if (::pipe2(down, O_CLOEXEC) != 0 || ::pipe2(up, O_CLOEXEC) != 0) std::abort();
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(down[1]);
      ::close(up[0]);
      ::_exit(body(Link(down[0], up[1])));
    }
    ::close(down[0]);
    ::close(up[1]);
    in_ = up[0];
    out_ = down[1];
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) kill();
    ::close(in_);
    ::close(out_);
  }

  pid_t pid() const { return pid_; }
  Link link() const { return {in_, out_}; }
  char hear() const { return link().hear(); }
  void say(char byte) const { link().say(byte); }
  void signal(int number) const { ::kill(pid_, number); }
  /// Returns when it has stopped.
  void stop() const {
    signal(SIGSTOP);
    while (::waitpid(pid_, nullptr, WUNTRACED) < 0 && errno == EINTR) {
    }
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    wait();
  }
  /// The exit status; 128 and the signal's number when one ended it.
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
  int in_ = -1, out_ = -1;
};

}  // namespace lockr::testing
