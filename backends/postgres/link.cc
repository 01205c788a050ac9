#include "backends/postgres/link.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "backends/postgres/encoding.h"
#include "backends/postgres/errors.h"

namespace lockr::postgres {

using spi::Answer;
using spi::kNever;
using spi::Op;

namespace {

// While callers receive their own answers the pump is woken by them at most so often.
constexpr Time kMute = std::chrono::milliseconds(5);
constexpr Time kAskAgain = std::chrono::milliseconds(100);
// A wait that nobody needs runs out if it is over soon; otherwise the connection is given up for it.
constexpr Time kSoon = std::chrono::milliseconds(800);
// A dedicated session gives back nothing while it waits. Longer than deadlock_timeout, as a rule: it may hold what
// another one waits for.
constexpr Time kLongestSliceAlone = std::chrono::milliseconds(1500);

Error not_connected(const std::optional<Error>& reason) {
  return reason ? *reason : Error(errc::connection_lost, "the connection to PostgreSQL ended");
}

// Of a connection that is not made anew.
Error for_good(const Error& why) {
  return Error(errc::connection_lost, why.message() + "; this dedicated session is over, open another")
      .with_native(std::string(why.native()))
      .with_retryable(false);
}

constexpr const char* kNotify = "SELECT pg_catalog.pg_notify('lockr_who', $1)";

std::int64_t identity_of(const Request& request) { return static_cast<std::int64_t>(request.identity); }

Time later(Time time, Time span) { return span >= kNever - time ? kNever : time + span; }

}  // namespace

// ---- life

void Link::attach(Session session) {
  Lock lock(mutex_);
  connection_ = std::move(session.connection);
  bounds_ = session.bounds;
  epoch_ = session.epoch;
  prepared_ = session.kept;
  dialect_ = session.dialect;
  ++life_;
  held_ = 0;
  reason_.reset();
  last_sent_ = now();
  confirmed_ = Time{0};
  muted_until_ = Time{0};
}

void Link::set_reason(const Error& error) {
  Lock lock(mutex_);
  reason_ = error;
}

void Link::close() noexcept {
  Lock lock(mutex_);
  connection_.reset();
  owed_.clear();
}

std::optional<Descriptor> Link::descriptor(std::uint32_t life) {
  Lock lock(mutex_);
  if (!connection_ || life != life_) return std::nullopt;
  return Descriptor(::fcntl(connection_->fd(), F_DUPFD_CLOEXEC, 0));
}

// The connection is over. `certain`: the server has ended the session, so nothing is held there any more.
void Link::drop(const Error& cause, bool certain) {
  const Error why = site_.alone ? for_good(cause) : cause;
  connection_->shut_down();
  connection_.reset();
  reason_ = why;
  const std::deque<Exchange> owed = std::exchange(owed_, {});
  const bool held = std::exchange(held_, 0) != 0;
  held_shared_.clear();
  for (const Exchange& each : owed) {
    for (const Item& item : each.items) {
      if (item.request) fail_request(*item.request, why, certain);
    }
    for (const Item& item : each.unsure) {
      if (item.request) fail_request(*item.request, why, certain);
    }
    if (each.then) each.then(fail(why));
  }
  if (held) site_.sink->lost({number_, life_}, nullptr, why);
  site_.down(number_);
}

void Link::fail_request(Request& request, const Error& why, bool certain) {
  request.error = why;
  if (!certain) {
    request.ask_again = now() + kAskAgain;
    const Time boot = site_.runtime.boot_now();
    if (bounds_.server != kNever) request.error = Error(why).with_may_hold_until(boot + bounds_.server);
  }
  answer(request, certain ? Answer::failed : Answer::unknown, *site_.sink);
}

bool Link::overdue() const { return !owed_.empty() && now() >= owed_.front().due; }

void Link::drop_overdue() {
  drop(Error(errc::connection_lost, "PostgreSQL did not answer within reply_timeout; the connection was given up"),
       false);
}

// ---- sending

bool Link::send_statement(Statement statement, const std::vector<const std::string*>& parameters, bool binary) {
  std::array<const char*, 2> values{};
  std::array<int, 2> lengths{};
  std::array<int, 2> formats{};
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    values[i] = parameters[i]->data();
    lengths[i] = static_cast<int>(parameters[i]->size());
    formats[i] = binary ? 1 : 0;
  }
  if (!prepared_) {
    return PQsendQueryParams(connection_->raw(), sql_of(statement, dialect_).c_str(),
                             static_cast<int>(parameters.size()), nullptr, values.data(), lengths.data(),
                             formats.data(), 1) == 1;
  }
  return PQsendQueryPrepared(connection_->raw(), name_of(statement), static_cast<int>(parameters.size()), values.data(),
                             lengths.data(), formats.data(), 1) == 1;
}

