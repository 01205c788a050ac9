// The module "lease": locks in a LeaseTable, right as it stands, or wrong in the one way that its config names.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/spi/module.h"
#include "lockr/spi/polling.h"
#include "tests/torture/controls/lease_table.h"

namespace {

using namespace lockr;
using namespace lockr::spi;
using torture::Lease;
using torture::LeaseTable;

constexpr auto kValidity = std::chrono::milliseconds(400);
constexpr auto kPollInterval = std::chrono::milliseconds(1);

enum class Broken {
  nothing,
  resets_tokens,    // The engine counts from 0 again when it is restarted.
  renews_released,  // What was given back is renewed once more, which takes it anew.
  releases_twice,   // A release whose answer did not come is sent again, without a look at who has the lock by then.
  has_no_ttl,       // A lock of the dead stays.
  hides_losses,     // That the engine has forgotten a lock is not told.
};
constexpr std::array<std::string_view, 6> kNames{"nothing",        "resets_tokens", "renews_released",
                                                 "releases_twice", "has_no_ttl",    "hides_losses"};

Traits lease_traits() {
  Traits traits;
  traits.capabilities = {.backend = "lease",
                         .fencing = true,
                         .cross_process = true,
                         .takeover = kValidity + 10 * kPollInterval,
                         .loss = kValidity};
  traits.identity_is_hash = true;
  return traits;
}

class LeaseBackend final : public PollingBackend {
 public:
  LeaseBackend(const OpenContext& context, const std::string& table, Broken broken)
      : PollingBackend(context.runtime, lease_traits(), {.validity = kValidity, .poll_interval = kPollInterval}),
        table_(table),
        owner_(table_.new_owner()),
        broken_(broken) {}

 private:
  void take(std::span<Request* const> batch) override;
  void give_back(std::span<Request* const> batch) override;
  Status renew(std::span<Held> batch) override;

  std::uint64_t end_of_lease() const {
    if (broken_ == Broken::has_no_ttl) return Lease::kForEver;
    return LeaseTable::now() + std::chrono::milliseconds(kValidity).count();
  }
  void release_again();
  void renew_released();
  void restart();

  LeaseTable table_;
  const std::uint64_t owner_;
  const Broken broken_;
  std::vector<std::uint64_t> released_;  // What a broken one goes on to bother with.
};

void LeaseBackend::take(std::span<Request* const> batch) {
  if (broken_ == Broken::resets_tokens) restart();
  if (broken_ == Broken::releases_twice) release_again();
  for (Request* request : batch) {
    auto& row = table_.row(request->identity);
    std::uint64_t word = row.lease.load();
    Lease lease = Lease::of(word);
    request->answer = Answer::refused;
    if (lease.held(LeaseTable::now())) continue;
    lease = {.owner = owner_, .until = end_of_lease(), .grants = lease.grants + 1};
    if (!row.lease.compare_exchange_strong(word, lease.word())) continue;
    request->token = lease.grants;
    request->answer = Answer::granted;
  }
}

void LeaseBackend::give_back(std::span<Request* const> batch) {
  for (Request* request : batch) {
    auto& row = table_.row(request->identity);
    std::uint64_t word = row.lease.load();
    Lease lease = Lease::of(word);
    request->answer = Answer::not_held;
    if (lease.owner != owner_ || !lease.held(LeaseTable::now())) continue;
    lease.owner = 0;
    if (row.lease.compare_exchange_strong(word, lease.word())) request->answer = Answer::released;
    released_.push_back(request->identity);
  }
  if (broken_ != Broken::releases_twice && broken_ != Broken::renews_released) released_.clear();
}

Status LeaseBackend::renew(std::span<Held> batch) {
  if (broken_ == Broken::renews_released) renew_released();
  for (Held& held : batch) {
    auto& row = table_.row(held.identity);
    std::uint64_t word = row.lease.load();
    Lease lease = Lease::of(word);
    held.lost = lease.owner != owner_ || !lease.held(LeaseTable::now());
    lease.until = end_of_lease();
    held.lost = held.lost || !row.lease.compare_exchange_strong(word, lease.word());
    if (broken_ == Broken::hides_losses) held.lost = false;
  }
  return {};
}

void LeaseBackend::release_again() {
  for (const std::uint64_t identity : released_) {
    auto& row = table_.row(identity);
    std::uint64_t word = row.lease.load();
    Lease lease = Lease::of(word);
    lease.owner = 0;
    row.lease.compare_exchange_strong(word, lease.word());
  }
  released_.clear();
}

void LeaseBackend::renew_released() {
  for (const std::uint64_t identity : released_) {
    auto& row = table_.row(identity);
    std::uint64_t word = row.lease.load();
    Lease lease = Lease::of(word);
    if (lease.held(LeaseTable::now())) continue;
    lease.owner = owner_;
    lease.until = Lease::kForEver;  // And again and again.
    row.lease.compare_exchange_strong(word, lease.word());
  }
}

// Locks survive it, as on a server that writes them down; the count does not.
void LeaseBackend::restart() {
  constexpr std::uint64_t kEvery = 200;
  std::uint64_t last = table_.restarted().load();
  const std::uint64_t now = LeaseTable::now();
  if (last == 0 || now < last + kEvery) {
    if (last == 0) table_.restarted().compare_exchange_strong(last, now);
    return;
  }
  if (!table_.restarted().compare_exchange_strong(last, now)) return;
  for (auto& row : table_.rows()) {
    for (std::uint64_t word = row.lease.load();;) {
      Lease lease = Lease::of(word);
      lease.grants = 0;
      if (row.lease.compare_exchange_weak(word, lease.word())) break;
    }
  }
}

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"table", "broken"}); !known) return fail(known.error());
  const auto table = context.section.string("table");
  const auto broken = context.section.string("broken");
  if (!table) return fail(table.error());
  if (!broken) return fail(broken.error());
  if (!*table) return fail(context.section.invalid("table", "a path"));
  const auto* const name = std::find(kNames.begin(), kNames.end(), broken->value_or("nothing"));
  if (name == kNames.end()) return fail(context.section.invalid("broken", "the name of a way to be wrong"));
  return std::make_unique<LeaseBackend>(context, **table, static_cast<Broken>(name - kNames.begin()));
}

const BackendInfo kLease{
    .name = "lease",
    .schemes = nullptr,
    .summary = "leases in a file",
    .schema = R"({"type": "object"})",
    .create = create,
};

}  // namespace

LOCKR_MODULE(kLease);
