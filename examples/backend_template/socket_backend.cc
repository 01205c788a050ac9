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
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace {

using namespace lockr;
using namespace lockr::spi;

constexpr std::size_t kMostHeld = 1000;
constexpr std::size_t kMostRoomBytes = 32;
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
  SocketBackend(const OpenContext& context, std::string room)
      : PollingBackend(context.runtime, socket_traits(), {.poll_interval = kPollInterval}), room_(std::move(room)) {}
  ~SocketBackend() override { disconnect(); }

 private:
  struct Slot {
    std::atomic<int> fd{-1};  // Atomic, because a forked child reads it at any moment.
    std::uint64_t identity = 0;
  };

  void take(std::span<Request* const> batch) override;
  void give_back(std::span<Request* const> batch) override;
  Status renew(std::span<Held> /*batch*/) override { return {}; }  // The kernel asks for none.
  void disconnect() override;
  void before_fork() noexcept override { opening_.lock(); }
  void after_fork() noexcept override { opening_.unlock(); }
  void forked() noexcept override { disconnect(); }

  void take(Request& request);

  const std::string room_;
  std::mutex opening_;  // Held from the making of a socket until it is in its slot.
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
    request.error = Error(errc::capacity, std::string(what) + "; raise the limit or release something")
                        .with_native(std::strerror(errno));
  };
  Slot* slot = nullptr;
  for (Slot& each : slots_) slot = each.fd < 0 ? &each : slot;
  if (!slot) return failed("as many locks as this backend can hold are held");
  const std::lock_guard opening(opening_);
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("no socket can be made");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;  // sun_path[0] stays 0: a name without a file.
  const int size = std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "lockr-%s-%016llx", room_.c_str(),
                                 static_cast<unsigned long long>(request.identity));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<std::size_t>(size));
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0) {
    slot->identity = request.identity;
    slot->fd = fd;
    request.answer = Answer::granted;
    return;
  }
  if (errno == EADDRINUSE) {
    request.answer = Answer::refused;
  } else {
    failed("the socket can't be named");
  }
  ::close(fd);
}
// [take]

// [give back]
void SocketBackend::give_back(std::span<Request* const> batch) {
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
  if (!*room || (*room)->empty() || (*room)->size() > kMostRoomBytes) {
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
