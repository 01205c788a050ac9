// What does the file backend add to the kernel's own lock, and what does waiting well bring? lockr over the file
// backend against bare F_OFD_SETLK pairs on an open descriptor, and against the usual loop of tries with back-off.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "lockr/lockr.h"
#include "report.h"

namespace {

using lockr::Key;
using lockr::Locker;
using lockr::Releaser;
using lockr::Session;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kHeld = 10000;

/// A directory that goes with the program.
struct Directory {
  std::string path;
  Directory() {
    std::string name = "/tmp/lockr-bench-XXXXXX";
    path = mkdtemp(name.data());
  }
  ~Directory() { std::filesystem::remove_all(path); }
};

const std::string& directory(const char* name) {
  static const Directory root;
  static std::vector<std::unique_ptr<std::string>> all;
  all.push_back(std::make_unique<std::string>(root.path + "/" + name));
  return *all.back();
}

std::unique_ptr<Locker> open_file(const std::string& path) {
  auto opened = lockr::open(lockr::LockerConfig::from_url("file:" + path).value());
  if (opened) return *std::move(opened);
  std::fprintf(stderr, "%s\n", opened.error().to_string().c_str());
  std::abort();
}

int open_bare(const std::string& path) { return open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600); }

bool set_lock(int fd, short type, off_t at) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

void lockr_cycles(benchmark::State& state, Locker& locker) {
  auto session = locker.open_session().value();
  const Key key = Key::parse("bench:uncontended").value();
  for (auto _ : state) {
    auto held = session->lock(key);
    if (!held) state.SkipWithError("not granted");
    benchmark::DoNotOptimize(held);
  }
}

void file_cycle(benchmark::State& state) {
  static const auto locker = open_file(directory("empty"));
  lockr_cycles(state, *locker);
}

void bare_cycle(benchmark::State& state) {
  static const int fd = open_bare(directory("bare"));
  for (auto _ : state) {
    if (!set_lock(fd, F_WRLCK, 12345) || !set_lock(fd, F_UNLCK, 12345)) state.SkipWithError("fcntl failed");
  }
}

void file_cycle_10000_held(benchmark::State& state) {
  static const auto locker = open_file(directory("full"));
  static const auto holder = locker->open_session().value();
  static const std::vector<Releaser> held = [] {
    std::vector<Releaser> all;
    for (std::size_t i = 0; i < kHeld; ++i) all.push_back(holder->lock({"held", std::to_string(i)}).value());
    return all;
  }();
  lockr_cycles(state, *locker);
}
BENCHMARK(file_cycle);
BENCHMARK(bare_cycle);
BENCHMARK(file_cycle_10000_held);

// ---- eight processes on four keys

constexpr int kProcesses = 8;
constexpr std::size_t kKeys = 4;
std::chrono::milliseconds span() { return std::chrono::milliseconds(lockr::bench::quick() ? 200 : 1000); }

struct Shared {
  std::atomic<bool> go{false};
  std::array<std::uint64_t, kProcesses> cycles{};
  std::array<std::int64_t, kProcesses> longest_ns{};
};

void hold_for(std::chrono::microseconds hold) {
  if (hold.count() == 0) return;
  std::this_thread::sleep_for(hold);
}

// Runs `work` in eight processes: cycles a second of all, and the longest wait of any.
template <class Work>
void processes(benchmark::State& state, Work work) {
  for (auto _ : state) {
    void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    Shared& shared = *new (memory) Shared;
    std::vector<pid_t> children;
    for (int i = 0; i < kProcesses; ++i) {
      const pid_t child = fork();
      if (child == 0) {
        auto cycle = work();
        while (!shared.go) std::this_thread::sleep_for(std::chrono::milliseconds{1});
        const auto end = Clock::now() + span();
        for (std::size_t n = static_cast<std::size_t>(i);; ++n) {
          const auto begin = Clock::now();
          if (begin >= end) break;
          const auto waited = cycle(n * 7 % kKeys);
          ++shared.cycles[static_cast<std::size_t>(i)];
          auto& longest = shared.longest_ns[static_cast<std::size_t>(i)];
          if (waited.count() > longest) longest = waited.count();
        }
        _exit(0);
      }
      children.push_back(child);
    }
    shared.go = true;
    for (const pid_t child : children) {
      int status = 0;
      waitpid(child, &status, 0);
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) state.SkipWithError("a process failed");
    }
    std::uint64_t sum = 0;
    std::int64_t longest = 0;
    for (int i = 0; i < kProcesses; ++i) {
      sum += shared.cycles[static_cast<std::size_t>(i)];
      longest = std::max(longest, shared.longest_ns[static_cast<std::size_t>(i)]);
    }
    munmap(memory, sizeof(Shared));
    const std::chrono::duration<double> took = span();
    state.SetIterationTime(took.count());
    state.counters["cycles_per_s"] = static_cast<double>(sum) / took.count();
    state.counters["longest_wait_ms"] = static_cast<double>(longest) / 1e6;
  }
}

