// lockr doctor: what the configured engine promises, and whether it keeps it here and now.
#include <unistd.h>

#include <iostream>
#include <string>
#include <string_view>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/settings.h"
#include "cli/text.h"
#include "lockr/registry.h"

namespace lockr::cli {
namespace {

void print(std::string_view name, std::string_view value) {
  std::cout << name << std::string(width(name) < 16 ? 16 - width(name) : 1, ' ') << value << '\n';
}

std::string yes_or_no(bool value) { return value ? "yes" : "no"; }

// Prints each check as it is made, and counts the failures.
class Checks {
 public:
  void good(std::string_view what) { std::cout << "ok      " << what << '\n'; }
  void bad(std::string_view what) {
    std::cout << "FAILED  " << what << '\n';
    ++failures_;
  }
  int failures() const { return failures_; }

 private:
  int failures_ = 0;
};

void print_promises(const Settings& settings, const Capabilities& engine) {
  print("config", settings.origin);
  print("backend", engine.backend);
  for (const auto& [name, value] : engine.facts) print(printable(name), printable(value));
  print("holds between", engine.cross_host      ? "programs of many hosts"
                         : engine.cross_process ? "programs of this host that use this configuration"
                                                : "threads of one program");
  print("shared mode", yes_or_no(engine.shared));
  print("fencing tokens", yes_or_no(engine.fencing));
  print("own connections", engine.dedicated ? "sessions may have one each (dedicated)" : "no");
  print("windows", engine.hold_at_least ? "a key can stay taken after its release (--at-least)" : "no");
  print("order", engine.fair ? "waiters in order of arrival"
                             : "waiters of one program in order of arrival, programs in any order");
  print("takeover", engine.takeover ? "a dead holder's key is free after " + for_people(*engine.takeover) + " at most"
                                    : "holder and waiter die together");
  print("loss", engine.loss == engine.loss.zero()
                    ? "the engine never gives away a lock that is held"
                    : "a lock that the engine gave away is noticed after " + for_people(engine.loss) + " at most");
}

// Takes and releases the key; the grant's fencing token, or 0 where there is none.
std::uint64_t check_lock(Locker& locker, const Key& key, Checks& checks) {
  auto held = locker.try_lock(key);
  if (!held) {
    checks.bad("take a lock: " + describe(held.error()));
    return 0;
  }
  checks.good("take a lock");
  if (auto other = locker.try_lock(key); other || other.error().code() != errc::not_acquired) {
    checks.bad("refuse a second holder: " + (other ? "it was granted too" : describe(other.error())));
  } else {
    checks.good("refuse a second holder");
  }
  const auto token = held->fencing_token();
  if (auto released = held->release(); !released) {
    checks.bad("release it: " + describe(released.error()));
  } else {
    checks.good("release it");
  }
  return token ? *token : 0;
}

void check_fencing(Locker& locker, const Key& key, std::uint64_t before, Checks& checks) {
  if (!locker.capabilities().fencing || before == 0) return;
  const auto held = locker.try_lock(key);
  const auto token = held ? held->fencing_token() : fail(held.error());
  if (!token) {
    checks.bad("read a fencing token: " + describe(token.error()));
  } else if (*token <= before) {
    checks.bad("fencing tokens grow: " + std::to_string(before) + " was followed by " + std::to_string(*token));
  } else {
    checks.good("fencing tokens grow");
  }
}

void check_inspect(Locker& locker, const Key& key, Checks& checks) {
  const auto held = locker.try_lock(key);
  const auto holders = locker.inspect(&key);
  if (!holders) return checks.bad("list holders: " + describe(holders.error()));
  for (const Holder& holder : *holders) {
    if (held && !holder.waiting && holder.pid == ::getpid()) return checks.good("list holders");
  }
  checks.bad("list holders: a lock that is held is not listed");
}

int examine(const Settings& settings) {
  Checks checks;
  const auto locker = lockr::open(settings.config);
  if (!locker) {
    print("config", settings.origin);
    checks.bad("open the engine: " + describe(locker.error()));
    return kFailed;
  }
  print_promises(settings, (*locker)->capabilities());
  std::cout << '\n';
  checks.good("open the engine");
  for (const std::string& need : settings.config.require()) checks.good("it has what the config requires: " + need);
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string ours = std::to_string(::getpid()) + '-' + std::to_string(now);  // A key that nobody else uses.
  const Key key = Key::from_scopes({"lockr-doctor", ours}).value();
  const std::uint64_t token = check_lock(**locker, key, checks);
  check_fencing(**locker, key, token, checks);
  check_inspect(**locker, key, checks);
  if (auto closed = (*locker)->close(); !closed) checks.bad("close the engine: " + describe(closed.error()));
  return checks.failures() == 0 ? kSuccess : kFailed;
}

}  // namespace

int doctor(const Arguments& arguments) {
  const auto parsed = parse_doctor(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const auto settings = load_settings(std::get<EngineChoice>(parsed));
  if (!settings) return failed(describe(settings.error()));
  return examine(*settings);
}

}  // namespace lockr::cli
