// usage: refusal BACKEND
// Prints why a backend can't be opened; fails if it can.
#include <lockr/lockr.h>

#include <iostream>
#include <string>

int main(int count, char** arguments) {
  if (count != 2) return 64;
  const auto config = lockr::LockerConfig::from_json(R"({"backend": ")" + std::string(arguments[1]) + R"("})");
  if (!config) return 2;
  const auto locker = lockr::open(*config);
  if (locker) return 1;
  std::cout << lockr::name_of(locker.error().code()) << ": " << locker.error().message() << '\n';
  return 0;
}
