// What a PostgreSQL server says, to libpq and to each part of the backend that reads what libpq makes of it: greetings,
// answers of other kinds than expected, errors, notices, NULL, absent fields, an early end. Nothing crashes or goes
// round for ever; each request is answered once, with an error that is in the taxonomy; and nothing is granted but by
// the answer to the very message that asked for it. A connection on which something else arrives is given up.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backends/postgres/census.h"
#include "backends/postgres/errors.h"
#include "backends/postgres/link.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/fake_core.h"
#include "tests/support/manual_runtime.h"
#include "tests/support/postgres_wire.h"

namespace lockr::fuzz {
namespace {

using postgres::Link;
using spi::Answer;
using spi::Op;
using spi::Request;
using spi::Time;
using testing::PostgresEar;
using testing::PostgresQuestion;
using testing::PostgresWire;
using testing::PostgresWords;

constexpr std::array<const char*, 4> kKeys{"a", "b", "c", "d:e"};
constexpr std::array kStates{"55P03", "57014", "40P01", "53200", "57P01", "42501", "XX000", "08006", "", "57P0"};

PostgresWire& wire() {
  static PostgresWire one;
  return one;
}

void check_error(const Error& error) {
  expect_sentence(error);
  const errc code = error.code();
  expect(code == errc::connection_lost || code == errc::access_denied || code == errc::capacity ||
             code == errc::backend_failure || code == errc::deadlock || code == errc::unsafe_setup ||
             code == errc::invalid_config || code == errc::unsupported,
         "an error is in the taxonomy");
}

/// One message of no particular sense, or bytes that are none.
void babble(Input& input, PostgresWords& words) {
  constexpr std::array<std::string_view, 10> kValues{
      "t", "f", "1", "0", "15.18", "4711", "", "\1", std::string_view("\0\0\0\0\0\0\0\2", 8), "\xff\xff\xff\xff"};
  switch (input.below(14)) {
    case 0:
      words.columns(input.below(5), input.below(2) == 0);
      return;
    case 1: {
      std::vector<PostgresWords::Value> row(input.below(5));
      for (auto& each : row) {
        if (const std::size_t value = input.below(kValues.size() + 1); value < kValues.size()) each = kValues[value];
      }
      words.row(row);
      return;
    }
    case 2:
      words.done();
      return;
    case 3:
      words.error(kStates[input.below(kStates.size())], input.below(2) == 0 ? 'E' : 'N');
      return;
    case 4:
      words.message('E', input.take(input.below(32)));
      return;
    case 5:
      words.message("12ns3tI"[input.below(7)], "");
      return;
    case 6:
      words.message("HGW"[input.below(3)], std::string_view("\0\0\0", 3));
      return;
    case 7:
      words.message('S', std::string_view("in_hot_standby\0on\0", 18));
      return;
    case 8:
      words.message('A', std::string(4, '\0') + "lockr_who" + '\0' + std::string(input.take(input.below(40))) + '\0');
      return;
    case 9:
      words.ready();
      return;
    case 10:
      words.message('K', std::string(8, '\1'));
      return;
    default:
      words.message(static_cast<char>(input.byte()), input.take(input.below(24)));
  }
}

// ---- the start of a connection

/// Plays the server on a thread of its own while the fuzzer's waits for it.
class Server {
 public:
  Server() : thread_([this] { run(); }) { thread_.detach(); }

  void serve(std::function<void(int fd)> with) {
    const std::lock_guard lock(mutex_);
    with_ = std::move(with);
    changed_.notify_all();
  }
  /// Until the connection is over.
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !with_; });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return static_cast<bool>(with_); });
      lock.unlock();
      const int fd = wire().accept();
      with_(fd);
      ::shutdown(fd, SHUT_WR);
      PostgresEar ear;
      while (PostgresWire::hear(fd, ear, true)) {
      }
      ::close(fd);
      lock.lock();
      with_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void(int)> with_;
  std::thread thread_;
};

