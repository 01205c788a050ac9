#include "backends/redis/connector.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace lockr::redis {
namespace {

constexpr Time kFirstPause = std::chrono::milliseconds(10);
constexpr Time kLongestPause = std::chrono::seconds(1);

}  // namespace

Connector::Connector(spi::Runtime& runtime, Attempt attempt)
    : runtime_(runtime), attempt_(std::move(attempt)), stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Connector::~Connector() { stop(); }

void Connector::tell() {
  changes_.fetch_add(1);
  runtime_.wake(&changes_);
}

void Connector::want(std::size_t place) {
  const std::lock_guard lock(mutex_);
  wanted_.set(place);
  tell();
}

void Connector::start() {
  const std::lock_guard lock(mutex_);
  if (thread_ || wanted_.none() || stopping_) return;
  thread_ = runtime_.start("lockr-connect", [this] { run(); });
}

void Connector::stop() {
  std::unique_ptr<spi::Runtime::Thread> thread;
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  tell();
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_event_.get(), &one, sizeof one);
  thread = std::move(thread_);  // Joined when the mutex is free.
}

void Connector::forked() noexcept {
  if (thread_) thread_->abandon();
}

// Returns those that are still down. One that fails speaks for all: they go to the same server.
Connector::Places Connector::attempt_all(const Places& wanted) {
  Places down = wanted;
  for (std::size_t place = 0; place < kMost; ++place) {
    if (!wanted.test(place)) continue;
    if (!attempt_(place, stop_event_.get())) break;
    down.reset(place);
  }
  return down;
}

// Until told of a change, at most until then; may return early.
void Connector::sleep(std::unique_lock<std::mutex>& lock, Time until) {
  const std::uint32_t seen = changes_.load();
  lock.unlock();
  runtime_.park(changes_, seen, until);
  lock.lock();
}

void Connector::run() {
  Time pause{0};
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (wanted_.none()) {
      sleep(lock, spi::kNever);
      pause = Time{0};
      continue;
    }
    const Places wanted = std::exchange(wanted_, Places());
    lock.unlock();
    const Places down = attempt_all(wanted);
    lock.lock();
    wanted_ |= down;
    if (down.none() || stopping_) continue;
    pause = std::clamp(2 * pause, kFirstPause, kLongestPause);
    // Half of it to all of it: clients that fell together do not come back together.
    const auto half = static_cast<std::uint64_t>(pause.count() / 2);
    const Time until = runtime_.steady_now() + Time(half + runtime_.random() % half);
    while (!stopping_ && runtime_.steady_now() < until) sleep(lock, until);
  }
}

}  // namespace lockr::redis
