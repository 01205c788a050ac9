#include "backends/file/locks.h"

#include <algorithm>
#include <cerrno>

#include "backends/file/errors.h"
#include "backends/file/ofd_lock.h"

namespace lockr::file {

using spi::Answer;
using spi::Request;

namespace {

constexpr std::uint64_t kTokenLimit = std::uint64_t{1} << 53;

}  // namespace

void Locks::take(Request& request) noexcept {
  lock(request);
  if (request.answer == Answer::granted) finish(request);
}

// The kernel's lock alone; counts a user of the shard for as long as it is held. A file that is found replaced after it
// was locked is no lock of anyone's any more: the one that stands in its place is asked instead.
void Locks::lock(Request& request) noexcept {
  request.answer = Answer::refused;
  if (bells_.kept_for_other(request.identity)) return;
  const unsigned shard = shard_of(request.identity);
  const short type = request.mode == Mode::exclusive ? F_WRLCK : F_RDLCK;
  for (;;) {
    const Shards::Use use = shards_.enter(shard);
    if (use.fd < 0) {
      request.answer = Answer::failed;
      request.error = shard_error(directory_, shard, use.error);
      return;
    }
    const int error = ofd_lock(use.fd, type, offset_of(request.identity));
    const bool replaced = shards_.descriptor(shard, use.life) < 0;
    if (error == 0 && !replaced) {
      request.answer = Answer::granted;
      request.seat = {.link = static_cast<std::uint16_t>(shard), .life = use.life};
      return;
    }
    shards_.leave(shard, use.life);
    if (replaced) continue;
    if (error == EAGAIN) return;
    request.answer = Answer::failed;
    request.error = from_errno(error, "can't lock a byte of " + in_quotes(directory_.path));
    return;
  }
}

void Locks::finish(Request& request) noexcept {
  const auto now = static_cast<std::uint64_t>(runtime_.wall_now().count());
  request.token = next_token(request.identity, now);
  if (request.token == 0) {
    unlock(request);
    bells_.freed(request.identity);
    request.answer = Answer::failed;
    request.error =
        Error(errc::backend_failure, "the fencing tokens in the state file of " + in_quotes(directory_.path) +
                                         " are damaged; remove the directory when no process uses it");
    return;
  }
  bells_.taken(request.identity);
  records_.add({.identity = request.identity,
                .mode = request.mode,
                .waiting = false,
                .since_ns = now,
                .key = request.key ? request.key->string() : std::string_view(),
                .label = label_of(request)});
}

// The cell belongs to all identities of a bucket: numbers skip, and grow. 0: it holds what no lockr wrote.
std::uint64_t Locks::next_token(std::uint64_t identity, std::uint64_t now_ns) noexcept {
  Word& cell = file_.state().buckets[bucket_of(identity)].token;
  std::uint64_t last = cell.load(std::memory_order_relaxed);
  std::uint64_t next = 0;
  do {
    if (last >= kTokenLimit - 1) return 0;
    next = std::max(last + 1, now_ns / 1000);
  } while (!cell.compare_exchange_weak(last, next, std::memory_order_acq_rel));
  return next;
}

// Released; not_held when the shard was lost; unknown when the kernel has no memory to split a range. To unlock a range
// the kernel first allocates what a split would need, to unlock the whole file it does not.
Answer Locks::unlock(Request& request) noexcept {
  const unsigned shard = request.seat.link;
  const int fd = shard < kShards ? shards_.descriptor(shard, request.seat.life) : -1;
  if (fd < 0) return Answer::not_held;
  int error = 0;
  const bool alone = shards_.leave_alone(shard, request.seat.life, [&](int only) {
    error = ofd_unlock_all(only);
    return error == 0;
  });
  if (!alone) error = ofd_lock(fd, F_UNLCK, offset_of(request.identity));
  if (error != 0) {
    request.error = from_errno(error, "can't unlock a byte of " + in_quotes(directory_.path));
    return Answer::unknown;
  }
  if (!alone) shards_.leave(shard, request.seat.life);
  return Answer::released;
}

void Locks::give_back(Request& request) noexcept {
  records_.remove(request.identity, false);
  request.answer = unlock(request);
  bells_.freed(request.identity);
}

void Locks::yield(Request& request) noexcept {
  records_.remove(request.identity, false);
  if (unlock(request) == Answer::unknown) {
    request.answer = Answer::unknown;
  } else if (bells_.freed(request.identity, Bells::Keep::for_anyone)) {
    request.answer = Answer::refused;
  } else {
    take(request);
  }
}

void Locks::take_all(std::span<Request* const> requests) noexcept {
  std::size_t taken = 0;
  for (; taken < requests.size(); ++taken) {
    take(*requests[taken]);
    if (requests[taken]->answer != Answer::granted) break;
  }
  if (taken == requests.size()) return;
  for (Request* request : requests.subspan(taken + 1)) request->answer = Answer::refused;
  while (taken-- > 0) {
    Request& request = *requests[taken];
    give_back(request);
    if (request.answer != Answer::unknown) request.answer = Answer::refused;
  }
}

void Locks::take_any(std::span<Request* const> requests) noexcept {
  bool taken = false;
  for (Request* request : requests) {
    request->answer = Answer::refused;
    if (taken) continue;
    take(*request);
    taken = request->answer == Answer::granted;
  }
}

short Locks::foreign(std::uint64_t identity) noexcept {
  const unsigned shard = shard_of(identity);
  const Shards::Use use = shards_.enter(shard);
  if (use.fd < 0) return F_UNLCK;
  const short found = ofd_foreign_lock(use.fd, offset_of(identity));
  shards_.leave(shard, use.life);
  return found;
}

void Locks::record_wait(const Request& request) noexcept {
  records_.add({.identity = request.identity,
                .mode = request.mode,
                .waiting = true,
                .since_ns = static_cast<std::uint64_t>(runtime_.wall_now().count()),
                .key = request.key ? request.key->string() : std::string_view(),
                .label = label_of(request)});
}

}  // namespace lockr::file