/// What a server of ours answers while a session is set up.
std::string good_answer(const PostgresQuestion& question) {
  PostgresWords words;
  for (std::size_t i = 0; i < question.prepared; ++i) words.message('1', "");
  for (const auto& each : question.statements) {
    const auto has = [&](const char* text) { return each.sql.find(text) != std::string::npos; };
    words.message('1', "");
    if (has("pg_is_in_recovery")) {
      words.answer({{"f", "77", "15.18", "d", "5"}}, 5, false);
    } else if (has("SELECT n, v, setting")) {
      words.answer({}, 3, false);
    } else if (has("pg_sequence")) {
      words.answer({{"1", "1", "f", "t", "u", "lockr.fencing_leap()"}}, 6, false);
    } else if (has("fencing_leap")) {
      words.answer({{"1", "1"}}, 2, false);
    } else if (has("LISTEN")) {
      words.message('2', "").message('n', "").done();
    } else {
      words.answer({{"1"}}, 1, false);
    }
  }
  return words.ready().bytes();
}

void answer_all(int fd, Input& input) {
  PostgresEar ear;
  while (!ear.take_startup()) {
    if (!PostgresWire::hear(fd, ear, true)) return;
  }
  if (input.below(4) == 0) {
    PostgresWords words;
    for (std::size_t i = 0; i <= input.below(4); ++i) babble(input, words);
    PostgresWire::say(fd, words.bytes());
    return;
  }
  PostgresWire::say(fd, PostgresWire::greeting());
  while (PostgresWire::hear(fd, ear, true)) {
    while (const auto question = ear.next()) {
      if (input.below(6) != 1) {
        PostgresWire::say(fd, good_answer(*question));
        continue;
      }
      PostgresWords words;
      for (std::size_t i = 0; i <= input.below(6); ++i) babble(input, words);
      PostgresWire::say(fd, words.bytes());
      if (input.below(2) == 0) return;
      PostgresWire::say(fd, PostgresWords().ready().bytes());
    }
  }
}

void check_session(Input& input) {
  static auto& server = *new Server;
  testing::ManualRuntime runtime;
  postgres::Sockets sockets;
  postgres::Demands demands{.fencing = input.below(2) == 0, .pooler = postgres::Pooler::accept};
  if (input.below(2) == 0) demands.channel = "lockr_who";
  if (input.below(2) == 0) demands.session_ttl = std::chrono::seconds(10);
  server.serve([&input](int fd) { answer_all(fd, input); });
  {
    const postgres::Target target{.dsn = wire().dsn() + " password=a-secret-word", .application_name = "fuzz"};
    auto session = postgres::make_session(target, demands, sockets, {runtime, runtime.steady_now() + Time(50'000'000)});
    if (session) {
      expect(session->connection && (session->epoch != 0) == demands.fencing, "a session knows its timeline");
    } else {
      check_error(session.error());
      expect(session.error().message().find("a-secret-word") == std::string::npos, "a password stands in no error");
    }
  }
  server.wait();
}

// ---- a connection in use

/// One connection as the server sees it.
class Line {
 public:
  ~Line() { close(); }

  std::shared_ptr<postgres::Connection> connect(postgres::Sockets& sockets) {
    close();
    auto [connection, fd] = wire().connect(sockets);
    fd_ = fd;
    questions_.clear();
    answers_.assign(1, {});
    rest_.clear();
    ear_ = PostgresEar();
    garbled_ = false;
    return std::move(connection);
  }
  void say(std::string_view bytes) {
    PostgresWire::say(fd_, bytes);
    rest_ += bytes;
    read();
  }
  void hang_up() {
    ::shutdown(fd_, SHUT_RDWR);
    hung_up_ = true;
  }
  void hear() {
    PostgresWire::hear(fd_, ear_, false);
    while (auto question = ear_.next()) questions_.push_back(*std::move(question));
  }
  const PostgresQuestion* unanswered() {
    hear();
    return answers_.size() - 1 < questions_.size() ? &questions_[answers_.size() - 1] : nullptr;
  }
  std::size_t asked() const { return questions_.size(); }
  bool hung_up() const { return hung_up_; }

