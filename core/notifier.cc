#include "core/notifier.h"

#include <utility>

namespace lockr::core {

Notifier::Notifier(spi::Runtime& runtime, std::shared_ptr<Observer> observer, std::function<void(Entry&)> mourned)
    : state_(new State{runtime, std::move(observer), std::move(mourned), {}, {}, {}, {}}) {}

Notifier::~Notifier() { stop(); }

void Notifier::post(std::vector<Notice> notices) {
  State& state = *state_;
  std::lock_guard lock(state.mutex);
  if (state.stopping) return;
  for (Notice& notice : notices) state.queue.push_back(std::move(notice));
  start_locked();
  state.word.fetch_add(1, std::memory_order_release);
  state.runtime.wake(&state.word);
}

void Notifier::start_if_owed() {
  std::lock_guard lock(state_->mutex);
  if (!state_->stopping && !state_->queue.empty()) start_locked();
}

void Notifier::start_locked() {
  if (!thread_) {
    thread_ = state_->runtime.start("lockr-notifier", [shared = state_] { run(*shared); });
  }
}

void Notifier::stop() {
  State& state = *state_;
  {
    std::lock_guard lock(state.mutex);
    if (state.stopping.exchange(true)) return;
    state.word.fetch_add(1, std::memory_order_release);
    state.runtime.wake(&state.word);
  }
  thread_.reset();
}

void Notifier::run(State& state) {
  for (;;) {
    const std::uint32_t seen = state.word.load(std::memory_order_acquire);
    std::unique_lock lock(state.mutex);
    if (state.queue.empty()) {
      lock.unlock();
      if (state.stopping) return;
      state.runtime.park(state.word, seen, kNever);
      continue;
    }
    Notice notice = std::move(state.queue.front());
    state.queue.pop_front();
    lock.unlock();
    tell(state, notice);
  }
}

void Notifier::tell(State& state, Notice& notice) {
  if (notice.fire) notice.fire->request_stop();
  if (notice.event && state.observer) state.observer->on_event(*notice.event);
  if (notice.mourned && !state.stopping) state.mourned(*notice.mourned);
}

}  // namespace lockr::core
