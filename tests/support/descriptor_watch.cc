// Preloaded into the program that LOCKR_WATCHED_PROGRAM names, and into nothing else that it starts: a call that names
// a descriptor after it was closed aborts it. By then the number may be any descriptor of the program, so such a call
// can shut down, read or close what belongs to others.
//
// To see that without luck, a closed number is not given away at once: a descriptor of ours takes its place, until
// 64 others have been closed, unless LOCKR_WATCH_KEEPS is 0 (for a program that counts descriptors).
// Whoever names that one uses a number that is not theirs any more. A child of fork() inherits what is in those
// places, and is watched as well. Calls the kernel, not the functions that it stands for.
#undef _FILE_OFFSET_BITS  // fcntl() is one function and fcntl64() another.
#include <execinfo.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr unsigned kMostKept = 64;
constexpr rlim_t kLeastToSpare = 512;  // Where fewer descriptors are allowed none is kept back.

bool watching = false;
int stand_in = -1;  // A descriptor of nothing else; -1: no number is kept back.
struct stat stand_in_stat {};
std::array<std::atomic<int>, kMostKept> kept;  // Closed numbers that are not given away yet.
std::atomic<unsigned> hand{0};

bool is_stand_in(int fd) {
  struct stat found {};
  return stand_in >= 0 && ::syscall(SYS_newfstatat, fd, "", &found, AT_EMPTY_PATH) == 0 &&
         found.st_ino == stand_in_stat.st_ino && found.st_dev == stand_in_stat.st_dev;
}

bool is_closed(int fd) { return ::syscall(SYS_fcntl, fd, F_GETFD) < 0 || is_stand_in(fd); }

[[noreturn]] void report(const char* call, int fd) {
  char text[160];
  const int size = std::snprintf(text, sizeof text, "%s() names descriptor %d, which is closed (process %ld)\n", call,
                                 fd, static_cast<long>(::syscall(SYS_getpid)));
  [[maybe_unused]] auto written = ::syscall(SYS_write, STDERR_FILENO, text, size);
  std::array<void*, 32> frames{};
  ::backtrace_symbols_fd(frames.data(), ::backtrace(frames.data(), static_cast<int>(frames.size())), STDERR_FILENO);
  std::abort();
}

void look_at(const char* call, int fd) {
  if (fd < 0 || !watching) return;
  const int error = errno;
  if (is_closed(fd)) report(call, fd);
  errno = error;
}

bool can_spare_numbers() {
  rlimit limit{};
  return stand_in >= 0 && ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) == 0 &&
         limit.rlim_cur >= kLeastToSpare;
}

void give_away(int fd) {
  if (fd >= 0 && is_stand_in(fd)) ::syscall(SYS_close, fd);
}

// The number stays in use: what it stood for is closed, and ours is there in its place, in one step.
int close_and_keep(int fd) {
  if (!can_spare_numbers()) {
    for (auto& each : kept) give_away(each.exchange(-1));
    return static_cast<int>(::syscall(SYS_close, fd));
  }
  if (::syscall(SYS_dup3, stand_in, fd, O_CLOEXEC) < 0) return static_cast<int>(::syscall(SYS_close, fd));
  give_away(kept[hand.fetch_add(1) % kMostKept].exchange(fd));
  return 0;
}

[[gnu::constructor]] void begin() {
  const char* const watched = std::getenv("LOCKR_WATCHED_PROGRAM");
  char program[PATH_MAX];
  const ssize_t size = ::readlink("/proc/self/exe", program, sizeof program - 1);
  if (!watched || size < 0 || std::strlen(watched) != static_cast<std::size_t>(size) ||
      std::memcmp(watched, program, static_cast<std::size_t>(size)) != 0) {
    return;
  }
  std::array<void*, 1> frame{};
  ::backtrace(frame.data(), 1);  // The first call loads what the others need.
  for (auto& each : kept) each = -1;
  watching = true;
  const char* const keeps = std::getenv("LOCKR_WATCH_KEEPS");
  if (keeps && std::strcmp(keeps, "0") == 0) return;
  const auto made = static_cast<int>(::syscall(SYS_memfd_create, "closed", MFD_CLOEXEC));
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const int high = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 65536)) - 1;
  stand_in = static_cast<int>(::syscall(SYS_fcntl, made, F_DUPFD_CLOEXEC, high));
  if (stand_in < 0 || ::fstat(stand_in, &stand_in_stat) != 0) std::abort();  // Every test would pass.
  ::syscall(SYS_close, made);
}