  struct Answers {
    std::vector<std::optional<std::string>> first_columns;
    std::size_t width = 0;
    std::size_t statements = 0;
    bool error = false;
    bool strange = false;  // What libpq makes of it is its own affair.
  };
  template <class Visit>
  void visit(Visit visit) const {
    for (std::size_t i = 0; i + 1 < answers_.size() && i < questions_.size(); ++i) visit(i, questions_[i], answers_[i]);
  }

 private:
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
    hung_up_ = false;
  }
  static std::size_t number(std::string_view bytes, std::size_t at, int size) {
    std::size_t value = 0;
    for (int i = 0; i < size; ++i)
      value = value << 8 | static_cast<unsigned char>(bytes[at + static_cast<unsigned>(i)]);
    return value;
  }
  // Messages, up to the first that is none.
  void read() {
    while (!garbled_ && rest_.size() >= 5) {
      const std::size_t size = number(rest_, 1, 4);
      garbled_ = size < 4 || size > 4096;
      if (garbled_ || rest_.size() <= size) return;
      take(rest_[0], rest_.substr(5, size - 4));
      rest_.erase(0, size + 1);
    }
  }
  void take(char type, const std::string& body) {
    Answers& answers = answers_.back();
    switch (type) {
      case 'Z':
        answers_.emplace_back();
        return;
      case 'T':
        answers.width = body.size() < 2 ? 0 : number(body, 0, 2);
        return;
      case 'D':
        if (body.size() < 6) {
          answers.strange = true;
        } else {
          const std::size_t length = number(body, 2, 4);
          answers.first_columns.push_back(length == 0xffffffff ? std::nullopt : std::optional(body.substr(6, length)));
        }
        return;
      case 'C':
        ++answers.statements;
        return;
      case 'E':
        answers.error = true;
        return;
      case '2':
      case 'N':
      case 'S':
      case 'A':
        return;
      default:
        answers.strange = true;
    }
  }

  int fd_ = -1;
  bool hung_up_ = false;
  bool garbled_ = false;
  PostgresEar ear_;
  std::deque<PostgresQuestion> questions_;
  std::deque<Answers> answers_{1};  // The last one goes on.
  std::string rest_;
};

struct Side {
  Line line;
  std::unique_ptr<Link> link;
};

class Play {
 public:
  explicit Play(Input& input) : input_(input) {
    site_.sink = &core_;
    site_.reply_timeout = std::chrono::seconds(3);
    site_.fencing = input_.below(2) == 0;
    if (input_.below(2) == 0) {
      bounds_ = {.server = std::chrono::seconds(15),
                 .validity = std::chrono::seconds(14),
                 .heartbeat = std::chrono::seconds(3)};
    }
    site_.log = [](LogLevel, std::string_view) {};
    site_.down = [](std::uint16_t) {};
    site_.slice_over = [this](Request& request, std::int64_t) { request.ask_again = runtime_.steady_now(); };
    site_.notified = [this](std::string_view payload) { return census_.hear(payload, {77}); };
    for (std::size_t i = 0; i < sides_.size(); ++i) {
      sides_[i].link = std::make_unique<Link>(static_cast<std::uint16_t>(i), i == 1, site_);
      attach(sides_[i]);
    }
  }

  void run() {
    while (!input_.empty()) {
      step();
      receive();
      check();
    }
    for (Side& side : sides_) side.line.hang_up();
    receive();
    check();
    expect(asked_.empty(), "every request is answered");
    for (Side& side : sides_) side.link->close();
  }

 private:
  struct Asked {
    Request* request;
    Side* side;
    std::size_t from;  // Questions that had been asked before.
  };

  void attach(Side& side) {
    side.link->attach({.connection = side.line.connect(sockets_), .bounds = bounds_, .epoch = 1});
  }