void lockr_processes(benchmark::State& state, std::chrono::microseconds hold) {
  static const std::string& path = directory("shared");
  static const auto made = open_file(path);  // Before the others come.
  processes(state, [hold] {
    std::vector<Key> keys;
    for (std::size_t i = 0; i < kKeys; ++i) keys.push_back(Key::parse("hot:" + std::to_string(i)).value());
    std::shared_ptr<Locker> locker = open_file(path);
    std::shared_ptr<Session> session = locker->open_session().value();
    return [locker, session, keys, hold](std::size_t key) {
      const auto begin = Clock::now();
      auto held = session->lock(keys[key], {.timeout = lockr::forever});
      if (!held) {
        std::fprintf(stderr, "%s\n", held.error().to_string().c_str());
        _exit(1);
      }
      const auto waited = Clock::now() - begin;
      hold_for(hold);
      return std::chrono::nanoseconds(waited);
    };
  });
}

void loop_processes(benchmark::State& state, std::chrono::microseconds hold) {
  static const std::string& path = directory("loop");
  processes(state, [hold] {
    const int fd = open_bare(path);
    return [=](std::size_t key) {
      const auto begin = Clock::now();
      std::chrono::microseconds pause{20};
      while (!set_lock(fd, F_WRLCK, static_cast<off_t>(key))) {
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, std::chrono::microseconds{1000});
      }
      const auto waited = Clock::now() - begin;
      hold_for(hold);
      set_lock(fd, F_UNLCK, static_cast<off_t>(key));
      return std::chrono::nanoseconds(waited);
    };
  });
}

void file_8_processes(benchmark::State& state) { lockr_processes(state, std::chrono::microseconds{0}); }
void loop_8_processes(benchmark::State& state) { loop_processes(state, std::chrono::microseconds{0}); }
void file_8_processes_hold(benchmark::State& state) { lockr_processes(state, std::chrono::microseconds{500}); }
void loop_8_processes_hold(benchmark::State& state) { loop_processes(state, std::chrono::microseconds{500}); }
BENCHMARK(file_8_processes)->Iterations(1)->UseManualTime();
BENCHMARK(loop_8_processes)->Iterations(1)->UseManualTime();
BENCHMARK(file_8_processes_hold)->Iterations(1)->UseManualTime();
BENCHMARK(loop_8_processes_hold)->Iterations(1)->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
  // 10,000 held keys need every shard file of the directory open.
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return lockr::bench::run(argc, argv,
                           {
                               {.question = "file: lock + release, against a bare F_OFD_SETLK pair",
                                .backend = "file",
                                .ours = "file_cycle",
                                .peer = "bare_cycle",
                                .peer_name = "fcntl(F_OFD_SETLK)",
                                .goal = 1.15,
                                .at_most = true},
                               {.question = "file: with 10,000 held, against an empty directory",
                                .backend = "file",
                                .ours = "file_cycle_10000_held",
                                .peer = "file_cycle",
                                .peer_name = "an empty directory",
                                .goal = 2,
                                .at_most = true},
                               {.question = "file: 8 processes on 4 keys, hold 0, against try + back-off",
                                .backend = "file",
                                .threads = 8,
                                .ours = "file_8_processes",
                                .peer = "loop_8_processes",
                                .peer_name = "a loop of tries with back-off",
                                .counter = "cycles_per_s",
                                .unit = "cycles/s",
                                .goal = 1.5,
                                .at_most = false},
                               {.question = "file: the same, hold 500 us, longest wait",
                                .backend = "file",
                                .threads = 8,
                                .ours = "file_8_processes_hold",
                                .peer = "loop_8_processes_hold",
                                .peer_name = "a loop of tries with back-off",
                                .counter = "longest_wait_ms",
                                .unit = "ms",
                                .goal = 0.6,
                                .at_most = true},
                           });
}
