// What a Redis server says: any bytes, in any pieces, to each part of the backend that reads them. Nothing crashes;
// each request is answered once, with an error that is in the taxonomy; and nothing is granted, given back or renewed
// but by the reply to the very command that asked for it. A stream that went wrong is over.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/redis/census.h"
#include "backends/redis/ear.h"
#include "backends/redis/errors.h"
#include "backends/redis/handshake.h"
#include "backends/redis/lane.h"
#include "backends/redis/waiting.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"
#include "tests/support/redis_wire.h"

namespace lockr::fuzz {
namespace {

using redis::Reply;
using redis::Script;
using spi::Answer;
using spi::Op;
using spi::Request;
using testing::keys_of;
using testing::RedisCommand;
using testing::RedisWire;
using testing::script_of;

constexpr std::array kErrorReplies{
    "-NOSCRIPT No matching script.",
    "-OOM command not allowed",
    "-READONLY You can't write",
    "-LOADING Redis is loading",
    "-BUSY Redis is busy",
    "-MISCONF Redis is configured to save",
    "-NOPERM this user has no",
    "-NOAUTH Authentication",
    "-CLUSTERDOWN Hash slot",
    "-WRONGTYPE Operation",
    "-ERR unknown command",
    "-MASTERDOWN Link with MASTER",
    "-ERR max number of clients \x01x",
    "-",
};
constexpr std::array<const char*, 4> kKeys{"a", "b", "c", "d:e"};

bool within(const redisReply& item, long long least, long long most) {
  return item.type == REDIS_REPLY_INTEGER && item.integer >= least && item.integer <= most;
}

bool is_done(const redisReply& reply) { return reply.type == REDIS_REPLY_STATUS && redis::text_of(reply) == "OK"; }

/// The same promise as the backend's, said once more: what the reply to a command looks like.
bool is_answer(const RedisCommand& command, const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) return true;
  if (command[0] == "SET") return is_done(reply) || reply.type == REDIS_REPLY_NIL;
  if (command[0] == "INCRBY") return within(reply, -(1LL << 53), 1LL << 53);
  const auto script = script_of(command);
  if (!script) return true;
  if (*script == Script::release_one) return within(reply, 0, 1);
  if (*script == Script::take_all) {
    return within(reply, 0, 0) || within(reply, static_cast<long long>(keys_of(command)) - 1, 1LL << 53);
  }
  if (*script == Script::leave) return within(reply, 1, 1);
  const std::size_t keys = keys_of(command);
  if (reply.type != REDIS_REPLY_ARRAY) return false;
  if (*script == Script::renew ? reply.elements == 0 : reply.elements != keys / 2) return false;
  for (std::size_t i = 0; i < reply.elements; ++i) {
    const redisReply& item = *reply.element[i];
    const bool text = item.type == REDIS_REPLY_STRING;
    if (*script == Script::take && !text && !within(item, -(1LL << 53), 1LL << 53)) return false;
    if (*script == Script::release && !within(item, 0, 1)) return false;
    if (*script == Script::renew && !within(item, 1, i == 0 ? (1LL << 33) * 1000 : static_cast<long long>(keys))) {
      return false;
    }
  }
  return true;
}

/// One connection, as the server sees it: what was asked, and what the client has been told, read in one piece.
class Line {
 public:
  std::shared_ptr<redis::Connection> connect(redis::Sockets& sockets) {
    ++life_;
    wire_ = std::make_unique<RedisWire>();
    reader_.reset(redisReaderCreate());
    replies_.clear();
    commands_.clear();
    judged_ = 0;
    misfit_ = demoted_ = over_ = false;
    return std::make_shared<redis::Connection>(wire_->stream(sockets));
  }

  void say(std::string_view bytes) {
    hear();
    if (over_) return;
    wire_->say(bytes);
    redisReaderFeed(reader_.get(), bytes.data(), bytes.size());
    read();
  }
  void hang_up() {
    wire_->hang_up();
    over_ = true;
  }
  void hear() {
    for (RedisCommand& each : wire_->hear()) commands_.push_back(std::move(each));
    judge();
  }