bool Link::send_key(Statement statement, const Item& item) {
  std::string key;
  append_int64(key, item.identity);
  return send_statement(statement, {&key}, true);
}

bool Link::send_keys(Statement statement, Statement if_exclusive, const std::vector<Item>& items) {
  BinaryArray keys(BinaryArray::Of::int64, items.size());
  for (const Item& item : items) keys.add(item.identity);
  if (std::none_of(items.begin(), items.end(), [](const Item& item) { return item.shared; })) {
    return send_statement(if_exclusive, {&keys.bytes()}, true);
  }
  BinaryArray shared(BinaryArray::Of::boolean, items.size());
  for (const Item& item : items) shared.add(item.shared);
  return send_statement(statement, {&keys.bytes(), &shared.bytes()}, true);
}

bool Link::write_wait(const Item& item) {
  const std::string timeout =
      std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(slice_).count()) + "ms";
  return send_statement(Statement::slice, {&timeout}, false) &&
         send_key(item.shared ? Statement::pass_shared : Statement::pass_exclusive, item) &&
         send_key(item.shared ? Statement::keep_shared : Statement::keep_exclusive, item);
}

bool Link::write(const Exchange& exchange) {
  const std::vector<Item>& items = exchange.items;
  const bool one = items.size() == 1;
  switch (exchange.kind) {
    case Kind::give:
    case Kind::undo:
      if (!one) return send_keys(Statement::give_many, Statement::give_many_exclusive, items);
      return send_key(items[0].shared ? Statement::give_shared : Statement::give_exclusive, items[0]);
    case Kind::sweep:
      return send_keys(Statement::give_many, Statement::give_many_exclusive, items);
    case Kind::take:
      if (!one) return send_keys(Statement::take_many, Statement::take_many_exclusive, items);
      return send_key(items[0].shared ? Statement::take_shared : Statement::take_exclusive, items[0]);
    case Kind::take_all:
      return send_keys(Statement::take_all, Statement::take_all_exclusive, items);
    case Kind::take_any:
      return send_keys(Statement::take_any, Statement::take_any_exclusive, items);
    case Kind::wait:
      return write_wait(items[0]);
    case Kind::after_slice:
      return send_key(Statement::after_slice, items[0]);
    case Kind::heartbeat:
      return true;  // The Sync alone is answered.
    case Kind::question: {
      const char* const value = exchange.parameter.c_str();
      return PQsendQueryParams(connection_->raw(), exchange.sql.c_str(), exchange.parameter.empty() ? 0 : 1, nullptr,
                               &value, nullptr, nullptr, 0) == 1;
    }
  }
  return false;
}

// Queues one exchange for sending; flush() sends. What could not be queued is found broken when it is flushed.
void Link::send(Exchange exchange) {
  exchange.sent = last_sent_ = now();
  exchange.sent_boot = site_.runtime.boot_now();
  const Time slice = exchange.kind == Kind::wait ? slice_ : Time{0};
  exchange.due = later(exchange.sent, site_.reply_timeout + slice);
  if (!owed_.empty()) exchange.due = std::max(exchange.due, owed_.back().due);  // Behind a wait.
  const bool queued = write(exchange) && PQpipelineSync(connection_->raw()) == 1;
  owed_.push_back(std::move(exchange));
  if (!queued) connection_->shut_down();
}

