// Every way to stop waiting: not at all, for so long, until a moment, until somebody says stop. After each of them
// nothing is held, and the error says which it was.
#include <lockr/lockr.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <stop_token>
#include <thread>

using namespace std::chrono_literals;

namespace {

// True when the call failed with this code; tells what it was otherwise.
bool failed_with(lockr::errc expected, const lockr::Result<lockr::Releaser>& result) {
  if (!result && result.error().code() == expected) {
    std::cout << lockr::name_of(expected) << ": " << result.error().message() << '\n';
    return true;
  }
  std::cerr << "expected " << lockr::name_of(expected) << ", got "
            << (result ? "the lock" : result.error().to_string().c_str()) << '\n';
  return false;
}

bool ways_not_to_get_it(lockr::Session& session, const lockr::Key& key) {
  // [ways]
  auto tried = session.try_lock(key);  // never waits for a holder
  auto patient = session.lock(key, {.timeout = 50ms});
  auto until = session.lock(key, {.deadline = std::chrono::steady_clock::now() + 50ms});

  std::stop_source stop;
  std::jthread impatient([&stop] { stop.request_stop(); });  // a user's Ctrl-C, a request that went away
  auto stopped = session.lock(key, {.timeout = lockr::forever, .stop = stop.get_token()});
  // [ways]
  return failed_with(lockr::errc::not_acquired, tried) && failed_with(lockr::errc::timeout, patient) &&
         failed_with(lockr::errc::timeout, until) && failed_with(lockr::errc::cancelled, stopped);
}

}  // namespace

int main() {
  auto locker = lockr::open(lockr::LockerConfig::from_url("memory:").value()).value();
  const auto key = lockr::Key::from_scopes({"report", "daily"}).value();

  auto holder = locker->open_session({.label = "holder"}).value();
  auto held = holder->lock(key).value();

  auto other = locker->open_session({.label = "other"}).value();
  if (!ways_not_to_get_it(*other, key)) return 1;

  if (!held.release()) return 1;
  auto mine = other->lock(key, {.timeout = 5s});
  if (!mine) {
    std::cerr << mine.error().to_string() << '\n';
    return 1;
  }
  std::cout << "released by one, taken by the other\n";
  return 0;
}
