#include "backends/postgres/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "backends/postgres/errors.h"
#include "backends/self_connect.h"

namespace lockr::postgres {

// ---- sockets

namespace {

// As long as `ours` is open no other socket has its inode's number.
bool is_same_socket(int ours, int other) noexcept {
  struct stat one {};
  struct stat two {};
  return ::fstat(ours, &one) == 0 && ::fstat(other, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

}  // namespace

int Sockets::add(int libpqs) noexcept {
  const auto free = std::find_if(sockets_.begin(), sockets_.end(), [](const Socket& each) { return each.ours < 0; });
  if (free == sockets_.end()) {
    errno = EMFILE;
    return -1;
  }
  *free = {.ours = ::fcntl(libpqs, F_DUPFD_CLOEXEC, 0), .libpqs = libpqs};
  return free->ours;
}

void Sockets::remove(int ours) noexcept {
  *std::find_if(sockets_.begin(), sockets_.end(), [&](const Socket& each) { return each.ours == ours; }) = {};
  ::close(ours);
}

void Sockets::unlock() {
  changing_.unlock();
  end_all();
}

void Sockets::end(PGconn* connection, int ours) {
  {
    std::lock_guard lock(ended_mutex_);
    ended_.emplace_back(connection, ours);
  }
  end_all();
}

std::vector<std::pair<PGconn*, int>> Sockets::take_ended() {
  std::lock_guard lock(ended_mutex_);
  return std::exchange(ended_, {});
}

// What is left because somebody has it locked is ended by them, as they unlock it.
void Sockets::end_all() {
  const auto any = [this] {
    std::lock_guard lock(ended_mutex_);
    return !ended_.empty();
  };
  while (any() && changing_.try_lock()) {
    for (const auto& [connection, ours] : take_ended()) {
      PQfinish(connection);
      if (ours >= 0) remove(ours);
    }
    changing_.unlock();
  }
}

// libpq may have closed its descriptor before the fork, and that number be anything by now. Memory can't tell: fork()
// copies the descriptors first, and other threads go on meanwhile. Two descriptors can.
void Sockets::forked() noexcept {
  in_child_.store(true, std::memory_order_relaxed);
  for (Socket& each : sockets_) {
    const auto [ours, libpqs] = std::exchange(each, {});
    if (ours < 0) continue;
    if (is_same_socket(ours, libpqs)) ::close(libpqs);
    ::close(ours);
  }
}

// ---- waiting

bool wait_for(int fd, short events, const Patience& patience) {
  for (;;) {
    const Time left = patience.until - patience.runtime.steady_now();
    if (left <= Time{0}) return false;
    std::array<pollfd, 2> fds{pollfd{fd, events, 0}, pollfd{patience.stop_fd, POLLIN, 0}};
    const timespec timeout{.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(left.count() % 1'000'000'000)};
    const int ready = ::ppoll(fds.data(), fds.size(), &timeout, nullptr);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || fds[1].revents != 0) return false;
    return true;
  }
}

namespace {

bool is_loopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_UNIX) return true;
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return ::ntohl(v4.sin_addr.s_addr) >> 24 == 127;
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

std::optional<sockaddr_storage> peer_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return std::nullopt;
  return address;
}

Error gave_up(std::string_view what) {
  return Error(errc::connection_lost, std::string(what) + ": the server did not answer in time");
}

struct Parameters {
  std::vector<const char*> names;
  std::vector<const char*> values;
  void add(const char* name, const char* value) {
    names.push_back(name);
    values.push_back(value);
  }
};

bool has_many_hosts(const std::string& dsn) {
  const std::unique_ptr<PQconninfoOption, void (*)(PQconninfoOption*)> options(PQconninfoParse(dsn.c_str(), nullptr),
                                                                               PQconninfoFree);
  for (const PQconninfoOption* each = options.get(); each && each->keyword; ++each) {
    const std::string_view name = each->keyword;
    if ((name == "host" || name == "hostaddr") && each->val && std::strchr(each->val, ',')) return true;
  }
  return false;
}

// What stands before the dsn is a default, what stands behind it overrides it.
PGconn* start_connecting(const Target& target) {
  Parameters parameters;
  parameters.add("keepalives_idle", "5");
  parameters.add("keepalives_interval", "2");
  parameters.add("keepalives_count", "2");
  parameters.add("tcp_user_timeout", "9000");
  parameters.add("dbname", target.dsn.c_str());
  parameters.add("application_name", target.application_name.c_str());
  parameters.add("client_encoding", "UTF8");
  if (has_many_hosts(target.dsn)) parameters.add("target_session_attrs", "primary");
  parameters.add(nullptr, nullptr);
  return PQconnectStartParams(parameters.names.data(), parameters.values.data(), 1);
}

}  // namespace

// ---- connecting

Connection::Connection(PGconn* raw, Sockets& sockets) : raw_(raw), sockets_(sockets) {
  PQsetNoticeReceiver(raw_, &Connection::on_notice, this);
  PQsetErrorVerbosity(raw_, PQERRORS_VERBOSE);  // With the SQLSTATE, which libpq tells in no other way.
}

Connection::~Connection() {
  if (sockets_.in_child()) return;  // The numbers may be the child's by now; the memory stays.
  sockets_.end(raw_, fd_);
}

Result<std::shared_ptr<Connection>> Connection::open(const Target& target, Sockets& sockets, const Patience& patience) {
  std::unique_lock lock(sockets);
  PGconn* const raw = start_connecting(target);
  if (!raw) return fail(errc::capacity, "can't connect to PostgreSQL: out of memory");
  auto connection = std::make_shared<Connection>(raw, sockets);
  const Status adopted = connection->adopt_socket();
  lock.unlock();
  if (!adopted) return fail(adopted.error());
  if (auto made = connection->establish(target, patience); !made) return fail(made.error());
  if (PQsetnonblocking(raw, 1) != 0) return fail(from_failed_connect(PQerrorMessage(raw)));
  PQsetErrorVerbosity(raw, PQERRORS_DEFAULT);
  return connection;
}

// The same number may be another socket by now.
Status Connection::adopt_socket() {
  const int libpqs = PQsocket(raw_);
  if (fd_ >= 0 && is_same_socket(fd_, libpqs)) return {};
  if (fd_ >= 0) sockets_.remove(std::exchange(fd_, -1));
  if (libpqs < 0) return {};
  fd_ = sockets_.add(libpqs);
  if (fd_ >= 0) return {};
  return fail(Error(errc::capacity,
                    "can't connect to PostgreSQL: this process has no descriptors left; a connection "
                    "needs two, raise `ulimit -n`")
                  .with_native(strerrorname_np(errno)));
}

// libpq goes from one address to the next by closing one socket and opening another.
Result<PostgresPollingStatusType> Connection::poll_connect() {
  std::lock_guard lock(sockets_);
  const PostgresPollingStatusType wants = PQconnectPoll(raw_);
  if (auto adopted = adopt_socket(); !adopted) return fail(adopted.error());
  return wants;
}

// libpq sends nothing before the call that follows on its state MADE. A stream that is ended while it is STARTED is
// told to libpq as reset, and libpq goes on to the next address.
void Connection::end_if_connected_to_itself() {
  const ConnStatusType status = PQstatus(raw_);
  if ((status != CONNECTION_STARTED && status != CONNECTION_MADE) || !spi::is_connected_to_itself(fd_)) return;
  const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
  ::connect(fd_, &nowhere, sizeof nowhere);
  ++connected_to_itself_;
}

// A reset by another server ends the attempt: so the first ones that libpq tells of are ours.
Error Connection::failed_connect() const {
  std::string words = PQerrorMessage(raw_);
  const std::string reset = std::strerror(ECONNRESET);
  std::size_t at = words.find(reset);
  for (int left = connected_to_itself_; left > 0 && at != words.npos; --left) {
    words.replace(at, reset.size(), std::strerror(ECONNREFUSED));
    at = words.find(reset, at);
  }
  return from_failed_connect(words);
}

Status Connection::establish(const Target& target, const Patience& patience) {
  PostgresPollingStatusType wants = PGRES_POLLING_WRITING;
  if (PQstatus(raw_) == CONNECTION_BAD) return fail(from_failed_connect(PQerrorMessage(raw_)));
  for (;;) {
    if (wants == PGRES_POLLING_OK) return {};
    if (wants == PGRES_POLLING_FAILED) return fail(failed_connect());
    if (!wait_for(fd_, wants == PGRES_POLLING_READING ? POLLIN : POLLOUT, patience)) {
      return fail(gave_up("can't connect to PostgreSQL within connect_timeout"));
    }
    bool wait_more = false;
    if (auto refusal = clear_text_asked(target, patience, wait_more)) return fail(*std::move(refusal));
    if (wait_more) continue;
    end_if_connected_to_itself();
    const auto polled = poll_connect();
    if (!polled) return fail(polled.error());
    wants = *polled;
  }
}

// libpq answers the server's request for a password in the same call that reads it, so it is looked at before.
std::optional<Error> Connection::clear_text_asked(const Target& target, const Patience& patience,
                                                  bool& wait_more) const {
  if (target.accept_clear_text || PQstatus(raw_) != CONNECTION_AWAITING_RESPONSE || PQsslInUse(raw_)) return {};
  const auto peer = peer_of(fd_);
  if (!peer || is_loopback(*peer)) return {};
  constexpr std::array<unsigned char, 9> kClearText{'R', 0, 0, 0, 8, 0, 0, 0, 3};
  std::array<unsigned char, 9> start{};
  const ssize_t got = ::recv(fd_, start.data(), start.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got <= 0 || !std::equal(start.begin(), start.begin() + got, kClearText.begin())) return {};
  if (got < static_cast<ssize_t>(start.size())) {
    wait_more = true;
    wait_for(-1, 0, {patience.runtime, patience.runtime.steady_now() + std::chrono::milliseconds(1)});
    return {};
  }
  return Error(errc::unsafe_setup,
               "the server asks for the password in clear text over an unencrypted network connection, and it was not "
               "sent; set sslmode=verify-full, or scram-sha-256 in pg_hba.conf, or accept the risk with "
               "\"accept_risk\": [\"clear_text_password\"]");
}

// ---- talking

void Connection::on_notice(void* self, const PGresult* notice) {
  auto& mine = *static_cast<Connection*>(self);
  const char* const sqlstate = PQresultErrorField(notice, PG_DIAG_SQLSTATE);
  const char* const primary = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);
  // Only what ends a connection is of interest: class 57, "operator intervention".
  if (!sqlstate || std::strncmp(sqlstate, "57", 2) != 0) return;
  mine.last_sqlstate_ = sqlstate;
  mine.last_words_ = primary ? primary : "";
}

bool Connection::over_network() const noexcept {
  const auto peer = peer_of(fd_);
  return peer && peer->ss_family != AF_UNIX;
}

std::vector<Connection::Row> Connection::rows_of(const PGresult* result) {
  std::vector<Row> rows;
  for (int r = 0; r < PQntuples(result); ++r) {
    Row row;
    for (int c = 0; c < PQnfields(result); ++c) {
      const bool null = PQgetisnull(result, r, c) != 0;
      row.push_back(null ? std::nullopt : std::optional<std::string>(PQgetvalue(result, r, c)));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<std::vector<Connection::Row>> Connection::ask(const std::string& sql, int columns, const Patience& patience,
                                                     std::string_view what) {
  if (!PQsendQuery(raw_, sql.c_str())) return fail(ending());
  std::vector<Row> rows;
  std::optional<Error> error;
  int last_columns = -1;
  for (;;) {
    if (!flush()) return fail(ending());
    while (PQisBusy(raw_)) {
      const short events = static_cast<short>(POLLIN | (unsent_ ? POLLOUT : 0));
      if (!wait_for(fd_, events, patience)) return fail(gave_up(what));
      if (!flush() || !read()) return fail(ending());
    }
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQgetResult(raw_), PQclear);
    if (!result) break;
    const ExecStatusType status = PQresultStatus(result.get());
    if (status == PGRES_FATAL_ERROR) {
      error = from_result(result.get(), what);
    } else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
      return fail(no_answer());
    }
    last_columns = PQnfields(result.get());
    rows = rows_of(result.get());
  }
  if (error) return fail(*std::move(error));
  if (last_columns != columns) return fail(no_answer());
  return rows;
}

bool Connection::flush() noexcept {
  const int rest = PQflush(raw_);
  unsent_ = rest > 0;
  return rest >= 0;
}

bool Connection::read() noexcept {
  const bool read = PQconsumeInput(raw_) == 1;
  // Parses what is there, also what a failed flush has read: what the server says at last reaches on_notice().
  PQisBusy(raw_);
  return read && PQstatus(raw_) == CONNECTION_OK;
}

Error Connection::ending() const {
  return connection_ended(last_sqlstate_, last_sqlstate_.empty() ? PQerrorMessage(raw_) : last_words_);
}

void Connection::shut_down() noexcept {
  if (!sockets_.in_child()) ::shutdown(fd_, SHUT_RDWR);
}

}  // namespace lockr::postgres