void Link::flush() {
  if (connection_ && !connection_->flush()) receive(true);
}

void Link::refuse_all(std::span<Request* const> batch) {
  const Error why = not_connected(reason_);
  for (Request* request : batch) {
    request->error = why;
    answer(*request, Answer::failed, *site_.sink);
  }
}

void Link::submit(std::span<Request* const> batch) {
  Lock lock(mutex_);
  if (!connection_) return refuse_all(batch);
  if (std::this_thread::get_id() == site_.service.load(std::memory_order_relaxed)) muted_until_ = Time{0};
  Exchange gives{.kind = Kind::give, .items = {}};
  Exchange takes{.kind = Kind::take, .items = {}};
  for (Request* request : batch) {
    const bool gives_back = request->op != Op::take;
    if (gives_back && request->seat.life != life_) {
      refuse_all({&request, 1});
      continue;
    }
    const Item item{request, identity_of(*request), request->mode == Mode::shared};
    if (request->op == Op::give_back) gives.items.push_back(item);
    if (request->op == Op::yield) gives.items.push_back({nullptr, item.identity, held_shared_.contains(item.identity)});
    if (request->op != Op::give_back && request->group == 0) takes.items.push_back(item);
  }
  if (!gives.items.empty()) send(std::move(gives));
  if (!takes.items.empty()) send(std::move(takes));
  send_groups(batch);
  flush();
}

void Link::send_groups(std::span<Request* const> batch) {
  while (!batch.empty()) {
    const Request& first = *batch.front();
    const auto end =
        std::find_if(batch.begin(), batch.end(), [&](const Request* each) { return each->group != first.group; });
    if (first.group != 0 && first.op == Op::take) {
      Exchange group{.kind = first.group_rule == spi::Group::all ? Kind::take_all : Kind::take_any, .items = {}};
      std::for_each(batch.begin(), end, [&](Request* each) {
        group.items.push_back({each, identity_of(*each), each->mode == Mode::shared});
      });
      send(std::move(group));
    }
    batch = batch.subspan(static_cast<std::size_t>(end - batch.begin()));
  }
}

void Link::heartbeat() {
  send({.kind = Kind::heartbeat, .items = {}});
  flush();
}

// ---- questions

void Link::send_question(Exchange question) {
  send(std::move(question));
  flush();
}

void Link::ask(const std::string& sql, int columns, std::function<void(Result<Rows>)> then) {
  Lock lock(mutex_);
  if (!connection_) return then(fail(not_connected(reason_)));
  send_question({.kind = Kind::question, .items = {}, .sql = sql, .columns = columns, .then = std::move(then)});
}

void Link::notify(const std::string& payload) {
  Lock lock(mutex_);
  if (connection_) send_question({.kind = Kind::question, .items = {}, .sql = kNotify, .parameter = payload});
}

// Notifications arrive beside the answers.
void Link::hear() {
  std::vector<std::string> answers;
  for (;;) {
    const std::unique_ptr<PGnotify, void (*)(void*)> heard(PQnotifies(connection_->raw()), PQfreemem);
    if (!heard) break;
    for (std::string& each : site_.notified(heard->extra)) answers.push_back(std::move(each));
  }
  for (std::string& each : answers) {
    if (!connection_) return;
    send_question({.kind = Kind::question, .items = {}, .sql = kNotify, .parameter = std::move(each)});
  }
}

// ---- waiting

bool Link::can_wait() const {
  if (!site_.alone) return owed_.empty() && held_ == 0;
  return std::none_of(owed_.begin(), owed_.end(), [](const Exchange& each) { return each.kind == Kind::wait; });
}

const Link::Exchange* Link::waiting_for(const Request& request) const {
  const auto found = std::find_if(owed_.begin(), owed_.end(), [&](const Exchange& each) {
    return each.kind == Kind::wait && each.items[0].request == &request;
  });
  return found == owed_.end() ? nullptr : &*found;
}

