#include "backends/file/bells.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace lockr::file {
namespace {

// A reservation: 24 bits of the identity that neither bucket nor shard tell, 6 of the bell, 34 of the steady clock's
// microsecond at which it ends, which wrap after 4.7 hours.
constexpr unsigned kTagShift = 40;
constexpr unsigned kBellShift = 34;
constexpr std::uint64_t kTimeMask = (std::uint64_t{1} << kBellShift) - 1;

// How long a freed identity is kept for the process that was rung: enough to be scheduled, too little to matter when
// it is dead.
constexpr spi::Time kKept = std::chrono::milliseconds(3);
// No reservation runs longer; one that seems to is garbage, or of another time namespace.
constexpr std::uint64_t kLongestKept = 200'000;

std::uint64_t tag_of(std::uint64_t identity) noexcept { return identity >> 40; }
std::uint64_t tag_in(std::uint64_t reservation) noexcept { return reservation >> kTagShift; }
unsigned bell_in(std::uint64_t reservation) noexcept { return reservation >> kBellShift & 63; }

std::uint64_t microseconds(spi::Time time) noexcept { return static_cast<std::uint64_t>(time.count()) / 1000; }

}  // namespace

std::uint64_t Bells::reservation(std::uint64_t identity, unsigned bell, spi::Time span) const noexcept {
  return tag_of(identity) << kTagShift | std::uint64_t{bell} << kBellShift |
         (microseconds(runtime_.steady_now() + span) & kTimeMask);
}

bool Bells::check_kept(std::uint64_t identity) noexcept {
  Bucket& place = bucket(identity);
  std::uint64_t kept = place.reserved.load(std::memory_order_acquire);
  if (kept == 0 || tag_in(kept) != tag_of(identity)) return false;
  if (static_cast<int>(bell_in(kept)) == file_.bell()) return false;
  const std::uint64_t left = (kept - microseconds(runtime_.steady_now())) & kTimeMask;
  if (left != 0 && left <= kLongestKept) return true;
  if (place.reserved.compare_exchange_strong(kept, 0)) {
    // It did not come in time. When it does, it grows old again; until then nobody stands back for it.
    place.aged.fetch_and(~(std::uint64_t{1} << bell_in(kept)));
    suspicious_.store(true, std::memory_order_relaxed);
  }
  return false;
}

void Bells::drop_own(std::uint64_t identity) noexcept {
  Bucket& place = bucket(identity);
  std::uint64_t kept = place.reserved.load(std::memory_order_acquire);
  if (kept != 0 && tag_in(kept) == tag_of(identity) && static_cast<int>(bell_in(kept)) == file_.bell()) {
    place.reserved.compare_exchange_strong(kept, 0);
  }
}

// The next one after our own bell, so that the turn goes round.
unsigned Bells::next_in_turn(std::uint64_t bells) const noexcept {
  const unsigned from = static_cast<unsigned>(file_.bell() + 1) % 64;
  return (from + static_cast<unsigned>(std::countr_zero(std::rotr(bells, static_cast<int>(from))))) % 64;
}

void Bells::sound(unsigned bell) noexcept {
  Bell& place = file_.state().bells[bell];
  place.word.fetch_add(1);
  if (place.sleeping.load() != 0) futex_wake(place.word);
}

bool Bells::ring(Bucket& place, std::uint64_t identity, Keep keep) noexcept {
  while (const std::uint64_t waiting = others(place)) {
    const std::uint64_t ready = waiting & ~place.rung.load();
    if (ready == 0) {
      suspicious_.store(true, std::memory_order_relaxed);
      return false;
    }
    const std::uint64_t aged = ready & place.aged.load();
    const unsigned bell = next_in_turn(aged ? aged : ready);
    const std::uint64_t bit = std::uint64_t{1} << bell;
    const bool kept = aged != 0 || keep == Keep::for_anyone;
    place.freed.store(identity);
    if (kept) place.reserved.store(reservation(identity, bell, kKept));
    if (place.rung.fetch_or(bit) & bit) continue;  // Somebody else rang it meanwhile.
    if (!(place.waiting.load() & bit) && (place.rung.fetch_and(~bit) & bit)) continue;  // It left meanwhile.
    sound(bell);
    return kept;
  }
  return false;
}

void Bells::announce(std::uint64_t identity) noexcept {
  Bucket& place = bucket(identity);
  if (place.waiting.load() & own()) return;
  place.rung.fetch_and(~own());
  place.waiting.fetch_or(own());
}

void Bells::leave(std::uint64_t identity, bool last) noexcept {
  Bucket& place = bucket(identity);
  drop_own(identity);
  if (!last) return;
  place.waiting.fetch_and(~own());
  place.aged.fetch_and(~own());
  if (place.rung.fetch_and(~own()) & own()) ring(place, place.freed.load(), Keep::for_aged);
}

void Bells::grow_old(std::uint64_t identity) noexcept { bucket(identity).aged.fetch_or(own()); }

void Bells::keep_while_shared(std::uint64_t identity, spi::Time span) noexcept {
  if (kept_for_other(identity)) return;
  bucket(identity).reserved.store(reservation(identity, static_cast<unsigned>(file_.bell()), span));
}

std::uint64_t Bells::answer(std::uint64_t identity) noexcept {
  Bucket& place = bucket(identity);
  place.rung.fetch_and(~own());
  return place.freed.load();
}

void Bells::pass_on_to_all(std::uint64_t identity) noexcept {
  Bucket& place = bucket(identity);
  std::uint64_t kept = place.reserved.load();
  if (kept != 0 && static_cast<int>(bell_in(kept)) == file_.bell() && tag_in(kept) == tag_of(place.freed.load())) {
    place.reserved.compare_exchange_strong(kept, 0);
  }
  place.freed.store(0);
  const std::uint64_t told = others(place) & ~place.rung.load();
  place.rung.fetch_or(told);
  for (std::uint64_t left = told; left != 0; left &= left - 1) sound(static_cast<unsigned>(std::countr_zero(left)));
}

void Bells::ring_everyone() noexcept {
  std::uint64_t told = 0;
  for (Bucket& place : file_.state().buckets) {
    const std::uint64_t waiting = others(place);
    if (waiting == 0) continue;
    place.freed.store(0);
    place.rung.fetch_or(waiting);
    told |= waiting;
  }
  for (; told != 0; told &= told - 1) sound(static_cast<unsigned>(std::countr_zero(told)));
}

void futex_sleep(FutexWord& word, std::uint32_t expected, spi::Time until) noexcept {
  const auto time = std::max(until, spi::Time(0));
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const timespec deadline{.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected, until == spi::kNever ? nullptr : &deadline, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(FutexWord& word) noexcept { syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

}  // namespace lockr::file
