#include "backends/postgres/connector.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace lockr::postgres {
namespace {

constexpr Time kFirstPause = std::chrono::milliseconds(10);
constexpr Time kLongestPause = std::chrono::seconds(1);

}  // namespace

Connector::Connector(spi::Runtime& runtime, Attempt attempt)
    : runtime_(runtime), attempt_(std::move(attempt)), stop_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Connector::~Connector() { stop(); }

void Connector::want(std::uint16_t link) {
  std::lock_guard lock(mutex_);
  wanted_.try_emplace(link);
  changed_.notify_one();
}

void Connector::start() {
  std::lock_guard lock(mutex_);
  if (thread_ || wanted_.empty() || stopping_) return;
  thread_ = runtime_.start("lockr-connect", [this] { run(); });
}

void Connector::stop() {
  std::unique_ptr<spi::Runtime::Thread> thread;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    thread = std::move(thread_);
    changed_.notify_one();
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(stop_event_.get(), &one, sizeof one);
  }
}

void Connector::forked() noexcept {
  if (thread_) thread_->abandon();
}

void Connector::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto next = std::min_element(wanted_.begin(), wanted_.end(), [](const auto& one, const auto& other) {
      return one.second.due < other.second.due;
    });
    if (next == wanted_.end()) {
      changed_.wait(lock);
      continue;
    }
    const Time left = next->second.due - runtime_.steady_now();
    if (left > Time{0}) {
      changed_.wait_for(lock, left);
      continue;
    }
    const std::uint16_t link = next->first;
    Want want = next->second;
    // Before the attempt: a link that comes up may go down again before that returns, and is wanted anew then.
    wanted_.erase(next);
    lock.unlock();
    const bool up = attempt_(link, stop_event_.get());
    lock.lock();
    if (up) {
      // The server is there again: nobody sits out a pause. The first lane is first, as it hears who asks for holders.
      for (auto& [other, waiting] : wanted_) waiting = {};
      continue;
    }
    want.pause = std::clamp(2 * want.pause, kFirstPause, kLongestPause);
    // Half of it to all of it: clients that fell together do not come back together.
    const auto half = static_cast<std::uint64_t>(want.pause.count() / 2);
    want.due = runtime_.steady_now() + Time(half + runtime_.random() % half);
    wanted_[link] = want;
  }
}

}  // namespace lockr::postgres