bool Link::start_wait(Request& request, Time slice) {
  Lock lock(mutex_);
  if (!connection_ || !can_wait()) return false;
  if (site_.alone) slice = held_ != 0 ? kLongestSliceAlone : std::min(slice, kLongestSliceAlone);
  // A lock whose grant came too late after its request would have run out.
  slice_ = std::min(slice, bounds_.validity / 3);
  send({.kind = Kind::wait, .items = {{&request, identity_of(request), request.mode == Mode::shared}}});
  flush();
  return true;
}

bool Link::stop_wait(const Request& request) {
  Lock lock(mutex_);
  const Exchange* const wait = waiting_for(request);
  if (!wait) return false;
  if (site_.alone || later(wait->sent, slice_) - now() <= kSoon) return true;
  drop(Error(errc::connection_lost, "a long wait was given up, and its connection with it"), false);
  return true;
}

// ---- receiving

// Takes in what has arrived. `closing`: the socket says that there will be no more.
void Link::receive(bool closing) {
  for (bool alive = connection_->read();; alive = connection_->read()) {
    const bool sound = take_results();
    if (!connection_) return;
    if (!alive || !sound) return drop(ending(), true);
    hear();
    if (!connection_) return;
    if (!closing) return;
  }
}

// False: what arrived is not what is owed, or the connection broke over it.
bool Link::take_results() {
  bool nothing_before = false;
  while (connection_ && !owed_.empty() && !PQisBusy(connection_->raw())) {
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQgetResult(connection_->raw()), PQclear);
    // One null stands between the statements of a message.
    if (!result && nothing_before) return false;
    nothing_before = !result;
    if (result && !take_result(result.get())) {
      drop(no_answer(), false);
      return true;
    }
  }
  return !connection_ || PQstatus(connection_->raw()) == CONNECTION_OK;
}

// What the server said last: to the statement it was at, or to nobody.
Error Link::ending() const {
  if (!owed_.empty() && owed_.front().error && owed_.front().error->code() == errc::connection_lost &&
      !owed_.front().error->native().empty()) {
    return *owed_.front().error;
  }
  return connection_->ending();
}

// False: it is no answer to what was asked.
bool Link::take_result(const PGresult* result) {
  Exchange& exchange = owed_.front();
  switch (PQresultStatus(result)) {
    case PGRES_TUPLES_OK:
      return take_rows(exchange, result);
    case PGRES_PIPELINE_SYNC: {
      if (!exchange.error && !fits(exchange)) return false;
      Exchange done = std::move(owed_.front());
      owed_.pop_front();
      complete(std::move(done));
      return true;
    }
    case PGRES_FATAL_ERROR:
      if (!exchange.error) exchange.error = from_result(result, "PostgreSQL refused a statement");
      return true;
    case PGRES_PIPELINE_ABORTED:  // Stands behind one that failed.
      return true;
    default:
      return false;
  }
}

bool Link::take_rows(Exchange& exchange, const PGresult* result) const {
  ++exchange.results;
  const int columns = PQnfields(result);
  if (exchange.kind == Kind::question) {
    exchange.rows = Connection::rows_of(result);
    return columns == exchange.columns;
  }
  // Of a wait's three statements the last one counts.
  if (exchange.kind == Kind::wait && exchange.results < 3) return columns > 0;
  for (int column = 0; column < std::min(columns, 2); ++column) {
    auto& into = column == 0 ? exchange.values : exchange.tokens;
    for (int row = 0; row < PQntuples(result); ++row) {
      if (!is_number(result, row, column)) return false;
      into.push_back(number_at(result, row, column));
    }
  }
  return columns > 0;
}

