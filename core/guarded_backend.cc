#include "core/guarded_backend.h"

#include <algorithm>
#include <utility>

#include "core/text.h"
#include "core/thrown.h"

namespace lockr::core {

using spi::Answer;
using spi::Request;

namespace {

constexpr Time kClosing = std::chrono::seconds(1);
// How long a pump may sleep whose wake() is broken, too.
constexpr Time kLongestPump = std::chrono::seconds(1);

}  // namespace

GuardedBackend::GuardedBackend(std::string name, std::unique_ptr<spi::Backend> backend, spi::Runtime& runtime,
                               LogHook log)
    : name_(std::move(name)), inner_(std::move(backend)), runtime_(runtime), log_(std::move(log)), ending_(runtime) {}

// ---- in and out of the backend

// False: it is broken; what the batch asks for is the caller's to answer.
bool GuardedBackend::enter(std::span<Request* const> batch) {
  std::lock_guard lock(mutex_);
  if (broken_ || ended_) return false;
  ++inside_;
  for (Request* request : batch) asked_.emplace(request, request->seat);
  return true;
}

void GuardedBackend::leave() {
  {
    std::lock_guard lock(mutex_);
    --inside_;
    if (!broken_) return;
  }
  left_.fetch_add(1);
  runtime_.wake(&left_);
}

// Call it in a handler.
Error GuardedBackend::failure(const char* call_name) const {
  return Error(errc::backend_failure,
               "the backend " + in_quotes(name_) + " threw an exception out of " + call_name + "(); tell its author")
      .with_native(thrown_text());
}

template <class Call>
bool GuardedBackend::guarded(const char* call_name, std::span<Request* const> batch, Call call) {
  if (!enter(batch)) return false;
  try {
    call();
  } catch (...) {
    broke(failure(call_name));
  }
  leave();
  return true;
}

// What is said of a backend that enter() did not let in.
Error GuardedBackend::out_of_use() {
  std::lock_guard lock(mutex_);
  return broken_.value_or(Error(errc::session_closed));
}

void GuardedBackend::broke(Error error) {
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    broken_ = std::move(error);
  }
  try {
    inner_->wake();
  } catch (...) {
    // Its pump returns when it is due: after kLongestPump.
  }
  pumped_.fetch_add(1);
  runtime_.wake(&pumped_);
}

// ---- its end

bool GuardedBackend::ended() {
  std::lock_guard lock(mutex_);
  return !broken_ || ended_;
}

// True: a broken backend was ended here; of the threads that notice it, one does this and the others wait for it.
bool GuardedBackend::end() {
  if (ended()) return false;
  std::lock_guard one(ending_);
  if (ended()) return false;
  wait_until_left();
  end_now();
  return true;
}

void GuardedBackend::wait_until_left() {
  for (;;) {
    const std::uint32_t seen = left_.load();
    {
      std::lock_guard lock(mutex_);
      if (inside_ == 0) return;
    }
    runtime_.park(left_, seen, spi::kNever);
  }
}

// Losses first: others get the locks as soon as it is closed.
void GuardedBackend::end_now() {
  std::unordered_map<spi::Seat, std::size_t, SeatHash> seats;
  {
    std::lock_guard lock(mutex_);
    seats.swap(seats_);
  }
  for (const auto& [seat, held] : seats) sink_->lost(seat, nullptr, *broken_);
  log_(LogLevel::error, broken_->to_string() + "; it is closed");
  try {
    inner_->close(runtime_.steady_now() + kClosing);
  } catch (...) {
    log_(LogLevel::error, failure("close").to_string());
  }
  std::unordered_map<Request*, spi::Seat> asked;
  {
    std::lock_guard lock(mutex_);
    asked.swap(asked_);
    ended_ = true;
  }
  for (const auto& [request, seat] : asked) {
    request->answer = Answer::failed;
    request->error = *broken_;
    sink_->done(*request);
  }
}

// ---- the backend, as the core sees it

Status GuardedBackend::open(spi::Sink& sink, Time until) noexcept {
  sink_ = &sink;
  try {
    return inner_->open(*this, until);
  } catch (...) {
    return fail(failure("open"));
  }
}

