#include "backends/postgres/process_sessions.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>

namespace lockr::postgres {
namespace {

std::mutex mutex;
std::vector<ProcessSessions*> all;  // Guarded by mutex.

void watch_forks() {
  static const int registered = ::pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                                                 [] {
                                                   all.clear();
                                                   mutex.unlock();
                                                 });
  static_cast<void>(registered);
}

}  // namespace

void add_process_sessions(ProcessSessions& one) {
  watch_forks();
  std::lock_guard lock(mutex);
  all.push_back(&one);
}

void remove_process_sessions(ProcessSessions& one) {
  std::lock_guard lock(mutex);
  std::erase(all, &one);
}

bool held_in_this_process(const std::vector<int>& server_sessions, std::int64_t identity) {
  std::lock_guard lock(mutex);
  return std::any_of(all.begin(), all.end(), [&](ProcessSessions* each) {
    const std::vector<int> own = each->server_sessions();
    const bool ours =
        std::find_first_of(own.begin(), own.end(), server_sessions.begin(), server_sessions.end()) != own.end();
    return ours && each->holds(identity);  // Another server may have a session of the same number.
  });
}

}  // namespace lockr::postgres