  void step() {
    Side& side = sides_[input_.below(2)];
    switch (input_.below(10)) {
      case 0:
        return take(sides_[0], 1);
      case 1:
        return take(sides_[0], 1 + input_.below(kKeys.size()));
      case 2:
        return release();
      case 3:
        return wait();
      case 4:
        if (const Request* request = waiting()) sides_[1].link->stop_wait(*request);
        return;
      case 5:
        runtime_.advance(std::chrono::milliseconds(std::array{1, 100, 1000, 4000}[input_.below(4)]));
        return;
      case 6:
        return side.link->ask("SELECT who", 2, [](const Result<Link::Rows>& rows) {
          if (!rows) return check_error(rows.error());
          for (const Link::Row& row : *rows) expect(row.size() == 2, "a row has the columns that were asked for");
        });
      case 7:
        if (!side.link->watch(runtime_.steady_now()).connection) attach(side);
        return;
      default:
        return speak(side);
    }
  }

  // ---- what the backend is asked

  bool busy(const char* key) const {
    const auto same = [&](const Request* each) { return each->key->string() == key; };
    return std::any_of(asked_.begin(), asked_.end(), [&](const Asked& each) { return same(each.request); }) ||
           std::any_of(held_.begin(), held_.end(), same);
  }
  Mode mode() { return input_.below(2) == 0 ? Mode::exclusive : Mode::shared; }
  void note(Request& request, Side& side) {
    side.line.hear();
    asked_.push_back({&request, &side, side.line.asked()});
  }
  void take(Side& side, std::size_t count) {
    std::vector<Request*> batch;
    const std::size_t kind = input_.below(3);
    for (std::size_t i = 0; i < count; ++i) {
      if (busy(kKeys[i])) continue;
      Request& request = core_.request(Op::take, kKeys[i], mode());
      request.group = kind == 0 ? 0 : 1;
      request.group_rule = kind == 1 ? spi::Group::all : spi::Group::any;
      note(request, side);
      batch.push_back(&request);
    }
    if (!batch.empty()) side.link->submit(batch);
  }
  void release() {
    if (held_.empty()) return;
    Request& request = core_.request(Op::give_back, *held_.back());
    held_.pop_back();
    Side& side = sides_[request.seat.link];
    note(request, side);
    Request* const batch[] = {&request};
    side.link->submit(batch);
  }
  void wait() {
    const char* const key = kKeys[input_.below(kKeys.size())];
    if (busy(key)) return;
    Request& request = core_.request(Op::take, key, mode());
    note(request, sides_[1]);
    if (!sides_[1].link->start_wait(request, std::chrono::milliseconds(750))) asked_.pop_back();
  }
  const Request* waiting() const {
    const auto found =
        std::find_if(asked_.begin(), asked_.end(), [&](const Asked& each) { return each.side == &sides_[1]; });
    return found == asked_.end() ? nullptr : found->request;
  }

  // ---- what the server says

  void speak(Side& side) {
    const PostgresQuestion* const question = side.line.unanswered();
    PostgresWords words;
    const std::size_t how = input_.below(8);
    if (how == 0) return side.line.hang_up();
    if (how < 3 || !question) {
      for (std::size_t i = 0; i <= input_.below(4); ++i) babble(input_, words);
      if (how == 1) words.ready();
    } else if (how == 3) {
      words.error(kStates[input_.below(kStates.size())]).ready();
    } else {
      for (const auto& each : question->statements) answer(each, words);
      words.ready();
    }
    std::string bytes = words.bytes();
    if (input_.below(16) == 0 && !bytes.empty())
      bytes[input_.byte() % bytes.size()] ^= static_cast<char>(input_.byte());
    while (!bytes.empty()) {
      const std::size_t piece = std::min<std::size_t>(bytes.size(), 1 + input_.below(255));
      side.line.say(std::string_view(bytes).substr(0, piece));
      bytes.erase(0, piece);
      receive();
    }
  }

