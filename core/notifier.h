// Tells users: observer events and stop tokens, on a thread of its own, started when there is something to tell.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "core/table.h"

namespace lockr::core {

class Notifier {
 public:
  /// `mourned` is called, without a mutex, for each notice that carries an entry.
  Notifier(spi::Runtime& runtime, std::shared_ptr<Observer> observer, std::function<void(Entry&)> mourned);
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  void post(std::vector<Notice> notices);
  /// Starts the thread if there is something to tell and there was none to be had; called now and then.
  void start_if_owed();
  /// Tells what is queued, then ends the thread. Called on that thread itself, from a callback, it returns at once and
  /// the thread ends when all is told.
  void stop();

 private:
  /// Shared with the thread, which may outlive the Notifier when the last reference to it is dropped in a callback.
  struct State {
    spi::Runtime& runtime;
    std::shared_ptr<Observer> observer;
    std::function<void(Entry&)> mourned;
    std::mutex mutex;
    std::deque<Notice> queue;
    std::atomic<std::uint32_t> word{0};
    std::atomic<bool> stopping{false};
  };
  void start_locked();
  static void run(State& state);
  static void tell(State& state, Notice& notice);

  std::shared_ptr<State> state_;
  std::unique_ptr<spi::Runtime::Thread> thread_;  // Under state_->mutex until stop().
};

}  // namespace lockr::core
