// The work: counters in a file, as text, that processes read, add one to and write back. Nothing in here excludes
// anybody.
#pragma once

#include <cstdint>
#include <string>

namespace demo {

class Counters {
 public:
  static constexpr int kCount = 4;

  // Makes the file, all counters zero.
  static void create(const std::string& path);

  explicit Counters(const std::string& path);
  ~Counters();
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  void increment(int counter);
  std::uint64_t sum() const;

 private:
  std::uint64_t read(int counter) const;
  void write(int counter, std::uint64_t value);

  int fd_;
};

}  // namespace demo