  /// The next command that has no reply yet; null: there is none.
  const RedisCommand* unanswered() {
    hear();
    return replies_.size() < commands_.size() ? &commands_[replies_.size()] : nullptr;
  }
  std::size_t asked() const { return commands_.size(); }
  /// Which connection this is; commands are counted anew with each.
  std::size_t life() const { return life_; }
  /// The client must have given this connection up: what it read is no reply, or not the one that it is owed.
  bool over() const { return over_ || replies_.size() > commands_.size(); }

  /// Calls `visit` with each command that has its answer.
  template <class Visit>
  void answers(Visit visit) const {
    for (std::size_t i = 0; i < judged_; ++i) visit(i, commands_[i], *replies_[i]);
  }

 private:
  void read() {
    while (!over_) {
      void* object = nullptr;
      if (redisReaderGetReply(reader_.get(), &object) != REDIS_OK) {
        over_ = true;
        return;
      }
      if (!object) return;
      replies_.emplace_back(static_cast<redisReply*>(object), freeReplyObject);
    }
    judge();
  }
  // The first reply is to the first command, and so on.
  void judge() {
    for (; !misfit_ && judged_ < std::min(replies_.size(), commands_.size()); ++judged_) {
      const redisReply& reply = *replies_[judged_];
      misfit_ = !is_answer(commands_[judged_], reply);
      // Where writes are refused for good the connection is given up as well, once all that was asked with it is
      // answered.
      demoted_ = demoted_ || (reply.type == REDIS_REPLY_ERROR && redis::is_demoted(redis::text_of(reply)));
      over_ = over_ || misfit_ || (demoted_ && commands_[judged_][0] != "SET");
      if (misfit_) return;
    }
  }

  std::unique_ptr<RedisWire> wire_;
  std::unique_ptr<redisReader, void (*)(redisReader*)> reader_{nullptr, redisReaderFree};
  std::deque<RedisCommand> commands_;
  std::deque<Reply> replies_;
  std::size_t life_ = 0;
  std::size_t judged_ = 0;  // Pairs of a command and its answer.
  bool misfit_ = false;
  bool demoted_ = false;
  bool over_ = false;
};

/// A connection to be fed: a lane's or the service thread's.
struct Side {
  Line line;
  std::unique_ptr<redis::Link> link;
};

class Play {
 public:
  explicit Play(Input& input) : input_(input) {
    options_.margin = options_.ttl / 4;
    options_.lanes = 1;
    site_.sink = &core_;
    site_.wake = [] {};
    site_.log = [](LogLevel, std::string_view) {};
    for (Side* side : {&lane_side_, &service_}) {
      side->link = std::make_unique<redis::Link>(runtime_, std::chrono::seconds(3), [] {});
      side->link->attach(side->line.connect(sockets_));
    }
    upkeep_.emplace(site_, *service_.link);
    lane_.emplace(std::uint16_t{0}, site_, *lane_side_.link, *upkeep_);
    waiting_.emplace(site_, *service_.link, *upkeep_);
  }

  void run() {
    while (!input_.empty()) {
      step();
      receive();
      check();
    }
    end();
  }

 private:
  struct Asked {
    Request* request;
    Side* side;
    std::size_t from;  // Commands that had been sent before, on the connection of that life.
    std::size_t life;  // A wait outlives it.
    bool waits;
  };

  void step() {
    switch (input_.below(10)) {
      case 0:
        return take(1);
      case 1:
        return take(1 + input_.below(kKeys.size()));
      case 2:
        return release();
      case 3:
        return wait();
      case 4:
        return stop_wait();
      case 5:
        runtime_.advance(std::chrono::milliseconds(std::array{1, 100, 1000, 4000}[input_.below(4)]));
        upkeep_->run(runtime_.steady_now());
        waiting_->run(runtime_.steady_now());
        return;
      case 6:
        return speak(lane_side_);
      case 7:
        return speak(service_);
      case 8:
        return waiting_->named(kKeys[input_.below(kKeys.size())]);
      default:
        return mend(input_.below(2) == 0 ? lane_side_ : service_);
    }
  }

