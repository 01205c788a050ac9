// Takes a lock twice, through nothing but what lockr gives its users.
#include <lockr/lockr.h>

#include <cstring>
#include <iostream>

int main() {
  auto config = lockr::LockerConfig::from_url("memory:");
  if (!config) return 2;
  auto locker = lockr::open(*config);
  if (!locker) return 3;
  auto held = (*locker)->lock({"consumer"});
  if (!held || (*locker)->try_lock({"consumer"})) return 4;
  if (!held->release() || !(*locker)->try_lock({"consumer"})) return 5;
  if (std::strcmp(lockr::version(), LOCKR_VERSION_STRING) != 0) return 6;
  std::cout << "lockr " << lockr::version() << '\n';
  return 0;
}
