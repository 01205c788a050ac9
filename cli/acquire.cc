#include "cli/acquire.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <stop_token>
#include <string>
#include <thread>

#include "cli/event.h"
#include "cli/holders.h"
#include "cli/text.h"

namespace lockr::cli {
namespace {

constexpr int kAnnounceMs = 1000;
constexpr std::size_t kMostNamed = 4;
constexpr std::size_t kMostAsked = 16;  // Of many keys only so many are looked up to name a holder.

// "KEY, held by …" for the first key that somebody else holds.
std::string blocked_on(Locker& locker, const std::vector<Key>& keys) {
  for (const Key& key : std::span(keys).first(std::min(keys.size(), kMostAsked))) {
    const auto holders = locker.inspect(&key);
    if (!holders) break;
    for (const Holder& holder : *holders) {
      if (!holder.waiting && holder.pid != ::getpid()) {
        return printable(key.string()) + ", held by " + in_words(holder);
      }
    }
  }
  std::string some;
  for (const Key& key : std::span(keys).first(std::min(keys.size(), kMostNamed))) {
    some += (some.empty() ? "" : ", ") + printable(key.string());
  }
  return keys.size() <= kMostNamed ? some : some + " and " + std::to_string(keys.size() - kMostNamed) + " more";
}

// Looks after the program while its main thread waits for the lock.
class WaitWatch {
 public:
  WaitWatch(Locker& locker, const RunOptions& options, SignalWatch& signals)
      : locker_(locker), options_(options), signals_(signals), thread_([this] { watch(); }) {}
  WaitWatch(const WaitWatch&) = delete;
  WaitWatch& operator=(const WaitWatch&) = delete;
  ~WaitWatch() { finish(); }

  std::stop_token stop_token() const { return stop_.get_token(); }
  /// Ends the watch: the signal that arrived, or 0.
  int finish() {
    if (thread_.joinable()) {
      done_.raise();
      thread_.join();
    }
    return signal_;
  }

 private:
  void watch() {
    int patience = ::isatty(STDERR_FILENO) == 1 || options_.verbose ? kAnnounceMs : -1;
    for (;;) {
      pollfd events[] = {{done_.fd(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
      const int ready = ::poll(events, 2, patience);
      if (const auto signal = signals_.next()) {
        signal_ = *signal;
        stop_.request_stop();
        return;
      }
      if (events[0].revents != 0) return;
      if (ready == 0) {
        patience = -1;
        complain("waiting for " + blocked_on(locker_, options_.keys));
      }
    }
  }

  Locker& locker_;
  const RunOptions& options_;
  SignalWatch& signals_;
  Event done_;
  std::stop_source stop_;
  int signal_ = 0;  // Written by the thread, read after it was joined.
  std::thread thread_;
};

int refused(Locker& locker, const RunOptions& options, const Error& error) {
  if (error.code() != errc::timeout && error.code() != errc::not_acquired) {
    complain("can't take the lock: " + describe(error));
    return kFailed;
  }
  // As flock(1), silent where nobody looks: a job of cron that skips its turn is no news.
  if (options.verbose || ::isatty(STDERR_FILENO) == 1) {
    complain("not acquired: " + blocked_on(locker, options.keys));
  }
  return options.not_acquired_status;
}

}  // namespace

std::variant<std::vector<Releaser>, int> acquire(Locker& locker, Session& session, const RunOptions& options,
                                                 SignalWatch& signals) {
  WaitWatch watch(locker, options, signals);
  auto held = session.lock_all(options.keys, {.mode = options.mode,
                                              .timeout = options.timeout,
                                              .stop = watch.stop_token(),
                                              .hold_at_least = options.at_least});
  if (const int signal = watch.finish(); signal != 0) return kSignalled + signal;
  if (!held) return refused(locker, options, held.error());
  return std::move(*held);
}

}  // namespace lockr::cli