  /// Of the form that the statement has; what it says is up to the input.
  void answer(const PostgresQuestion::Statement& statement, PostgresWords& words) {
    const std::string_view name = statement.name;
    if (name.empty()) return static_cast<void>(words.message('1', "").answer({{"1", "2"}}, 2, false));
    if (name == "lockr_slice") return static_cast<void>(words.answer({{"750ms"}}, 1, true));
    const std::size_t count = keys_in(statement);
    const bool take = name.starts_with("lockr_take");
    const auto value = [&]() -> PostgresWords::Value {
      const std::size_t choice = input_.below(8);
      if (choice == 7) return std::nullopt;
      if (choice == 6) return PostgresWords::number(std::int64_t{1} << 43);
      if (take && site_.fencing) return choice < 2 ? std::nullopt : PostgresWords::Value(PostgresWords::number(9));
      return PostgresWords::flag(choice > 1);
    };
    const PostgresWords::Value token =
        input_.below(8) == 0 ? std::nullopt : PostgresWords::Value(PostgresWords::number(5));
    std::vector<std::vector<PostgresWords::Value>> rows;
    std::size_t width = 1;
    if (name.starts_with("lockr_take_a")) {  // all, any
      width = site_.fencing || name.find("any") != name.npos ? 2 : 1;
      const std::size_t place = input_.below(count + 2);
      if (place != 0 || name.find("all") != name.npos) {
        rows.push_back({place == 0 ? std::nullopt
                                   : PostgresWords::Value(PostgresWords::number(static_cast<std::int64_t>(place)))});
        if (width == 2) rows.back().push_back(token);
      }
    } else if (name.starts_with("lockr_keep") || name.starts_with("lockr_pass")) {
      width = site_.fencing && name.starts_with("lockr_keep") ? 2 : 1;
      rows.push_back({""});
      if (width == 2) rows.back().push_back(token);
    } else {
      for (std::size_t i = 0; i < count; ++i) rows.push_back({value()});
    }
    if (input_.below(16) == 0) rows.push_back({PostgresWords::flag(true)});
    words.answer(rows, width, true);
  }
  static std::size_t keys_in(const PostgresQuestion::Statement& statement) {
    const std::size_t size = statement.parameters.empty() ? 0 : statement.parameters[0].size();
    return size <= 8 ? 1 : (size - 20) / 12;
  }

  void receive() {
    sides_[0].link->collect(runtime_.steady_now());
    for (Side& side : sides_) {
      const Link::Watch watch = side.link->watch(runtime_.steady_now());
      const short ended = side.line.hung_up() ? POLLRDHUP : 0;
      if (watch.connection) side.link->ready(watch, static_cast<short>(POLLIN | ended));
      side.link->tend(runtime_.steady_now());
    }
  }

  // ---- what must hold

  /// At which place of the statement the key stands.
  static std::optional<std::size_t> place_of(const PostgresQuestion::Statement& statement, std::uint64_t identity) {
    if (statement.parameters.empty()) return std::nullopt;
    const std::string& keys = statement.parameters[0];
    const std::string wanted = PostgresWords::number(static_cast<std::int64_t>(identity));
    if (keys == wanted) return 0;
    for (std::size_t at = 24; at + 8 <= keys.size(); at += 12) {
      if (keys.compare(at, 8, wanted) == 0) return (at - 24) / 12;
    }
    return std::nullopt;
  }

  /// Whether an answer without an error, of as many statements as were asked, says that the request was granted.
  bool granted(const Asked& asked) const {
    bool found = false;
    asked.side->line.visit([&](std::size_t number, const PostgresQuestion& question, const Line::Answers& answers) {
      if (number < asked.from || answers.error || question.statements.size() != answers.statements) return;
      const PostgresQuestion::Statement& last = question.statements.back();
      const auto place = place_of(last, asked.request->identity);
      if (!place || !(last.name.starts_with("lockr_take") || last.name.starts_with("lockr_keep"))) return;
      const auto& rows = answers.first_columns;
      const bool one_each = last.name.starts_with("lockr_take") && !last.name.starts_with("lockr_take_a");
      found |= one_each
                   ? *place < rows.size() && rows[*place] && rows[*place]->find_first_not_of('\0') != std::string::npos
                   : !rows.empty();
    });
    return found;
  }

