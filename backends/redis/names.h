// Names and values in Redis: what of ours is stored under which name, and who owns it.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lockr/key.h"
#include "lockr/locker.h"
#include "lockr/spi/runtime.h"

namespace lockr::redis {

/// Fixed, but for the count of values. Thread-safe.
class Names {
 public:
  /// `process`: what no other locker is called.
  Names(std::string prefix, spi::Runtime& runtime);

  const std::string& prefix() const noexcept { return prefix_; }
  const std::string& process() const noexcept { return process_; }
  const std::string& client() const noexcept { return client_; }
  /// What the names of locks and of queues start with; the key follows.
  const std::string& locks() const noexcept { return locks_; }
  const std::string& queues() const noexcept { return queues_; }
  std::string token() const { return prefix_ + "token"; }
  std::string channel() const { return prefix_ + "p:" + process_; }

  /// The value of one acquisition: no other has it, ever.
  std::string value(std::string_view label);
  /// The member of a queue that waits in this mode.
  std::string member(Mode mode, std::string_view label) const;

 private:
  void add_rest(std::string& text, std::string_view label) const;

  spi::Runtime& runtime_;
  const std::string prefix_, locks_, queues_;
  const std::string process_;
  const std::string host_;
  const std::string where_;  // Host and pid; a forked child does not get here.
  const std::string client_;
  std::atomic<std::uint64_t> count_{0};
};

/// "x" or "s".
inline std::string_view letter(Mode mode) noexcept { return mode == Mode::shared ? "s" : "x"; }

/// Who is meant by "x " or "s " and a value, or by a member of a queue; nullopt for what is only reserved. What is not
/// of this shape is a foreign holder, of which nothing but the mode is known.
std::optional<Holder> holder_of(std::string_view row);

}  // namespace lockr::redis
