#include "backends/redis/link.h"

#include <algorithm>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {
namespace {

// A stream that may block does so for reply_timeout. It is asked first whether something arrived where less is left.
constexpr Time kInTime = std::chrono::milliseconds(5);

Error no_answer() {
  return Error(errc::connection_lost, "Redis did not answer within reply_timeout; the connection was given up");
}

}  // namespace

void Link::attach(std::shared_ptr<Connection> connection) {
  const Lock lock(mutex_);
  connection_ = std::move(connection);
  reason_.reset();
  outgoing_.clear();
}

void Link::set_reason(const Error& error) {
  const Lock lock(mutex_);
  reason_ = error;
}

bool Link::is_up() const {
  const Lock lock(mutex_);
  return connection_ != nullptr;
}

void Link::close() noexcept {
  std::deque<Call> forgotten;
  const Lock lock(mutex_);
  if (connection_) connection_->shut_down();
  connection_.reset();
  forgotten.swap(owed_);
}

// The connection is over. What was sent may have been carried out, or may be yet.
void Link::end(Lock& lock, const Error& why) {
  connection_->shut_down();
  connection_.reset();
  outgoing_.clear();
  reason_ = why;
  const std::deque<Call> owed = std::exchange(owed_, {});
  lock.unlock();
  for (const Call& each : owed) each.then({.reply = nullptr, .error = why, .certain = false, .half_done = false});
  went_down_();
  lock.lock();
}

// ---- sending

void Link::write(std::string& out, const Call& call) {
  Arguments start{call.with_text ? "EVAL" : "EVALSHA", call.with_text ? text_of(*call.script) : digest_of(*call.script),
                  std::to_string(call.keys)};
  start.write(out, call.arguments);
}

void Link::owe(Call call) {
  call.sent = runtime_.steady_now();
  owed_.push_back(std::move(call));
}

// While it is down.
void Link::refuse(Lock& lock, const Then& then) {
  const Error why = reason_ ? *reason_ : connection_ended("it is down");
  lock.unlock();
  then({.reply = nullptr, .error = why, .certain = true, .half_done = false});
}

void Link::call(Script script, std::size_t keys, Arguments arguments, Then then) {
  Lock lock(mutex_);
  if (!connection_) return refuse(lock, then);
  Call call{.script = script, .keys = keys, .arguments = std::move(arguments), .then = std::move(then)};
  write(outgoing_, call);
  owe(std::move(call));
}

void Link::call(Arguments command, Then then) {
  Lock lock(mutex_);
  if (!connection_) return refuse(lock, then);
  command.write(outgoing_, {});
  owe({.then = std::move(then)});
}

void Link::call_each(std::string_view commands, std::size_t count, Fits fits, Then then) {
  Lock lock(mutex_);
  if (!connection_) return refuse(lock, then);
  outgoing_.append(commands);
  owe({.then = std::move(then), .count = count, .fits = std::move(fits)});
}

void Link::flush() {
  Lock lock(mutex_);
  if (!connection_ || outgoing_.empty()) return;
  const bool sent = connection_->send(outgoing_);
  outgoing_.clear();
  if (!sent) end(lock, connection_ended("it broke while a command was sent"));
}

// ---- receiving

void Link::end_turn() {
  taking_ = false;
  if (!std::exchange(turn_awaited_, false)) return;
  turns_.fetch_add(1);
  runtime_.wake(&turns_);
}

// For the one thread that collects.
void Link::await_turn(Lock& lock) {
  turn_awaited_ = true;
  const std::uint32_t seen = turns_.load();
  lock.unlock();
  runtime_.park(turns_, seen, spi::kNever);
  lock.lock();
}

// Hands out the replies that have arrived; false when the connection ended over it.
bool Link::take_replies(Lock& lock) {
  taking_ = true;
  const std::shared_ptr<Connection> connection = connection_;
  while (connection_ == connection) {
    bool broken = false;
    Reply reply = connection->next(broken);
    if (broken || (reply && owed_.empty())) {
      const Error why = reply && reply->type == REDIS_REPLY_ERROR
                            ? connection_ended(one_line(text_of(*reply)))
                            : connection_ended("what the other side sends is not the protocol of Redis");
      end_turn();
      end(lock, why);
      return false;
    }
    if (!reply) break;
    Call& first = owed_.front();
    if (reply->type != REDIS_REPLY_ERROR && !answers(first, *reply)) {
      end_turn();
      end(lock, connection_ended("what the other side sends is no answer to what was asked"));
      return false;
    }
    if (first.fits) {
      first.replies.push_back(std::move(reply));
      if (first.replies.size() == first.count) finish_each(lock);
      continue;
    }
    Call call = std::move(first);
    owed_.pop_front();
    finish(lock, std::move(call), *reply);
  }
  end_turn();
  return connection_ == connection;
}

