// The smallest complete program: take a lock, do the work, give it back. Start it twice at once and the second waits
// for the first, up to five seconds.
#include <lockr/lockr.h>

#include <chrono>
#include <iostream>

using namespace std::chrono_literals;

int main() {
  // [ten lines]
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
  auto session = locker->open_session().value();  // one owner of locks: one per thread or request

  auto held = session->lock({"tenant", "42", "invoice"}, {.timeout = 5s});
  if (!held) {
    std::cerr << held.error().message() << '\n';  // who waited in vain is told why
    return 1;
  }
  std::cout << "no other program that uses this lock directory has " << held->key().string() << " now\n";
  return held->release() ? 0 : 1;  // a destructor would release it too, but could not tell
  // [ten lines]
}
