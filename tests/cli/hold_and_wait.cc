// hold_and_wait URL FIRST SECOND: holds FIRST, says so, and when somebody else holds SECOND waits for that, as a
// program with two locks does.
#include <chrono>
#include <iostream>
#include <thread>

#include "lockr/lockr.h"

int main(int count, char** values) {
  if (count != 4) return 64;
  const auto locker = lockr::open(lockr::LockerConfig::from_url(values[1]).value()).value();
  const auto session = locker->open_session({.label = std::string("has ") + values[2]}).value();
  // Shared, so that several programs can hold one key and wait for the same other.
  const auto first =
      session->lock(lockr::Key::parse(values[2]).value(), {.mode = lockr::Mode::shared, .timeout = lockr::forever});
  std::cout << "held" << std::endl;
  const lockr::Key wanted = lockr::Key::parse(values[3]).value();
  while (locker->inspect(&wanted).value().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto second = session->lock(wanted, {.timeout = lockr::forever});
  return first && second ? 0 : 1;
}
