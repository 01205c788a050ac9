#include "backends/redis/errors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace lockr::redis {
namespace {

struct Meaning {
  std::string_view start;  // Of the reply.
  errc code;
  bool retryable;
  std::string_view hint;
};

constexpr std::string_view kGrant = "grant it to the ACL user; backends/redis/README.md has the line to use";

// The first that fits.
constexpr std::array kMeanings{
    Meaning{"NOAUTH", errc::access_denied, false,
            "the server wants a password; set \"password\", and \"user\" for ACL"},
    Meaning{"WRONGPASS", errc::access_denied, false, "check user and password"},
    Meaning{"NOPERM", errc::access_denied, false, kGrant},
    Meaning{"ERR The user executing the script can't", errc::access_denied, false, kGrant},
    Meaning{"ERR AUTH", errc::access_denied, false, "check user and password"},
    Meaning{"ERR Client sent AUTH", errc::access_denied, false, "the server has no password; leave it out"},
    Meaning{"ERR max number of clients", errc::capacity, true, "raise the server's maxclients or use fewer lanes"},
    Meaning{"ERR DB index", errc::invalid_config, false, "check \"database\""},
    Meaning{"OOM", errc::capacity, true, "the server has reached maxmemory; give it more or store less"},
    Meaning{"MISCONF", errc::backend_failure, true,
            "the server can't save to its disk and therefore refuses every write; free some space there"},
    Meaning{"NOREPLICAS", errc::backend_failure, true, "the server has fewer replicas than min-replicas-to-write"},
    Meaning{"READONLY", errc::connection_lost, true, "the server has become a replica; connect to the primary"},
    Meaning{"MASTERDOWN", errc::connection_lost, true, "the server is a replica without its primary"},
    Meaning{"LOADING", errc::connection_lost, true, "the server is starting and loads its data"},
    Meaning{"BUSY", errc::connection_lost, true, "somebody's script runs for too long; SCRIPT KILL ends it"},
    Meaning{"TRYAGAIN", errc::connection_lost, true, ""},
    Meaning{"CLUSTERDOWN", errc::connection_lost, true, ""},
    Meaning{"MOVED", errc::unsupported, false, "the server is part of a Redis Cluster, which is not supported"},
    Meaning{"ASK", errc::unsupported, false, "the server is part of a Redis Cluster, which is not supported"},
    Meaning{"CROSSSLOT", errc::unsupported, false, "the server is part of a Redis Cluster, which is not supported"},
    Meaning{"WRONGTYPE", errc::backend_failure, false,
            "something else is stored under a name of lockr's; delete it or set another \"prefix\""},
    Meaning{"ERR unknown command", errc::unsupported, false,
            "the server has no such command, or it was renamed; lockr needs Redis 6.2 or later"},
};

// "OOM command …" -> "OOM"
std::string first_word(std::string_view reply) { return std::string(reply.substr(0, reply.find(' '))); }

}  // namespace

std::string one_line(std::string_view text) {
  constexpr std::size_t kMost = 300;
  std::string out;
  for (const char c : text.substr(0, kMost)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (control && !out.empty() && out.back() == ' ') continue;
    out += control ? ' ' : c;
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '.')) out.pop_back();
  return out;
}

Error from_reply(std::string_view what, std::string_view reply) {
  const auto* const meaning = std::find_if(kMeanings.begin(), kMeanings.end(),
                                           [&](const Meaning& each) { return reply.starts_with(each.start); });
  const bool known = meaning != kMeanings.end();
  std::string message = std::string(what) + ": " + one_line(reply);
  if (known && !meaning->hint.empty()) message.append("; ").append(meaning->hint);
  return Error(known ? meaning->code : errc::backend_failure, std::move(message))
      .with_native(first_word(reply))
      .with_retryable(known && meaning->retryable);
}

bool is_noscript(std::string_view reply) noexcept { return reply.starts_with("NOSCRIPT"); }

bool is_half_done(std::string_view reply) noexcept {
  constexpr std::array<std::string_view, 5> kBefore{"OOM", "MISCONF", "READONLY", "NOREPLICAS", "NOSCRIPT"};
  const bool before = std::any_of(kBefore.begin(), kBefore.end(), [&](auto each) { return reply.starts_with(each); });
  return !before && reply.find("script") != reply.npos;
}

bool is_demoted(std::string_view reply) noexcept {
  return reply.starts_with("READONLY") || reply.starts_with("MASTERDOWN");
}

Error from_errno(std::string_view what, int number) {
  const bool exhausted = number == EMFILE || number == ENFILE;
  return Error(exhausted ? errc::capacity : errc::connection_lost,
               std::string(what) + ": " + std::strerror(number) + (exhausted ? "; raise `ulimit -n`" : ""));
}

Error connection_ended(std::string_view why) {
  return Error(errc::connection_lost, "the connection to Redis ended: " + std::string(why));
}

}  // namespace lockr::redis
