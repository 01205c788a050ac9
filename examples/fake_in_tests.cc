// Code that takes a lockr::Session can be tested without an engine: the test hands it a fake session, and decides what
// each lock() answers and whether a lock is lost.
#include <lockr/lockr.h>

#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

// The code under test: sends an invoice if nobody else does, and stops when the lock is lost on the way.
// [under test]
enum class Outcome { sent, busy, abandoned };

Outcome send_invoice(lockr::Session& session, std::vector<std::string>& pages) {
  auto held = session.try_lock({"tenant", "42", "invoice"});
  if (!held) return Outcome::busy;
  for (const auto* page : {"first page", "second page"}) {
    if (!held->held()) return Outcome::abandoned;
    pages.emplace_back(page);
  }
  return held->release() ? Outcome::sent : Outcome::abandoned;
}
// [under test]

// [fake]
// A lock that is lost after it has been looked at so many times.
class FakeGrant final : public lockr::Grant {
 public:
  FakeGrant(lockr::Key key, int looks) : key_(std::move(key)), looks_(looks) {}

  lockr::Status release() noexcept override {
    return lost() ? lockr::Status(lockr::fail(lockr::Error(lockr::errc::lock_lost))) : lockr::Status();
  }
  bool held() const noexcept override { return looks_-- > 0; }
  bool lost() const noexcept override { return looks_ <= 0; }
  std::stop_token lost_token() override { return lost_.get_token(); }
  std::optional<lockr::BootClock::time_point> valid_until() const noexcept override { return std::nullopt; }
  const lockr::Key& key() const noexcept override { return key_; }
  lockr::Mode mode() const noexcept override { return lockr::Mode::exclusive; }
  lockr::Result<std::uint64_t> fencing_token() const override { return 1; }
  lockr::Result<std::vector<lockr::Descriptor>> descriptors() const override { return {}; }
  void dispose() noexcept override { delete this; }

 private:
  lockr::Key key_;
  mutable int looks_;
  std::stop_source lost_;
};

// A session that answers each try as the test has planned.
class FakeSession final : public lockr::Session {
 public:
  using lockr::Session::lock, lockr::Session::try_lock;
  static constexpr int kRefuse = 0;

  void answer_next(int looks) { looks_ = looks; }

  lockr::Result<lockr::Releaser> try_lock(const lockr::Key& key, lockr::Mode /*mode*/) override {
    if (looks_ == kRefuse) return lockr::fail(lockr::Error(lockr::errc::not_acquired));
    return lockr::Releaser(new FakeGrant(key, looks_));
  }
  lockr::Result<lockr::Releaser> lock(const lockr::Key& key, const lockr::LockOptions& options) override {
    return try_lock(key, options.mode);
  }
  lockr::Result<std::vector<lockr::Releaser>> lock_all(std::span<const lockr::Key> /*keys*/,
                                                       const lockr::LockOptions& /*options*/) override {
    return lockr::fail(lockr::Error(lockr::errc::unsupported));
  }
  lockr::Result<lockr::Releaser> try_lock_any(std::span<const lockr::Key> /*keys*/, lockr::Mode /*mode*/) override {
    return lockr::fail(lockr::Error(lockr::errc::unsupported));
  }
  lockr::Status close() override { return {}; }
  std::string_view label() const noexcept override { return "fake"; }

 private:
  int looks_ = kRefuse;
};
// [fake]

bool check(const char* what, FakeSession& session, Outcome outcome, std::size_t pages_sent) {
  std::vector<std::string> pages;
  const bool well = send_invoice(session, pages) == outcome && pages.size() == pages_sent;
  (well ? std::cout : std::cerr) << what << (well ? ": as expected" : ": NOT as expected") << '\n';
  return well;
}

}  // namespace

int main() {
  FakeSession session;
  session.answer_next(100);
  bool well = check("nobody else", session, Outcome::sent, 2);
  session.answer_next(FakeSession::kRefuse);
  well &= check("somebody else", session, Outcome::busy, 0);
  session.answer_next(1);
  well &= check("lost on the way", session, Outcome::abandoned, 1);
  return well ? 0 : 1;
}
