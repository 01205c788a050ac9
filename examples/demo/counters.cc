#include "counters.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace demo {

namespace {

constexpr int kLineBytes = 21;  // twenty digits and a newline

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(1);
}

}  // namespace

void Counters::create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) give_up(path.c_str());
  ::close(fd);
  Counters counters(path);
  for (int counter = 0; counter < kCount; ++counter) counters.write(counter, 0);
}

Counters::Counters(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
  if (fd_ < 0) give_up(path.c_str());
}

Counters::~Counters() { ::close(fd_); }

void Counters::increment(int counter) { write(counter, read(counter) + 1); }

std::uint64_t Counters::sum() const {
  std::uint64_t sum = 0;
  for (int counter = 0; counter < kCount; ++counter) sum += read(counter);
  return sum;
}

std::uint64_t Counters::read(int counter) const {
  char text[kLineBytes + 1] = {};
  if (::pread(fd_, text, kLineBytes, counter * kLineBytes) != kLineBytes) give_up("reading a counter");
  return std::strtoull(text, nullptr, 10);
}

void Counters::write(int counter, std::uint64_t value) {
  char text[kLineBytes + 1];
  std::snprintf(text, sizeof text, "%020llu\n", static_cast<unsigned long long>(value));
  if (::pwrite(fd_, text, kLineBytes, counter * kLineBytes) != kLineBytes) give_up("writing a counter");
}

}  // namespace demo