bool Link::answers(const Call& call, const redisReply& reply) noexcept {
  if (call.fits) return call.fits(call.replies.size(), reply);
  return !call.script || fits(*call.script, call.keys, reply);
}

void Link::finish_each(Lock& lock) {
  const Call call = std::move(owed_.front());
  owed_.pop_front();
  std::vector<redisReply*> elements;
  const redisReply* demoted = nullptr;
  for (const Reply& each : call.replies) {
    elements.push_back(each.get());
    if (each->type == REDIS_REPLY_ERROR && is_demoted(text_of(*each))) demoted = each.get();
  }
  redisReply all{};
  all.type = REDIS_REPLY_ARRAY;
  all.elements = elements.size();
  all.element = elements.data();
  lock.unlock();
  call.then({.reply = &all, .error = {}, .certain = true, .half_done = false});
  lock.lock();
  if (demoted && connection_) end(lock, from_reply("Redis refused a command", text_of(*demoted)));
}

void Link::finish(Lock& lock, Call call, const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ERROR) {
    lock.unlock();
    call.then({.reply = &reply, .error = {}, .certain = true, .half_done = false});
    lock.lock();
    return;
  }
  const std::string_view words = text_of(reply);
  if (is_noscript(words) && call.script && !call.with_text) {
    call.with_text = true;
    write(outgoing_, call);
    owe(std::move(call));
    if (!connection_->send(outgoing_)) connection_->shut_down();  // The next receive() finds it ended.
    outgoing_.clear();
    return;
  }
  const Error why = from_reply("Redis refused a command", words);
  lock.unlock();
  call.then({.reply = nullptr, .error = why, .certain = true, .half_done = call.script && is_half_done(words)});
  lock.lock();
  if (is_demoted(words) && connection_) end(lock, why);
}

bool Link::collect(Time until) {
  Lock lock(mutex_);
  for (;;) {
    // The service thread hands out what it found when the connection broke or an answer was overdue.
    while (taking_) await_turn(lock);
    if (!connection_ || owed_.empty()) return true;
    const Time now = runtime_.steady_now();
    const bool overdue = is_overdue(now);
    const std::shared_ptr<Connection> connection = connection_;
    const bool block = until > now && !overdue;
    const bool waits = block && (connection->has_unsent() || until - now < reply_timeout_ - kInTime);
    bool alive = true;
    collecting_ = true;
    if (connection->has_unsent()) alive = connection->flush();
    lock.unlock();
    if (waits && alive) connection->wait({runtime_, until});
    alive = alive && connection->receive(block && !waits);
    lock.lock();
    collecting_ = false;
    if (connection_ != connection) continue;
    if (!take_replies(lock)) continue;
    if (!alive) {
      end(lock, connection_ended("the server closed it"));
      return true;
    }
    // Not before it was read: we may have been the ones who slept.
    if (overdue && is_overdue(now)) {
      end(lock, no_answer());
      return true;
    }
    if (!block && !overdue) return owed_.empty();
  }
}

bool Link::is_overdue(Time now) const { return !owed_.empty() && now >= owed_.front().sent + reply_timeout_; }

void Link::receive() {
  Lock lock(mutex_);
  if (!connection_ || collecting_ || taking_) return;
  const bool alive = connection_->flush() && connection_->receive(false);
  const std::shared_ptr<Connection> connection = connection_;
  if (take_replies(lock) && !alive && connection_ == connection) end(lock, connection_ended("the server closed it"));
}

void Link::tend(Time now) {
  if (watch().overdue_at > now) return;
  receive();  // We may have been the ones who slept.
  Lock lock(mutex_);
  if (connection_ && !collecting_ && is_overdue(now)) end(lock, no_answer());
}

Link::Watch Link::watch() const {
  const Lock lock(mutex_);
  Watch watch{.connection = connection_, .unsent = false, .collecting = collecting_};
  if (!connection_) return watch;
  watch.unsent = connection_->has_unsent();
  if (!owed_.empty()) {
    watch.oldest = owed_.front().sent;
    watch.overdue_at = watch.oldest + reply_timeout_;
  }
  return watch;
}

}  // namespace lockr::redis
