// PostgresWire: a PostgreSQL server's end of connections, for tests that play the server: they hear what a client asks,
// message by message, and say what they like.
#pragma once

#include <libpq-fe.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/postgres/connection.h"
#include "backends/postgres/encoding.h"
#include "backends/postgres/handshake.h"

namespace lockr::testing {

/// What the server says, message by message.
class PostgresWords {
 public:
  using Value = std::optional<std::string>;  // NULL.

  PostgresWords& message(char type, std::string_view body) {
    bytes_ += type;
    postgres::append_int32(bytes_, static_cast<std::int32_t>(body.size() + 4));
    bytes_ += body;
    return *this;
  }
  /// So many columns, in binary or in text.
  PostgresWords& columns(std::size_t count, bool binary) {
    std::string body = int16(count);
    for (std::size_t i = 0; i < count; ++i) {
      body.append("c").append(1, '\0').append(6, '\0');
      postgres::append_int32(body, 20);  // Its type: int8.
      body.append(6, '\xff').append(int16(binary ? 1 : 0));
    }
    return message('T', body);
  }
  PostgresWords& row(const std::vector<Value>& values) {
    std::string body = int16(values.size());
    for (const Value& each : values) {
      postgres::append_int32(body, each ? static_cast<std::int32_t>(each->size()) : -1);
      body += each.value_or("");
    }
    return message('D', body);
  }
  PostgresWords& done() { return message('C', std::string_view("SELECT 1", 9)); }
  PostgresWords& ready() { return message('Z', "I"); }
  PostgresWords& error(std::string_view sqlstate, char type = 'E') {
    std::string body = "SERROR";
    for (const std::string& field : {std::string("VERROR"), "C" + std::string(sqlstate), std::string("Mwords")}) {
      body.append(1, '\0').append(field);
    }
    return message(type, body.append(2, '\0'));
  }
  /// One statement's answer: rows of one kind.
  PostgresWords& answer(const std::vector<std::vector<Value>>& rows, std::size_t width, bool binary) {
    message('2', "").columns(width, binary);
    for (const auto& each : rows) row(each);
    return done();
  }

  static std::string flag(bool value) { return std::string(1, value ? '\1' : '\0'); }
  static std::string number(std::int64_t value) {
    std::string bytes;
    postgres::append_int64(bytes, value);
    return bytes;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  static std::string int16(std::size_t value) {
    return {static_cast<char>(value >> 8 & 0xff), static_cast<char>(value & 0xff)};
  }
  std::string bytes_;
};

/// What a client sent up to one Sync, or as one simple query: of each statement the name or the text, and its
/// parameters as they are.
struct PostgresQuestion {
  struct Statement {
    std::string name;
    std::string sql;
    std::vector<std::string> parameters;
  };
  std::vector<Statement> statements;
  std::size_t prepared = 0;  // Named statements.
};

/// Takes what a client sends apart.
class PostgresEar {
 public:
  void feed(std::string_view bytes) { bytes_ += bytes; }
  /// The startup message, which has no type.
  bool take_startup() {
    const auto size = bytes_.size() < 4 ? 0 : int32(0);
    if (size < 8 || bytes_.size() < size) return false;
    bytes_.erase(0, size);
    return true;
  }
  std::optional<PostgresQuestion> next() {
    while (bytes_.size() >= 5 && bytes_.size() > int32(1)) {
      const char type = bytes_[0];
      const std::string body = bytes_.substr(5, int32(1) - 4);
      bytes_.erase(0, int32(1) + 1);
      if (type == 'S') return std::exchange(question_, {});
      if (type == 'Q') return PostgresQuestion{.statements = {{.name = "", .sql = body.c_str(), .parameters = {}}}};
      if (type == 'P') parse(body);
      if (type == 'B') bind(body);
    }
    return std::nullopt;
  }