  // ---- what the backend is asked

  bool busy(const char* key) const {
    return std::any_of(asked_.begin(), asked_.end(),
                       [&](const Asked& each) { return each.request->key->string() == key; }) ||
           std::any_of(held_.begin(), held_.end(), [&](const Request* each) { return each->key->string() == key; });
  }
  Mode mode() { return input_.below(2) == 0 ? Mode::exclusive : Mode::shared; }
  void note(Request& request, Side& side, bool waits) {
    side.line.hear();
    asked_.push_back({&request, &side, side.line.asked(), side.line.life(), waits});
  }

  void take(std::size_t count) {
    std::vector<Request*> batch;
    const std::uint32_t group = input_.below(2) == 0 ? 0 : 1;
    for (std::size_t i = 0; i < count; ++i) {
      if (busy(kKeys[i])) continue;
      Request& request = core_.request(Op::take, kKeys[i], mode());
      request.group = group;
      note(request, lane_side_, false);
      batch.push_back(&request);
    }
    if (!batch.empty()) lane_->submit(batch);
  }
  void release() {
    if (held_.empty()) return;
    Request& request = core_.request(Op::give_back, *held_.back());
    held_.pop_back();
    note(request, lane_side_, false);
    Request* const batch[] = {&request};
    lane_->submit(batch);
  }
  void wait() {
    const char* const key = kKeys[input_.below(kKeys.size())];
    if (busy(key)) return;
    Request& request = core_.request(Op::take, key, mode());
    note(request, service_, true);
    waiting_->start(request);
  }
  void stop_wait() {
    for (const Asked& each : asked_) {
      if (each.waits) return waiting_->stop(*each.request);
    }
  }

  // ---- what the server says

  void speak(Side& side) {
    const RedisCommand* const command = side.line.unanswered();
    std::string bytes;
    switch (input_.below(8)) {
      case 0:
        bytes = std::string(input_.take(1 + input_.below(64)));
        break;
      case 1:
        bytes = std::string(kErrorReplies[input_.below(kErrorReplies.size())]) + "\r\n";
        break;
      case 2:
        return side.line.hang_up();
      default:
        if (command) bytes = good_reply(*command);
    }
    if (input_.below(8) == 0) spoil(bytes);
    // In pieces, and the client looks after each.
    while (!bytes.empty()) {
      const std::size_t piece = std::min<std::size_t>(bytes.size(), 1 + input_.below(255));
      side.line.say(std::string_view(bytes).substr(0, piece));
      bytes.erase(0, piece);
      receive();
    }
  }
  void spoil(std::string& bytes) {
    if (bytes.empty()) return;
    const std::size_t at = input_.byte() % bytes.size();
    if (input_.below(2) == 0) {
      bytes[at] = static_cast<char>(input_.byte());
    } else {
      bytes.erase(at);
    }
  }

  std::string number() {
    constexpr std::array<const char*, 8> kNumbers{
        "0", "1", "-1", "-5001", "1700000000000001", "9007199254740993", "-9223372036854775808", "9223372036854775807"};
    return ":" + std::string(kNumbers[input_.below(kNumbers.size())]) + "\r\n";
  }
  /// Of the form that the command wants; what it says is up to the input.
  std::string good_reply(const RedisCommand& command) {
    if (command[0] == "SET" && input_.below(2) == 0) return "$-1\r\n";
    if (command[0] == "INCRBY") return number();
    const auto script = script_of(command);
    if (!script) return "+OK\r\n";
    if (*script == Script::leave) return ":1\r\n";
    if (*script == Script::release_one) return ":" + std::to_string(input_.below(2)) + "\r\n";
    if (*script == Script::take_all) return number();
    std::size_t count = keys_of(command) / 2;
    std::string items;
    if (*script == Script::renew) {
      items = ":1700000000000\r\n";
      count = 1 + input_.below(3);
      for (std::size_t i = 1; i < count; ++i) items += ":" + std::to_string(input_.below(5)) + "\r\n";
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        items += *script == Script::release ? ":" + std::to_string(input_.below(2)) + "\r\n"
                 : input_.below(8) == 0     ? "$16\r\nWRONGTYPE lockr:l\r\n"
                                            : number();
      }
    }
    if (input_.below(16) == 0) ++count;
    return "*" + std::to_string(count) + "\r\n" + items;
  }

