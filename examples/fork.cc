// A child is not a second holder: what it inherits holds nothing there, says so, and disturbs nobody. It opens a locker
// of its own.
#include <lockr/lockr.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iostream>
#include <memory>

namespace {

int child(lockr::Locker& inherited, lockr::Releaser& parents, const lockr::Key& key) {
  // [child]
  auto refused = inherited.try_lock(key);  // errc::forked_process
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value());
  if (!locker) return 1;
  auto taken = (*locker)->try_lock(key);  // errc::not_acquired: the parent has it
  // [child]
  const bool told = !refused && refused.error().code() == lockr::errc::forked_process;
  const bool excluded = !taken && taken.error().code() == lockr::errc::not_acquired;
  return told && excluded && !parents.held() ? 0 : 1;
}

}  // namespace

int main() {
  auto locker = lockr::open(lockr::LockerConfig::from_url("file:").value()).value();
  const auto key = lockr::Key::from_scopes({"fork", "example"}).value();
  auto held = locker->lock(key).value();

  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(child(*locker, held, key));
  int status = 0;
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid) return 1;
  std::cout << "the child says " << status << ", and the parent " << (held.held() ? "still holds" : "lost")
            << " the lock\n";
  return status == 0 && held.held() && held.release() ? 0 : 1;
}
