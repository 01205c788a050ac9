#include "tests/support/network.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

namespace lockr::testing {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Network::Refused(what + (errno != 0 ? std::string(": ") + std::strerror(errno) : std::string()));
}

// In a namespace that is new it is down.
void raise_loopback() noexcept {
  const Descriptor any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq loopback{};
  std::strncpy(loopback.ifr_name, "lo", sizeof loopback.ifr_name - 1);
  loopback.ifr_flags = IFF_UP;
  ::ioctl(any.get(), SIOCSIFFLAGS, &loopback);
}

// In a user namespace we are who we were, so that servers which refuse to run as root run; what the programs that we
// start need to be allowed is handed on to them.
void become_mighty() noexcept {
  const auto user = std::to_string(::geteuid());
  const auto group = std::to_string(::getegid());
  if (::unshare(CLONE_NEWUSER) != 0) return;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << user << ' ' << user << " 1";
  std::ofstream("/proc/self/gid_map") << group << ' ' << group << " 1";
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> sets{};
  ::syscall(SYS_capget, &header, sets.data());
  for (auto& set : sets) set.inheritable = set.permitted;
  ::syscall(SYS_capset, &header, sets.data());
  for (const int capability : {CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE}) {
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
  }
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);  // `ip` looks for the namespaces among our descriptors.
  // Whoever leaves a namespace of another owner never comes back.
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET) == 0) raise_loopback();
}

Descriptor this_host() {
  Descriptor host(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (host.get() < 0) refuse("no network namespace");
  return host;
}

bool enter(const Descriptor& host) noexcept { return ::setns(host.get(), CLONE_NEWNET) == 0; }

Descriptor new_host() {
  const Descriptor before = this_host();
  if (::unshare(CLONE_NEWNET) != 0) refuse("no network namespace");
  Descriptor host = this_host();
  if (!enter(before)) refuse("no way back from a network namespace");
  return host;
}

/// Runs the body on a host, in a child with one thread that may exec.
bool on(const Descriptor& host, const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(enter(host) && body() ? 0 : 1);
  int status = -1;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status == 0;
}

// Says nothing when it fails: whoever asked does.
bool sh(const Descriptor& host, const std::string& script) {
  return on(host, [&] {
    const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    ::dup2(nothing, STDOUT_FILENO);
    ::dup2(nothing, STDERR_FILENO);
    ::execl("/bin/sh", "sh", "-ec", script.c_str(), nullptr);
    return false;
  });
}

void must(bool done, const char* what) {
  if (!done) throw std::runtime_error(what);
}

std::string path_of(const Descriptor& host) {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(host.get());
}

bool set_forwarding(const Descriptor& router, bool on_) {
  return on(router, [&] {
    const int file = ::open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);
    return file >= 0 && ::write(file, on_ ? "1" : "0", 1) == 1;
  });
}

}  // namespace

void Network::prepare() noexcept {
  if (::geteuid() != 0) become_mighty();
}

Network::Network() : client_(-1), router_(-1), server_(-1) {
  client_ = new_host();
  router_ = new_host();
  server_ = new_host();
  errno = 0;
  if (!sh(router_, "ip link add s type veth peer name eth netns " + path_of(server_) +
                       "; ip link add c type veth peer name eth netns " + path_of(client_) +
                       "; ip addr add 10.77.1.254/24 dev s; ip addr add 10.77.2.254/24 dev c"
                       "; ip link set s up; ip link set c up; ip link set lo up")) {
    refuse("`ip` (Debian: iproute2) is missing, or may not make an interface");
  }
  const auto plug = [](const Descriptor& host, const std::string& net, const char* address) {
    return sh(host, "ip link set lo up; ip addr add " + std::string(address) + "/24 dev eth; ip link set eth up" +
                        "; ip route add default via " + net + ".254");
  };
  if (!plug(server_, "10.77.1", kServer) || !plug(client_, "10.77.2", kClient)) refuse("no route can be set");
  if (!set_forwarding(router_, true)) refuse("/proc/sys/net/ipv4/ip_forward may not be written");
}

bool Network::enter_client() const noexcept { return enter(client_); }
bool Network::enter_server() const noexcept { return enter(server_); }

void enter_lone_host(unsigned first_client_port, unsigned last_client_port) {
  if (::unshare(CLONE_NEWNET) != 0) refuse("no network namespace");
  raise_loopback();
  set_client_ports(first_client_port, last_client_port);
}

void set_client_ports(unsigned first, unsigned last) {
  std::ofstream file("/proc/sys/net/ipv4/ip_local_port_range");
  file << first << ' ' << last << std::endl;
  if (!file) refuse("/proc/sys/net/ipv4/ip_local_port_range may not be written");
}

void Network::blackhole(bool on_) const { must(set_forwarding(router_, !on_), "the router does not obey"); }

void Network::loss(int percent) const {
  std::string rules = "nft flush ruleset";
  if (percent > 0) {
    rules += "; nft add table ip bad; nft add chain ip bad road '{ type filter hook forward priority 0; }'";
    rules += "; nft add rule ip bad road numgen random mod 100 '<' " + std::to_string(percent) + " drop";
  }
  must(sh(router_, rules), "`nft` (Debian: nftables) is missing, or may not set a rule");
}

void Network::unplug(bool on_) const {
  must(sh(client_, on_ ? "ip link set eth down" : "ip link set eth up; ip route replace default via 10.77.2.254"),
       "the cable can't be pulled");
}

}  // namespace lockr::testing
