// hold_and_wait URL FIRST SECOND [HOLDERS]: holds FIRST, says so, and when so many (1) hold SECOND waits for that, as a
// program with two locks does.
#include <chrono>
#include <iostream>
#include <string>
#include <thread>

#include "lockr/lockr.h"

int main(int count, char** values) {
  if (count != 4 && count != 5) return 64;
  const std::size_t holders = count == 5 ? std::stoul(values[4]) : 1;
  const auto locker = lockr::open(lockr::LockerConfig::from_url(values[1]).value()).value();
  const auto session = locker->open_session({.label = std::string("has ") + values[2]}).value();
  // Shared, so that several programs can hold one key and wait for the same other.
  const auto first =
      session->lock(lockr::Key::parse(values[2]).value(), {.mode = lockr::Mode::shared, .timeout = lockr::forever});
  std::cout << "held" << std::endl;
  const lockr::Key wanted = lockr::Key::parse(values[3]).value();
  while (locker->inspect(&wanted).value().size() < holders) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto second = session->lock(wanted, {.timeout = lockr::forever});
  return first && second ? 0 : 1;
}