// Whether an exchange without an error was answered as its statements answer.
bool Link::fits(const Exchange& exchange) const {
  const std::size_t rows = exchange.values.size();
  const auto is_token = [](const std::optional<std::int64_t>& value) {
    return value && *value > 0 && *value < std::int64_t{1} << kSequenceBits;
  };
  const auto is_flag = [](const std::optional<std::int64_t>& value) { return value && *value >= 0 && *value <= 1; };
  const auto all = [&](auto good) { return std::all_of(exchange.values.begin(), exchange.values.end(), good); };
  const bool token = !site_.fencing || (!exchange.tokens.empty() && is_token(exchange.tokens.back()));
  const auto count = static_cast<std::int64_t>(exchange.items.size());
  const auto is_place = [&](const std::optional<std::int64_t>& value) { return value > 0 && value <= count; };
  switch (exchange.kind) {
    case Kind::give:
    case Kind::undo:
    case Kind::sweep:
      return exchange.results == 1 && rows == exchange.items.size() && all(is_flag);
    case Kind::take:
      return exchange.results == 1 && rows == exchange.items.size() &&
             all([&](const auto& value) { return site_.fencing ? !value || is_token(value) : is_flag(value); });
    case Kind::take_all:  // The number of the first that was refused, or NULL.
      return exchange.results == 1 && rows == 1 && (exchange.values[0] ? all(is_place) : token);
    case Kind::take_any:
      return exchange.results == 1 && rows <= 1 && (rows == 0 || token) && all(is_place);
    case Kind::wait:
      return exchange.results == 3 && rows == 1 && token;
    case Kind::after_slice:
      return exchange.results == 1 && rows == 1;
    case Kind::heartbeat:
      return exchange.results == 0;
    case Kind::question:
      return exchange.results == 1;
  }
  return false;
}

void Link::complete(Exchange exchange) {
  confirm(exchange);
  switch (exchange.kind) {
    case Kind::give:
      return complete_give(exchange);
    case Kind::take:
      return complete_take(exchange);
    case Kind::take_all:
    case Kind::take_any:
      return complete_group(exchange);
    case Kind::undo:
      return complete_undo(exchange);
    case Kind::sweep:
      return complete_sweep(exchange);
    case Kind::wait:
      return complete_wait(exchange);
    case Kind::after_slice:
      return complete_after_slice(exchange);
    case Kind::heartbeat:
      return;
    case Kind::question:
      if (exchange.then) exchange.then(exchange.error ? fail(*exchange.error) : Result<Rows>(std::move(exchange.rows)));
      return;
  }
}

void Link::confirm(const Exchange& exchange) {
  if (bounds_.validity == kNever || exchange.sent_boot <= confirmed_) return;
  confirmed_ = exchange.sent_boot;
  site_.sink->alive({number_, life_}, confirmed_ + bounds_.validity);
}

void Link::answer(Request& request, Answer answer, spi::Sink& sink) {
  request.answer = answer;
  sink.done(request);
}

void Link::grant(Request& request, const Exchange& exchange, std::int64_t value, Time at) {
  ++held_;
  if (request.mode == Mode::shared) held_shared_.insert(identity_of(request));
  request.seat = {number_, life_};
  request.since = at;
  request.valid_until = later(exchange.sent_boot, bounds_.validity);
  request.token = site_.fencing ? epoch_ << kSequenceBits | static_cast<std::uint64_t>(value) : 0;
  answer(request, Answer::granted, *site_.sink);
}

// Sends the exchange again: a release must not stay undone because somebody cancelled it. When that goes on for longer
// than a reply may take the connection is given up, which gives everything back.
void Link::resend(Exchange& exchange) {
  Exchange again{.kind = exchange.kind, .items = std::move(exchange.items)};
  again.first_sent = exchange.first_sent != Time{0} ? exchange.first_sent : exchange.sent;
  if (now() - again.first_sent >= site_.reply_timeout) {
    owed_.push_back(std::move(again));
    return drop(*exchange.error, false);
  }
  send(std::move(again));
  flush();
}