 private:
  std::size_t int32(std::size_t at) const { return int32_of(bytes_, at); }
  static std::size_t int32_of(const std::string& from, std::size_t at) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(from[at + i]);
    return value;
  }
  void parse(const std::string& body) {
    const std::string name = body.c_str();
    if (!name.empty()) ++question_.prepared;
    sql_ = name.empty() ? std::string(body.c_str() + 1) : "";
  }
  void bind(const std::string& body) {
    std::size_t at = body.find('\0') + 1;
    const std::string name = body.c_str() + at;
    at += name.size() + 1;
    const auto int16 = [&] {
      const auto value = static_cast<std::size_t>(static_cast<unsigned char>(body[at]) << 8 |
                                                  static_cast<unsigned char>(body[at + 1]));
      at += 2;
      return value;
    };
    const std::size_t formats = int16();
    at += 2 * formats;
    PostgresQuestion::Statement statement{.name = name, .sql = name.empty() ? sql_ : "", .parameters = {}};
    const std::size_t count = int16();
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t size = int32_of(body, at);
      statement.parameters.push_back(body.substr(at + 4, size));
      at += 4 + size;
    }
    question_.statements.push_back(std::move(statement));
  }

  std::string bytes_;
  std::string sql_;
  PostgresQuestion question_;
};

class PostgresWire {
 public:
  PostgresWire() {
    if (::mkdtemp(directory_.data()) == nullptr) die("no temporary folder");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (directory_ + "/.s.PGSQL.5432").c_str(), sizeof address.sun_path - 1);
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(listener_, 8) != 0) {
      die("can't listen");
    }
  }
  PostgresWire(const PostgresWire&) = delete;
  PostgresWire& operator=(const PostgresWire&) = delete;
  ~PostgresWire() {
    ::close(listener_);
    std::filesystem::remove_all(directory_);
  }

  std::string dsn() const { return "host=" + directory_ + " port=5432 user=u dbname=d sslmode=disable"; }
  /// The next client.
  int accept() const { return ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC); }

  /// What a server says at the start, to everyone.
  static std::string greeting() {
    std::string key;
    postgres::append_int32(key, 77);
    postgres::append_int32(key, 4711);
    PostgresWords words;
    return words.message('R', std::string(4, '\0'))
        .message('S', std::string_view("server_version\0"
                                       "15.18\0",
                                       21))
        .message('S', std::string_view("client_encoding\0UTF8\0", 21))
        .message('K', key)
        .ready()
        .bytes();
  }

  static void say(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) return;  // The client has hung up.
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  /// Hands over what has come; false when the client has hung up.
  static bool hear(int fd, PostgresEar& ear, bool block) {
    std::array<char, 65536> part;
    for (;;) {
      const ssize_t got = ::recv(fd, part.data(), part.size(), block ? 0 : MSG_DONTWAIT);
      if (got == 0) return false;
      if (got < 0) return errno == EAGAIN;
      ear.feed({part.data(), static_cast<std::size_t>(got)});
      if (block) return true;
    }
  }

  /// A connection that was greeted, in pipeline mode, and the server's end of it.
  std::pair<std::shared_ptr<postgres::Connection>, int> connect(postgres::Sockets& sockets) const {
    PGconn* const raw = PQconnectStart(dsn().c_str());
    const int server = accept();
    say(server, greeting());
    auto connection = std::make_shared<postgres::Connection>(raw, sockets);
    {
      const std::lock_guard lock(sockets);
      if (!connection->adopt_socket()) die("the socket");
    }
    for (;;) {
      const PostgresPollingStatusType wants = PQconnectPoll(raw);
      if (wants == PGRES_POLLING_OK) break;
      if (wants == PGRES_POLLING_FAILED) die(PQerrorMessage(raw));
      pollfd ready{PQsocket(raw), static_cast<short>(wants == PGRES_POLLING_READING ? POLLIN : POLLOUT), 0};
      ::poll(&ready, 1, 1000);
    }
    if (PQsetnonblocking(raw, 1) != 0 || PQenterPipelineMode(raw) != 1) die(PQerrorMessage(raw));
    return {std::move(connection), server};
  }

 private:
  [[noreturn]] static void die(const char* what) {
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
    std::abort();
  }

  std::string directory_ = (std::filesystem::temp_directory_path() / "lockr-wire-XXXXXX").string();
  int listener_ = -1;
};

}  // namespace lockr::testing