  void check() {
    check_streams();
    for (const auto& loss : core_.losses) {
      std::erase_if(held_, [&](const Request* each) { return each->seat == loss.seat; });
    }
    core_.losses.clear();
    std::erase_if(asked_, [&](const Asked& asked) {
      expect(core_.answers(*asked.request) <= 1, "a request is answered once");
      if (core_.answers(*asked.request) == 0) return false;
      check_answer(asked);
      return true;
    });
    for (const auto& alive : core_.alives) {
      expect(alive.valid_until <= runtime_.boot_now() + bounds_.validity, "validity is within its bound");
    }
  }

  /// An answer of another form than asked for ends the connection.
  void check_streams() {
    for (Side& side : sides_) {
      if (!side.link->watch(runtime_.steady_now()).connection) continue;
      side.line.visit([&](std::size_t, const PostgresQuestion& question, const Line::Answers& answers) {
        if (answers.error || answers.strange) return;
        expect(answers.statements == question.statements.size(), "what answers another message is given up");
      });
    }
  }

  void check_answer(const Asked& asked) {
    Request& request = *asked.request;
    const bool take = request.op == Op::take;
    switch (request.answer) {
      case Answer::granted:
        expect(take && granted(asked), "what is granted was granted by the answer to its message");
        expect(request.token < std::uint64_t{1} << 53 && (request.token != 0) == site_.fencing, "a token fits");
        if (bounds_.validity == spi::kNever) {
          expect(request.valid_until == spi::kNever, "a lock without a bound is not bounded");
        } else {
          expect(request.valid_until <= runtime_.boot_now() + bounds_.validity, "validity is within its bound");
        }
        if (sides_[request.seat.link].link->watch(runtime_.steady_now()).connection) held_.push_back(&request);
        return;
      case Answer::released:
      case Answer::not_held:
        return expect(!take, "a take is not answered as a release");
      case Answer::refused:
        return expect(take, "a release is not refused");
      case Answer::unknown:
        expect(request.ask_again > Time{0}, "an unknown outcome says when it may be asked again");
        [[fallthrough]];
      case Answer::failed:
        return check_error(request.error);
      case Answer::pending:
        expect(false, "an answer says something");
    }
  }

  Input& input_;
  testing::ManualRuntime runtime_;
  testing::FakeCore core_;
  postgres::Sockets sockets_;
  postgres::Site site_{.runtime = runtime_};
  postgres::Census census_{runtime_, [] { return std::vector<Holder>{{.key = "a", .host = "h", .label = "l"}}; }};
  std::array<Side, 2> sides_;
  std::vector<Asked> asked_;
  postgres::Bounds bounds_;
  std::vector<Request*> held_;
};

void check_census(Input& input) {
  testing::ManualRuntime runtime;
  postgres::Census census(runtime, [] { return std::vector<Holder>(); });
  while (!input.empty()) {
    for (const std::string& each : census.hear(input.take(1 + input.byte()), {1, 2})) {
      expect(each.size() < 8000, "a notification is one that the server takes");
    }
  }
}

}  // namespace
}  // namespace lockr::fuzz

// libpq itself loses results that it had begun when the bytes behind them are no message.
extern "C" const char* __lsan_default_suppressions() { return "leak:libpq.so"; }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::Input input(data, size);
  switch (input.below(8)) {
    case 0:
      lockr::fuzz::check_census(input);
      break;
    case 1:
    case 2:
      lockr::fuzz::check_session(input);
      break;
    default:
      lockr::fuzz::Play(input).run();
  }
  return 0;
}
