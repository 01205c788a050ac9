// A whole backend: locks are names in the abstract namespace of unix sockets. The kernel gives a name to one socket at
// a time, and takes it back when the last descriptor of that socket is closed, also when its process dies.
#include <lockr/spi/module.h>
#include <lockr/spi/polling.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

namespace {

using namespace lockr;
using namespace lockr::spi;

constexpr std::size_t kMostHeld = 1000;
constexpr auto kPollInterval = std::chrono::milliseconds(5);

// [traits]
Traits socket_traits() {
  Traits traits;
  traits.capabilities = {.backend = "socket", .cross_process = true, .takeover = 2 * kPollInterval};
  traits.identity_is_hash = true;  // What is locked is the key's hash.
  traits.held_limit = kMostHeld;
  return traits;
}
// [traits]

// [class]
class SocketBackend final : public PollingBackend {
 public:
  SocketBackend(const OpenContext& context, const std::string& room)
      : PollingBackend(context.runtime, socket_traits(), {.poll_interval = kPollInterval}), room_(room) {}
  ~SocketBackend() override { close_all(); }

 private:
  struct Slot {
    std::atomic<int> fd{-1};  // Atomic, because a forked child reads it at any moment.
    std::uint64_t identity = 0;
  };

  void take(std::span<Request* const> batch) override;
  void give_back(std::span<Request* const> batch) override;
  Status renew(std::span<Held> /*batch*/) override { return {}; }  // The kernel asks for none.
  void disconnect() override;
  void before_fork() noexcept override { moving_.lock(); }
  void after_fork() noexcept override { moving_.unlock(); }
  void forked() noexcept override { close_all(); }

  void take(Request& request);
  void close_all() noexcept;

  const std::string room_;
  std::mutex moving_;  // Held while a socket is made or closed and not in its slot: a fork waits for it.
  std::array<Slot, kMostHeld> slots_;
};
// [class]

// [take]
void SocketBackend::take(std::span<Request* const> batch) {
  for (Request* request : batch) take(*request);
}

void SocketBackend::take(Request& request) {
  const auto failed = [&](const char* what) {
    request.answer = Answer::failed;
    request.error = Error(errc::capacity, what).with_native(std::strerror(errno));
  };
  Slot* slot = nullptr;
  for (Slot& each : slots_) slot = each.fd < 0 ? &each : slot;
  if (!slot) errno = ENOLCK;
  if (!slot) return failed("as many locks as this backend can hold are held; release some");
  const std::lock_guard moving(moving_);
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("no socket can be made; raise `ulimit -n`");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;  // sun_path[0] stays 0: a name without a file.
  const std::string name = "lockr-" + room_ + "-" + std::to_string(request.identity);
  name.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0) {
    slot->identity = request.identity;
    slot->fd = fd;
    request.answer = Answer::granted;
    return;
  }
  request.answer = Answer::refused;
  if (errno != EADDRINUSE) failed("the socket can't be named");
  ::close(fd);
}
// [take]

// [give back]
void SocketBackend::give_back(std::span<Request* const> batch) {
  const std::lock_guard moving(moving_);
  for (Request* request : batch) {
    request->answer = Answer::not_held;
    for (Slot& each : slots_) {
      if (each.fd < 0 || each.identity != request->identity) continue;
      ::close(each.fd.exchange(-1));
      request->answer = Answer::released;
    }
  }
}

void SocketBackend::disconnect() {
  const std::lock_guard moving(moving_);
  close_all();
}

void SocketBackend::close_all() noexcept {
  for (Slot& each : slots_) {
    if (const int fd = each.fd.exchange(-1); fd >= 0) ::close(fd);
  }
}
// [give back]

// [factory]
Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"room"}); !known) return fail(known.error());
  auto room = context.section.string("room");
  if (!room) return fail(room.error());
  if (!*room || (*room)->empty() || (*room)->size() > 32) {
    return fail(context.section.invalid("room", "a name of 1 to 32 bytes"));
  }
  return std::make_unique<SocketBackend>(context, **room);
}

const BackendInfo kSocketBackend{
    .name = "socket",
    .schemes = nullptr,
    .summary = "names of unix sockets: processes of one network namespace",
    .schema = R"({"type": "object", "additionalProperties": false, "required": ["room"],
                  "properties": {"room": {"type": "string", "minLength": 1, "maxLength": 32}}})",
    .create = create,
};
// [factory]

}  // namespace

// [module]
LOCKR_MODULE(kSocketBackend);
// [module]
