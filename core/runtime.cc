#include "lockr/spi/runtime.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <utility>

namespace lockr::spi {

Runtime::~Runtime() = default;
std::uint32_t Runtime::processor() noexcept { return 0; }
Runtime::Thread::~Thread() = default;

namespace {

Time now_on(clockid_t clock) noexcept {
  timespec now{};
  clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + Time(now.tv_nsec);
}

std::uint64_t mixed(std::uint64_t value) noexcept {  // splitmix64's finaliser
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

struct ThreadBody {
  char name[16];
  std::function<void()> run;
};

void* run_thread(void* argument) noexcept {
  const std::unique_ptr<ThreadBody> body(static_cast<ThreadBody*>(argument));
  pthread_setname_np(pthread_self(), body->name);
  body->run();
  return nullptr;
}

class SystemThread final : public Runtime::Thread {
 public:
  explicit SystemThread(pthread_t thread) noexcept : thread_(thread) {}
  ~SystemThread() override {
    if (abandoned_) return;
    if (pthread_equal(thread_, pthread_self())) {
      pthread_detach(thread_);
    } else {
      pthread_join(thread_, nullptr);
    }
  }
  // Not pthread_detach: in a forked child the id may already stand for a thread of the child's own.
  void abandon() noexcept override { abandoned_ = true; }

 private:
  const pthread_t thread_;
  bool abandoned_ = false;
};

class SystemRuntime final : public Runtime {
 public:
  Time steady_now() noexcept override { return now_on(CLOCK_MONOTONIC); }
  Time boot_now() noexcept override { return now_on(CLOCK_BOOTTIME); }
  Time wall_now() noexcept override { return now_on(CLOCK_REALTIME); }

  void park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time until) noexcept override {
    park_among(word, expected, FUTEX_BITSET_MATCH_ANY, until);
  }

  void park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                  Time until) noexcept override {
    static_assert(sizeof(word) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);
    const auto time = std::max(until, Time(0));
    const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
    const timespec deadline{.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
    // The WAIT_BITSET form takes an absolute deadline on CLOCK_MONOTONIC; plain WAIT takes a span.
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, &deadline, nullptr, bits);
  }

  void wake(const void* word) noexcept override { syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1); }

  void wake_among(const void* word, std::uint32_t bits) noexcept override {
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, INT_MAX, nullptr, nullptr, bits);
  }

  // Asks the kernel each time: jitter is rare, and a generator of our own would repeat itself in a forked child.
  std::uint32_t processor() noexcept override { return static_cast<std::uint32_t>(std::max(0, sched_getcpu())); }

  std::uint64_t random() noexcept override {
    std::uint64_t bits = 0;
    if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) == sizeof bits) return bits;
    return mixed(static_cast<std::uint64_t>(steady_now().count()) ^ reinterpret_cast<std::uintptr_t>(&bits));
  }

  std::unique_ptr<Thread> start(const char* name, std::function<void()> body) override {
    auto argument = std::make_unique<ThreadBody>(ThreadBody{.name = {}, .run = std::move(body)});
    std::strncpy(argument->name, name, sizeof argument->name - 1);
    sigset_t all;
    sigfillset(&all);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setsigmask_np(&attributes, &all);
    pthread_t thread{};
    const int error = pthread_create(&thread, &attributes, run_thread, argument.get());
    pthread_attr_destroy(&attributes);
    if (error != 0) return nullptr;
    argument.release();
    return std::make_unique<SystemThread>(thread);
  }
};

}  // namespace

Runtime& system_runtime() noexcept {
  // Never destroyed: lockers with static storage may outlive any static of ours.
  static Runtime& runtime = *new SystemRuntime;
  return runtime;
}

}  // namespace lockr::spi