  void receive() {
    lane_side_.link->collect(runtime_.steady_now());
    for (Side* side : {&lane_side_, &service_}) {
      side->link->receive();
      side->link->tend(runtime_.steady_now());
    }
  }
  void mend(Side& side) {
    if (side.link->is_up()) return;
    finish(side);
    side.link->attach(side.line.connect(sockets_));
  }

  // ---- what must hold

  /// Whether a reply granted, or took back, what this request asked for.
  bool backed(const Asked& asked) const {
    const std::string lock = "lockr:l:" + std::string(asked.request->key->string());
    const Script script = asked.request->op == Op::take ? Script::take : Script::release;
    const std::size_t from = asked.life == asked.side->line.life() ? asked.from : 0;
    bool found = false;
    asked.side->line.answers([&](std::size_t number, const RedisCommand& command, const redisReply& reply) {
      if (number < from) return;
      if (command[0] == "SET" && command[1] == lock) found |= script == Script::take && is_done(reply);
      if (script_of(command) == Script::take_all) {
        const auto locks = command.begin() + 4;
        const bool asked_for = std::find(locks, locks + static_cast<std::ptrdiff_t>(keys_of(command)) - 1, lock) !=
                               locks + static_cast<std::ptrdiff_t>(keys_of(command)) - 1;
        found |= script == Script::take && asked_for && within(reply, 1, 1LL << 53);
      }
      if (script_of(command) == Script::release_one && command[3] == lock) {
        found |= script == Script::release && within(reply, 1, 1);
      }
      if (script_of(command) != script || reply.type != REDIS_REPLY_ARRAY) return;
      const std::size_t first = script == Script::take ? 1 : 0;
      for (std::size_t i = 0; 2 * i + first < keys_of(command); ++i) {
        if (command[3 + first + 2 * i] == lock) found |= within(*reply.element[i], 1, 1LL << 53);
      }
    });
    return found;
  }

  void check() {
    for (Side* side : {&lane_side_, &service_}) {
      side->line.hear();
      if (side->line.over()) expect(!side->link->is_up(), "a stream that went wrong is given up");
    }
    std::erase_if(asked_, [&](const Asked& asked) {
      const Request& request = *asked.request;
      expect(core_.answers(request) <= 1, "a request is answered once");
      if (core_.answers(request) == 0) return false;
      check_answer(asked);
      return true;
    });
    check_renewals();
  }

  void check_answer(const Asked& asked) {
    Request& request = *asked.request;
    const bool take = request.op == Op::take;
    switch (request.answer) {
      case Answer::granted:
        expect(take && backed(asked), "what is granted was granted by the reply to its command");
        expect(request.token < std::uint64_t{1} << 53, "a token fits");
        expect(request.valid_until <= runtime_.boot_now() + options_.ttl - options_.margin, "validity is the lease's");
        held_.push_back(&request);
        return;
      case Answer::released:
        expect(!take && backed(asked), "what is given back was so by the reply to its command");
        return;
      case Answer::refused:
        return expect(take, "a release is not refused");
      case Answer::not_held:
        return expect(!take, "a take is not answered as a release");
      case Answer::unknown:
        expect(request.ask_again > Time{0}, "an unknown outcome says when it may be asked again");
        [[fallthrough]];
      case Answer::failed:
        return check_error(request.error);
      case Answer::pending:
        expect(false, "an answer says something");
    }
  }
  static void check_error(const Error& error) {
    expect_sentence(error);
    const errc code = error.code();
    expect(code == errc::connection_lost || code == errc::access_denied || code == errc::capacity ||
               code == errc::backend_failure || code == errc::unsupported || code == errc::invalid_config,
           "an error is in the taxonomy");
  }

