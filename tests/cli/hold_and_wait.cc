// hold_and_wait URL FIRST SECOND: holds FIRST, says so, and waits for SECOND, as a program with two locks does.
#include <iostream>

#include "lockr/lockr.h"

int main(int count, char** values) {
  if (count != 4) return 64;
  const auto locker = lockr::open(lockr::LockerConfig::from_url(values[1]).value()).value();
  const auto session = locker->open_session({.label = std::string("has ") + values[2]}).value();
  const auto first = session->lock(lockr::Key::parse(values[2]).value(), {.timeout = lockr::forever});
  std::cout << "held" << std::endl;
  const auto second = session->lock(lockr::Key::parse(values[3]).value(), {.timeout = lockr::forever});
  return first && second ? 0 : 1;
}
