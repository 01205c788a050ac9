#include "tests/support/port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

namespace lockr::testing {
namespace {

constexpr unsigned kFirst = 1024;
constexpr unsigned kCount = 65'536 - kFirst;

/// What clients are given as their own ports.
struct ClientPorts {
  unsigned low = 32'768;
  unsigned high = 60'999;
  bool has(unsigned number) const { return low <= number && number <= high; }
};

ClientPorts client_ports() {
  ClientPorts ports;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> ports.low >> ports.high;
  return ports;
}

// Gone with this process, however it ends; of this network namespace, as ports are.
Descriptor claimed_name(unsigned number) {
  Descriptor name(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = "lockr-test-port-" + std::to_string(number);
  std::copy(text.begin(), text.end(), address.sun_path + 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  const bool bound = ::bind(name.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0;
  return bound ? std::move(name) : Descriptor(-1);
}

// A port that is bound is no client's. Fails where somebody listens.
Descriptor taken_place(unsigned number) {
  Descriptor place(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(place.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = ::htons(static_cast<std::uint16_t>(number));
  const bool bound = ::bind(place.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  return bound ? std::move(place) : Descriptor(-1);
}

}  // namespace

Port::Port() : name_(-1), place_(-1) {
  const ClientPorts clients = client_ports();
  const unsigned start = std::random_device()() % kCount;
  for (const bool of_clients : {false, true}) {
    for (unsigned i = 0; i < kCount; ++i) {
      const unsigned number = kFirst + (start + i) % kCount;
      if (clients.has(number) == of_clients && claim(number)) return;
    }
  }
  throw std::runtime_error("no port is left for a test's server");
}

bool Port::claim(unsigned number) {
  Descriptor name = claimed_name(number);
  if (name.get() < 0) return false;
  Descriptor place = taken_place(number);
  if (place.get() < 0) return false;
  number_ = static_cast<std::uint16_t>(number);
  name_ = std::move(name);
  place_ = std::move(place);
  return true;
}

}  // namespace lockr::testing