void Link::complete_give(Exchange& exchange) {
  if (exchange.error) {
    leave_to_takes(exchange);
    if (!exchange.items.empty()) resend(exchange);
    return;
  }
  for (std::size_t i = 0; i < exchange.items.size(); ++i) {
    // On a second attempt the first one may have given it back.
    const bool given = exchange.first_sent != Time{0} || (i < exchange.values.size() && exchange.values[i] == 1);
    if (held_ > 0) --held_;
    if (exchange.items[i].shared) held_shared_.erase(exchange.items[i].identity);
    if (Request* const request = exchange.items[i].request) {
      if (!given) request->error = Error(errc::not_released).with_native("pg_advisory_unlock returned false");
      answer(*request, given ? Answer::released : Answer::not_held, *site_.sink);
    } else if (!given && site_.log) {
      site_.log(LogLevel::warning, "postgres: a lock that was passed on was not held any more");
    }
  }
}

// Of releases that failed, and may have happened all the same: those that a take of the same key was sent behind must
// not be sent again, as they could release what it takes. Both are settled once the take is answered.
void Link::leave_to_takes(Exchange& gives) {
  for (Exchange& later : owed_) {
    if (later.kind != Kind::take) continue;
    for (const Item& take : later.items) {
      const auto same = std::find_if(gives.items.begin(), gives.items.end(),
                                     [&](const Item& give) { return give.identity == take.identity; });
      if (same == gives.items.end()) continue;
      later.unsure.push_back(*same);
      gives.items.erase(same);
    }
  }
}

// Takes those out of a take's items, and their answers, that stand behind an unsure release: they may be held twice,
// once or not at all, and a release each makes that none.
Link::Exchange Link::split_unsure(Exchange& takes) {
  Exchange sweep{.kind = Kind::sweep, .items = {}};
  for (const Item& give : takes.unsure) {
    const auto same = std::find_if(takes.items.begin(), takes.items.end(),
                                   [&](const Item& take) { return take.identity == give.identity; });
    const auto index = same - takes.items.begin();
    same->request->error = from_sqlstate(kCancelled, "the release before this lock was cancelled", "");
    sweep.items.push_back(give);
    sweep.items.push_back(*same);
    takes.items.erase(same);
    if (!takes.values.empty()) takes.values.erase(takes.values.begin() + index);
  }
  return sweep;
}

void Link::complete_sweep(Exchange& exchange) {
  if (exchange.error) return resend(exchange);
  for (std::size_t i = 0; i < exchange.items.size(); i += 2) {
    const Item& give = exchange.items[i];
    if (held_ > 0) --held_;
    if (give.shared) held_shared_.erase(give.identity);
    if (give.request) answer(*give.request, Answer::released, *site_.sink);
    answer(*exchange.items[i + 1].request, Answer::failed, *site_.sink);
  }
}

void Link::complete_take(Exchange& exchange) {
  const bool unsure = !exchange.unsure.empty();
  if (unsure) send(split_unsure(exchange));
  if (exchange.error && !exchange.items.empty()) return undo(exchange);
  const Time at = now();
  for (std::size_t i = 0; i < exchange.items.size(); ++i) {
    Request& request = *exchange.items[i].request;
    const auto value = i < exchange.values.size() ? exchange.values[i] : std::nullopt;
    if (value.value_or(0) > 0) {
      grant(request, exchange, *value, at);
    } else {
      answer(request, Answer::refused, *site_.sink);
    }
  }
  if (unsure) flush();
}

void Link::complete_group(Exchange& exchange) {
  if (exchange.error) return undo(exchange);
  const std::size_t count = exchange.items.size();
  const auto& values = exchange.values;
  const bool any = exchange.kind == Kind::take_any;
  const bool all = !any && !values.empty() && !values[0];  // No number of a refused one.
  const std::int64_t token = exchange.tokens.empty() ? 0 : exchange.tokens[0].value_or(0);
  const Time at = now();
  for (std::size_t i = 0; i < count; ++i) {
    Request& request = *exchange.items[i].request;
    const bool first = any && !values.empty() && values[0] == static_cast<std::int64_t>(i) + 1;
    if (all || first) {
      grant(request, exchange, token, at);
    } else {
      answer(request, Answer::refused, *site_.sink);
    }
  }
}