void GuardedBackend::submit(std::uint16_t link, std::span<Request* const> batch) noexcept {
  const bool asked = guarded("submit", batch, [&] { inner_->submit(link, batch); });
  end();
  if (asked) return;
  for (Request* request : batch) {
    request->answer = Answer::failed;
    request->error = out_of_use();
    sink_->done(*request);
  }
}

bool GuardedBackend::collect(std::uint16_t link, Time until) noexcept {
  bool all = true;
  guarded("collect", {}, [&] { all = inner_->collect(link, until); });
  return end() || all;
}

bool GuardedBackend::start_wait(Request& request) noexcept {
  Request* const asked = &request;
  if (!enter({&asked, 1})) return false;
  bool begun = false;
  try {
    begun = inner_->start_wait(request);
  } catch (...) {
    broke(failure("start_wait"));
  }
  if (!begun) {
    std::lock_guard lock(mutex_);
    begun = asked_.erase(asked) == 0;  // Answered before it threw.
  }
  leave();
  return begun;
}

void GuardedBackend::stop_wait(Request& request) noexcept {
  guarded("stop_wait", {}, [&] { inner_->stop_wait(request); });
}

bool GuardedBackend::wanted_elsewhere(std::uint64_t identity) noexcept {
  bool wanted = true;
  guarded("wanted_elsewhere", {}, [&] { wanted = inner_->wanted_elsewhere(identity); });
  return wanted;
}

void GuardedBackend::pump(Time until) noexcept {
  if (guarded("pump", {}, [&] { inner_->pump(std::min(until, runtime_.steady_now() + kLongestPump)); })) {
    end();
  } else if (!end()) {
    runtime_.park(pumped_, pump_seen_, until);
  }
  pump_seen_ = pumped_.load();
}

void GuardedBackend::wake() noexcept {
  pumped_.fetch_add(1);
  runtime_.wake(&pumped_);
  guarded("wake", {}, [&] { inner_->wake(); });
}

Result<std::vector<Holder>> GuardedBackend::inspect(const Key* key, Time until) noexcept {
  if (!enter({})) return fail(out_of_use());
  Result<std::vector<Holder>> listed;
  try {
    listed = inner_->inspect(key, until);
  } catch (...) {
    listed = fail(failure("inspect"));
  }
  leave();
  return listed;
}

Result<std::vector<Descriptor>> GuardedBackend::descriptors(spi::Seat seat, const Key& key) noexcept {
  if (!enter({})) return fail(Error(errc::lock_lost));
  Result<std::vector<Descriptor>> kept;
  try {
    kept = inner_->descriptors(seat, key);
  } catch (...) {
    kept = fail(failure("descriptors"));
  }
  leave();
  return kept;
}

void GuardedBackend::close(Time until) noexcept {
  end();
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
  }
  try {
    inner_->close(until);
  } catch (...) {
    log_(LogLevel::error, failure("close").to_string());
  }
}

// ---- the core, as the backend sees it

// Called with the mutex. `before`: the seat that it named when it was asked. What was lost with a seat is not in it.
void GuardedBackend::count(const Request& request, const spi::Seat& before) {
  const bool gave_back = request.op != spi::Op::take && request.answer != Answer::unknown;
  if (const auto held = seats_.find(before); gave_back && held != seats_.end() && --held->second == 0) {
    seats_.erase(held);
  }
  if (request.answer == Answer::granted) ++seats_[request.seat];
}

void GuardedBackend::done(Request& request) noexcept {
  {
    std::lock_guard lock(mutex_);
    const auto asked = asked_.extract(&request);
    if (asked.empty()) return;  // Answered for it, when it was ended.
    ++inside_;
    if (request.answer == Answer::granted && broken_) {
      request.answer = Answer::failed;
      request.error = *broken_;
    } else {
      count(request, asked.mapped());
    }
  }
  sink_->done(request);
  leave();
}

void GuardedBackend::lost(spi::Seat seat, const Key* key, const Error& error) noexcept {
  {
    std::lock_guard lock(mutex_);
    const auto held = seats_.find(seat);
    if (held != seats_.end() && (!key || --held->second == 0)) seats_.erase(held);
  }
  sink_->lost(seat, key, error);
}

}  // namespace lockr::core
