#include "tests/support/proxy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "tests/support/tcp_service.h"

namespace lockr::testing {
namespace {

constexpr std::size_t kMostWaiting = 256 * 1024;  // A sender is not read any further then.
constexpr int kMostParts = 8;
constexpr std::chrono::milliseconds kBetweenParts{1};

void send_at_once(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Closing it sends an RST.
void make_rude(int fd) {
  const linger none{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

}  // namespace

Proxy::Proxy(std::uint16_t port)
    : target_(port), listener_(listen_on("127.0.0.1", port_)), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    interrupt();
  }
  thread_.join();
}

void Proxy::interrupt() {
  interrupted_ = true;
  const std::uint64_t one = 1;
  static_cast<void>(!::write(bell_.get(), &one, sizeof one));
}

// Returns when the thread has closed them.
void Proxy::close_cut(std::unique_lock<std::mutex>& lock) {
  interrupt();
  closed_.wait(lock, [this] { return cut_.empty(); });
}

void Proxy::set(Mood mood, std::chrono::milliseconds delay) {
  std::unique_lock lock(mutex_);
  mood_ = mood;
  delay_ = delay;
  if (mood == Mood::harsh) cut_.splice(cut_.end(), connections_);
  close_cut(lock);
}

bool Proxy::cut(Cut how, std::uint64_t which) {
  std::unique_lock lock(mutex_);
  if (connections_.empty()) return false;
  const auto victim = std::next(connections_.begin(), static_cast<std::ptrdiff_t>(which % connections_.size()));
  switch (how) {
    case Cut::reset:
      make_rude(victim->client.get());
      make_rude(victim->server.get());
      cut_.splice(cut_.end(), connections_, victim);
      break;
    case Cut::half_close:
      victim->down.ended = true;
      break;
    case Cut::truncate:
      victim->truncated = true;
      break;
  }
  close_cut(lock);
  return true;
}

std::size_t Proxy::connections() const {
  std::lock_guard lock(mutex_);
  return connections_.size();
}

// ---- the thread

void Proxy::run() {
  std::unique_lock lock(mutex_);
  while (!over_) {
    std::vector<pollfd> ends{{bell_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    std::vector<Connection*> theirs;
    for (Connection& each : connections_) {
      ends.push_back(wish(each.client.get(), each.up, each.down));
      ends.push_back(wish(each.server.get(), each.down, each.up));
      theirs.push_back(&each);
    }
    int patience = -1;
    if (const auto due = next_due(); due && mood_ != Mood::silent) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*due - Clock::now()).count();
      patience = static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000));
    }
    lock.unlock();
    ::poll(ends.data(), ends.size(), patience);
    if (ends[0].revents != 0) {
      std::uint64_t count = 0;
      static_cast<void>(!::read(bell_.get(), &count, sizeof count));
    }
    lock.lock();
    cut_.clear();
    closed_.notify_all();
    if (ends[1].revents != 0) accept_one();
    // Connections may be gone, and others have something to be told. Only the flag knows: the bell may have been rung
    // when the poll was over already.
    if (std::exchange(interrupted_, false)) {
      for (Connection& each : connections_) serve(each, 0, 0);
    } else {
      for (std::size_t i = 0; i < theirs.size(); ++i) {
        serve(*theirs[i], ends[2 + 2 * i].revents, ends[3 + 2 * i].revents);
      }
    }
    connections_.remove_if([](const Connection& each) { return each.over; });
  }
}

// What is to be waited for at one end, where `in` comes from and `out` goes to.
pollfd Proxy::wish(int fd, const Flow& in, const Flow& out) const {
  if (in.ended && out.closed) return {-1, 0, 0};
  if (mood_ == Mood::silent) return {fd, 0, 0};
  const bool blocked = !out.pieces.empty() && out.pieces.front().due <= Clock::now();
  const int events = (!in.ended && in.waiting < kMostWaiting ? POLLIN : 0) | (blocked ? POLLOUT : 0);
  return {fd, static_cast<short>(events), 0};
}

std::optional<Proxy::Clock::time_point> Proxy::next_due() const {
  std::optional<Clock::time_point> first;
  for (const Connection& each : connections_) {
    for (const Flow* flow : {&each.up, &each.down}) {
      // What is due and still here waits for room in the socket.
      if (flow->pieces.empty() || flow->pieces.front().due <= Clock::now()) continue;
      if (!first || flow->pieces.front().due < *first) first = flow->pieces.front().due;
    }
  }
  return first;
}

void Proxy::accept_one() {
  Descriptor client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (client.get() < 0 || mood_ == Mood::harsh) return;
  Descriptor server = connect_to(target_);
  if (server.get() < 0) return;
  send_at_once(client.get());
  send_at_once(server.get());
  connections_.push_back({.client = std::move(client), .server = std::move(server)});
}

void Proxy::serve(Connection& connection, short client_events, short server_events) {
  if (mood_ == Mood::silent) {  // The poll tells of errors whether it is asked or not.
    connection.over = ((client_events | server_events) & (POLLERR | POLLHUP)) != 0;
    return;
  }
  const bool good = ((client_events | server_events) & POLLERR) == 0 &&
                    (client_events == 0 || receive(connection, connection.up, connection.client.get())) &&
                    (server_events == 0 || receive(connection, connection.down, connection.server.get())) &&
                    pass_on(connection.up, connection.server.get()) &&
                    pass_on(connection.down, connection.client.get());
  connection.over = !good || (connection.up.closed && connection.down.closed);
}

// False: the connection is broken.
bool Proxy::receive(Connection& connection, Flow& flow, int from) {
  if (flow.ended || flow.waiting >= kMostWaiting) return true;
  std::array<char, 16384> buffer{};
  const ssize_t got = ::recv(from, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  auto count = static_cast<std::size_t>(got);
  flow.ended = count == 0;
  if (&flow == &connection.down && connection.truncated && count != 0) {
    count /= 2;
    flow.ended = true;
    connection.up.ended = true;
  }
  if (count == 0) return true;
  flow.waiting += count;
  if (&flow == &connection.down && mood_ == Mood::garbled) buffer.fill('\xff');
  flow.pieces.push_back({std::string(buffer.data(), count), Clock::now() + delay_});
  return true;
}

std::size_t Proxy::next_part(Flow::Piece& piece) {
  const std::size_t size = piece.bytes.size();
  if (size == 1 || ++piece.parts == kMostParts) return size;
  return 1 + random_() % (size / 2);
}

// False: the connection is broken.
bool Proxy::pass_on(Flow& flow, int to) {
  while (!flow.pieces.empty() && flow.pieces.front().due <= Clock::now()) {
    Flow::Piece& piece = flow.pieces.front();
    const std::size_t most = mood_ == Mood::split ? next_part(piece) : piece.bytes.size();
    const ssize_t sent = ::send(to, piece.bytes.data(), most, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    piece.bytes.erase(0, static_cast<std::size_t>(sent));
    flow.waiting -= static_cast<std::size_t>(sent);
    if (piece.bytes.empty()) {
      flow.pieces.pop_front();
    } else if (mood_ == Mood::split) {
      piece.due = Clock::now() + kBetweenParts;
    }
  }
  if (flow.ended && flow.pieces.empty() && !std::exchange(flow.closed, true)) ::shutdown(to, SHUT_WR);
  return true;
}

}  // namespace lockr::testing