// A take failed: what it had taken before stays, so all its keys are given back. None of them was held before.
void Link::undo(Exchange& exchange) {
  for (const Item& item : exchange.items) item.request->error = *exchange.error;
  send({.kind = Kind::undo, .items = std::move(exchange.items)});
  flush();
}

void Link::complete_undo(Exchange& exchange) {
  if (exchange.error) return resend(exchange);
  for (const Item& item : exchange.items) answer(*item.request, Answer::failed, *site_.sink);
}

void Link::complete_wait(Exchange& exchange) {
  Request& request = *exchange.items[0].request;
  if (exchange.error) {
    // At the end of the slice nothing is held: the message was one transaction. Behind other errors something may be.
    request.error = *exchange.error;
    send({.kind = Kind::after_slice, .items = std::move(exchange.items)});
    return flush();
  }
  grant(request, exchange, exchange.tokens.empty() ? 0 : exchange.tokens.back().value_or(0), now());
  if (bounds_.heartbeat != kNever) heartbeat();  // The message was sent long ago.
}

void Link::complete_after_slice(Exchange& exchange) {
  if (exchange.error) return resend(exchange);
  Request& request = *exchange.items[0].request;
  const std::string_view why = request.error.native();
  // Only of a session that holds something while it waits can the server tell a cycle; a waiter was in the way of
  // CREATE INDEX CONCURRENTLY.
  const bool cycle = why == kDeadlock && held_ != 0;
  if (why == kLockTimeout || (why == kDeadlock && !cycle) || why == kCancelled) {
    site_.slice_over(request, exchange.values.empty() ? 0 : exchange.values[0].value_or(0));
    answer(request, Answer::refused, *site_.sink);
  } else {
    answer(request, Answer::failed, *site_.sink);
  }
}

// ---- who receives

bool Link::collect(Time until) {
  Lock lock(mutex_);
  // Waits before it reads: the answer to what was just sent is not there yet.
  for (bool waited = now() >= until;; waited = true) {
    if (!connection_ || owed_.empty()) return true;
    flush();
    if (waited && connection_) receive(false);
    if (!connection_ || owed_.empty()) return true;
    const Time at = now();
    if (waited && at >= owed_.front().due) {
      drop_overdue();
      return true;
    }
    if (waited && at >= until) return false;
    const Time stop = std::min(until, owed_.front().due);
    const std::shared_ptr<Connection> connection = connection_;
    const short events = static_cast<short>(POLLIN | (connection->has_unsent() ? POLLOUT : 0));
    collecting_ = true;
    lock.unlock();
    wait_for(connection->fd(), events, {site_.runtime, stop});
    lock.lock();
    collecting_ = false;
  }
}

Link::Watch Link::watch(Time at) {
  Lock lock(mutex_);
  Watch watch{.connection = connection_};
  if (!connection_) return watch;
  const bool muted = at < muted_until_;
  watch.events = static_cast<short>(POLLRDHUP | (muted ? 0 : POLLIN));
  if (!collecting_ && connection_->has_unsent()) watch.events = static_cast<short>(watch.events | POLLOUT);
  if (muted) watch.due = muted_until_;
  if (!owed_.empty()) watch.due = std::min(watch.due, owed_.front().due);
  if (owed_.empty()) watch.due = std::min(watch.due, later(last_sent_, bounds_.heartbeat));
  return watch;
}

void Link::ready(const Watch& watch, short events) {
  Lock lock(mutex_);
  if (!connection_ || connection_ != watch.connection) return;
  const bool closing = (events & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  if (collecting_ && !closing) {
    muted_until_ = now() + kMute;
    return;
  }
  flush();
  if (connection_) receive(closing);
  if (!waits_) muted_until_ = now() + kMute;
}

void Link::tend(Time at) {
  Lock lock(mutex_);
  if (!connection_) return;
  if (overdue() && !collecting_) {
    receive(false);  // We may have been the ones who slept.
    if (connection_ && overdue()) return drop_overdue();
  }
  if (connection_ && owed_.empty() && at >= later(last_sent_, bounds_.heartbeat)) heartbeat();
}

}  // namespace lockr::postgres
