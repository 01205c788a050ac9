// A holder that was paused does not know that its lock is somebody else's by now. The guarded thing knows, when it
// compares fencing tokens: each acquisition has a greater one, and what comes with a smaller one is too late.
#include <lockr/lockr.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <string_view>

namespace {

// [guarded]
// The thing that the lock guards. In SQL: UPDATE invoice SET …, token = $1 WHERE id = 42 AND token <= $1.
class Invoice {
 public:
  bool write(std::uint64_t token, std::string_view text) {
    if (token < newest_) return false;  // a later holder has written already
    newest_ = token;
    text_ = text;
    return true;
  }
  const std::string& text() const { return text_; }

 private:
  std::uint64_t newest_ = 0;
  std::string text_;
};
// [guarded]

}  // namespace

int main() {
  auto locker = lockr::open(lockr::LockerConfig::from_url("memory:").value()).value();
  const auto key = lockr::Key::from_scopes({"tenant", "42", "invoice"}).value();
  Invoice invoice;

  // The first holder is paused for so long that its session is closed under it.
  auto slow = locker->open_session({.label = "slow"}).value();
  auto paused = slow->lock(key).value();
  const std::uint64_t old_token = paused.fencing_token().value();
  if (!slow->close()) return 1;

  auto held = locker->lock(key).value();
  const std::uint64_t new_token = held.fencing_token().value();
  const bool in_time = invoice.write(new_token, "of the second holder");
  const bool too_late = invoice.write(old_token, "of the first holder");  // it wakes up, and writes

  std::cout << "token " << new_token << (in_time ? " wrote" : " was rejected") << ", token " << old_token
            << (too_late ? " wrote" : " was rejected") << "; the invoice is " << invoice.text() << '\n';
  return in_time && !too_late && new_token > old_token && invoice.text() == "of the second holder" ? 0 : 1;
}