  void check_renewals() {
    std::size_t renewals = earlier_renewals_;
    service_.line.answers([&](std::size_t, const RedisCommand& command, const redisReply& reply) {
      renewals += script_of(command) == Script::renew && reply.type == REDIS_REPLY_ARRAY ? 1 : 0;
    });
    expect(core_.alives.size() <= renewals, "nothing is renewed but by the reply to its command");
    for (const auto& alive : core_.alives) {
      expect(alive.valid_until <= runtime_.boot_now() + options_.ttl - options_.margin, "a renewal is for a lease");
    }
    for (const auto& loss : core_.losses) {
      std::erase_if(held_, [&](const Request* each) { return each->key->string() == loss.key; });
    }
    core_.losses.clear();
  }

  void finish(Side& side) {
    if (&side != &service_) return;
    side.line.answers([&](std::size_t, const RedisCommand& command, const redisReply& reply) {
      earlier_renewals_ += script_of(command) == Script::renew && reply.type == REDIS_REPLY_ARRAY ? 1 : 0;
    });
  }

  /// The connections end: whatever was asked of them is answered.
  void end() {
    for (Side* side : {&lane_side_, &service_}) side->line.hang_up();
    receive();
    while (std::any_of(asked_.begin(), asked_.end(), [](const Asked& each) { return each.waits; })) {
      stop_wait();
      check();
    }
    check();
    expect(asked_.empty(), "every request is answered");
  }

  using Time = spi::Time;
  Input& input_;
  testing::ManualRuntime runtime_;
  testing::FakeCore core_;
  redis::Options options_;
  redis::Sockets sockets_;
  redis::Names names_{"lockr:", runtime_};
  redis::Leases leases_{runtime_};
  redis::Site site_{.runtime = runtime_, .options = options_, .names = names_, .leases = leases_};
  Side lane_side_, service_;
  std::optional<redis::Upkeep> upkeep_;
  std::optional<redis::Lane> lane_;
  std::optional<redis::Waiting> waiting_;
  std::vector<Asked> asked_;
  std::vector<Request*> held_;
  std::size_t earlier_renewals_ = 0;
};

/// The bytes of a server that greets us, then hangs up.
void check_greeting(Input& input) {
  testing::ManualRuntime runtime;
  redis::Sockets sockets;
  RedisWire wire;
  redis::Options options;
  if (input.below(2) == 0) options.password = "a-secret-word";
  const redis::Greeting greeting{.client_name = "fuzz", .reply_timeout = std::chrono::seconds(3)};
  wire.say(input.rest().substr(0, 8192));
  auto stream = wire.stream(sockets);
  wire.finish();
  const auto session =
      redis::greet(std::move(stream), options, greeting, {runtime, runtime.steady_now() + std::chrono::seconds(1)});
  if (session) {
    expect(!session->run_id.empty() && session->microseconds >= 0, "a server that is accepted says who it is");
    return;
  }
  expect_sentence(session.error());
  expect(session.error().message().find("a-secret-word") == std::string::npos, "a password stands in no error");
}

/// The bytes of a subscription.
void check_ear(Input& input) {
  testing::ManualRuntime runtime;
  redis::Sockets sockets;
  RedisWire wire;
  bool down = false;
  redis::Ear ear([](std::string_view) {}, [&] { down = true; });
  wire.say("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
  const auto attached = ear.attach(std::make_shared<redis::Connection>(wire.stream(sockets)), "c",
                                   {runtime, runtime.steady_now() + std::chrono::seconds(1)});
  expect(attached.has_value(), "a subscription that is confirmed is one");
  while (!input.empty() && !down) {
    wire.say(input.take(1 + input.below(64)));
    ear.receive();
  }
  wire.hang_up();
  ear.receive();
  expect(down && !ear.connection(), "an ear that hears no more says so");
}

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::Input input(data, size);
  switch (input.below(4)) {
    case 0:
      lockr::fuzz::check_greeting(input);
      break;
    case 1:
      lockr::fuzz::check_ear(input);
      break;
    default:
      lockr::fuzz::Play(input).run();
  }
  return 0;
}