int poll_kernel(pollfd* fds, nfds_t count, timespec* timeout, const sigset_t* mask) {
  for (nfds_t i = 0; i < count; ++i) look_at("poll", fds[i].fd);
  constexpr std::size_t kMaskSize = 8;  // The kernel's.
  return static_cast<int>(::syscall(SYS_ppoll, fds, count, timeout, mask, kMaskSize));
}

int poll_for(pollfd* fds, nfds_t count, int milliseconds) {
  timespec timeout{.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1'000'000L};
  return poll_kernel(fds, count, milliseconds < 0 ? nullptr : &timeout, nullptr);
}

int poll_until(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  timespec left = timeout ? *timeout : timespec{};  // The kernel counts down in it.
  return poll_kernel(fds, count, timeout ? &left : nullptr, mask);
}

template <class Result, class... Arguments>
Result after_a_look(const char* call, long number, int fd, Arguments... arguments) {
  look_at(call, fd);
  return static_cast<Result>(::syscall(number, fd, arguments...));
}

int control(int fd, int command, unsigned long argument) {
  if (command != F_GETFD) look_at("fcntl", fd);  // Which asks whether it is open.
  return static_cast<int>(::syscall(SYS_fcntl, fd, command, argument));
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

int close(int fd) {
  look_at("close", fd);
  return fd >= 0 && watching ? close_and_keep(fd) : static_cast<int>(::syscall(SYS_close, fd));
}
int shutdown(int fd, int how) noexcept { return after_a_look<int>("shutdown", SYS_shutdown, fd, how); }

int poll(pollfd* fds, nfds_t count, int timeout) { return poll_for(fds, count, timeout); }
int __poll_chk(pollfd* fds, nfds_t count, int timeout, std::size_t /*size*/) { return poll_for(fds, count, timeout); }
int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return poll_until(fds, count, timeout, mask);
}
int __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask, std::size_t /*size*/) {
  return poll_until(fds, count, timeout, mask);
}
int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept {
  look_at("epoll_ctl", fd);
  return after_a_look<int>("epoll_ctl", SYS_epoll_ctl, epoll, what, fd, event);
}

ssize_t read(int fd, void* to, std::size_t size) { return after_a_look<ssize_t>("read", SYS_read, fd, to, size); }
ssize_t __read_chk(int fd, void* to, std::size_t size, std::size_t /*room*/) { return read(fd, to, size); }
ssize_t write(int fd, const void* from, std::size_t size) {
  return after_a_look<ssize_t>("write", SYS_write, fd, from, size);
}
ssize_t recvfrom(int fd, void* to, std::size_t size, int flags, sockaddr* from, socklen_t* length) {
  return after_a_look<ssize_t>("recv", SYS_recvfrom, fd, to, size, flags, from, length);
}
ssize_t recv(int fd, void* to, std::size_t size, int flags) { return recvfrom(fd, to, size, flags, nullptr, nullptr); }
ssize_t __recv_chk(int fd, void* to, std::size_t size, std::size_t /*room*/, int flags) {
  return recvfrom(fd, to, size, flags, nullptr, nullptr);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
  return after_a_look<ssize_t>("recvmsg", SYS_recvmsg, fd, message, flags);
}
ssize_t sendto(int fd, const void* from, std::size_t size, int flags, const sockaddr* to, socklen_t length) {
  return after_a_look<ssize_t>("send", SYS_sendto, fd, from, size, flags, to, length);
}
ssize_t send(int fd, const void* from, std::size_t size, int flags) {
  return sendto(fd, from, size, flags, nullptr, 0);
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  return after_a_look<ssize_t>("sendmsg", SYS_sendmsg, fd, message, flags);
}

int dup(int fd) noexcept { return after_a_look<int>("dup", SYS_dup, fd); }
int dup2(int fd, int number) noexcept {
  look_at("dup2", fd);
  return fd == number ? number : static_cast<int>(::syscall(SYS_dup3, fd, number, 0));
}
int dup3(int fd, int number, int flags) noexcept { return after_a_look<int>("dup3", SYS_dup3, fd, number, flags); }
int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  const auto argument = va_arg(rest, unsigned long);
  va_end(rest);
  return control(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  const auto argument = va_arg(rest, unsigned long);
  va_end(rest);
  return control(fd, command, argument);
}

int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  return after_a_look<int>("setsockopt", SYS_setsockopt, fd, level, option, value, size);
}
int getsockopt(int fd, int level, int option, void* value, socklen_t* size) noexcept {
  return after_a_look<int>("getsockopt", SYS_getsockopt, fd, level, option, value, size);
}
int getpeername(int fd, sockaddr* address, socklen_t* size) noexcept {
  return after_a_look<int>("getpeername", SYS_getpeername, fd, address, size);
}

#pragma GCC visibility pop
}  // extern "C"
