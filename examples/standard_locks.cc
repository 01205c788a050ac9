// A session and a key as a mutex of the standard library: std::unique_lock and std::scoped_lock then take locks between
// processes. This is the one part of lockr that throws, as their interface has no other way to say no.
#include <lockr/lockr.h>
#include <lockr/std_mutex.h>

#include <chrono>
#include <iostream>
#include <mutex>
#include <shared_mutex>
#include <system_error>

using namespace std::chrono_literals;

namespace {

lockr::Key key_of(std::string_view name) { return lockr::Key::from_scopes({"std_mutex", name}).value(); }

// False when somebody else kept a key for too long; whoever waits without a limit of its own hears it as an exception.
bool write_both(lockr::Session& session) {
  // [scoped]
  lockr::StdMutex ledger(session, key_of("ledger"));
  lockr::StdMutex archive(session, key_of("archive"));
  try {
    const std::scoped_lock both(ledger, archive);
    std::cout << "both are ours: token " << ledger.held()->fencing_token().value() << '\n';
    return ledger.held()->held() && archive.held()->held();
  } catch (const std::system_error& error) {  // error.code() == lockr::errc::timeout, for one
    std::cerr << error.what() << '\n';
    return false;
  }
  // [scoped]
}

bool read_while_nobody_writes(lockr::Session& reader, lockr::Session& writer) {
  // [timed]
  lockr::StdMutex to_read(reader, key_of("page"));
  lockr::StdMutex to_write(writer, key_of("page"));

  const std::shared_lock reading(to_read);
  const std::unique_lock writing(to_write, 20ms);  // false: somebody reads
  // [timed]
  return reading.owns_lock() && !writing.owns_lock();
}

}  // namespace

int main() {
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
  auto one = locker->open_session().value();
  auto other = locker->open_session().value();
  return write_both(*one) && write_both(*other) && read_while_nobody_writes(*one, *other) ? 0 : 1;
}
