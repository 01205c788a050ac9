#include "backends/redis/network.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <ctime>

namespace lockr::redis {

SocketNetwork::SocketNetwork(spi::Runtime& runtime)
    : runtime_(runtime), wake_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Result<std::unique_ptr<Stream>> SocketNetwork::connect(const Options& options, const Patience& patience) {
  if (wake_event_.get() < 0) return fail(errc::capacity, "this process has no descriptors left; raise `ulimit -n`");
  return SocketStream::open(options, sockets_, patience);
}

void SocketNetwork::sleep(std::span<Watch> watches, Time until) {
  polls_.assign(1, {wake_event_.get(), POLLIN, 0});
  for (const Watch& each : watches) polls_.push_back({each.stream ? each.stream->fd() : -1, each.events, 0});
  const Time span = std::max(Time{0}, until - runtime_.steady_now());
  const timespec timeout{.tv_sec = static_cast<time_t>(span.count() / 1'000'000'000),
                         .tv_nsec = static_cast<long>(span.count() % 1'000'000'000)};
  const int ready = ::ppoll(polls_.data(), polls_.size(), until == spi::kNever ? nullptr : &timeout, nullptr);
  if (ready <= 0) return;
  if (polls_[0].revents != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wake_event_.get(), &count, sizeof count);
  }
  for (std::size_t i = 0; i < watches.size(); ++i) watches[i].happened = polls_[i + 1].revents;
}

void SocketNetwork::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_event_.get(), &one, sizeof one);
}

}  // namespace lockr::redis
