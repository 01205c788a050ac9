// The module "bell": locks in a LeaseTable, whose waiters are woken and do not poll. With "broken" they listen, but do
// not look again after they began to: who released in between has woken nobody.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockr/spi/module.h"
#include "tests/torture/controls/lease_table.h"

namespace {

using namespace lockr;
using namespace lockr::spi;
using torture::Lease;
using torture::LeaseTable;

// What it takes to say to a server that one wants to listen.
constexpr auto kSubscribing = std::chrono::milliseconds(5);

class BellBackend final : public Backend {
 public:
  BellBackend(Runtime& runtime, const std::string& table, bool broken)
      : runtime_(runtime), table_(table), owner_(table_.new_owner()), broken_(broken) {
    traits_.capabilities = {.backend = "bell", .fencing = true, .cross_process = true};
    traits_.identity_is_hash = true;
  }

  Status open(Sink& sink, Time /*until*/) override {
    sink_ = &sink;
    return {};
  }
  const Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t link, std::span<Request* const> batch) override;
  bool start_wait(Request& request) override;
  void stop_wait(Request& request) override;
  void pump(Time until) override;
  void wake() override {
    woken_ = true;
    table_.ring();
  }
  Result<std::vector<Holder>> inspect(const Key* /*key*/, Time /*until*/) override { return std::vector<Holder>(); }
  void close(Time /*until*/) override {}
  void forked() noexcept override {}

 private:
  struct Waiting {
    Request* request;
    bool listens = false;
    std::uint32_t heard = 0;  // Releases of its row when it began to listen.
    bool over = false;
  };

  bool take(Request& request);
  bool give_back(const Request& request);
  void take_group(std::span<Request* const> group);
  bool serve(Waiting& waiting);

  Runtime& runtime_;
  LeaseTable table_;
  const std::uint64_t owner_;
  const bool broken_;
  Traits traits_;
  Sink* sink_ = nullptr;
  std::atomic<bool> woken_{false};
  std::mutex mutex_;
  std::vector<Waiting> waiting_;  // Guarded by mutex_.
};

bool BellBackend::take(Request& request) {
  auto& row = table_.row(request.identity);
  std::uint64_t word = row.lease.load();
  Lease lease = Lease::of(word);
  request.answer = Answer::refused;
  if (lease.owner != 0) return false;
  lease = {.owner = owner_, .until = Lease::kForEver, .grants = lease.grants + 1};
  if (!row.lease.compare_exchange_strong(word, lease.word())) return false;
  request.token = lease.grants;
  request.answer = Answer::granted;
  return true;
}

bool BellBackend::give_back(const Request& request) {
  auto& row = table_.row(request.identity);
  std::uint64_t word = row.lease.load();
  Lease lease = Lease::of(word);
  if (lease.owner != owner_) return false;
  lease.owner = 0;
  row.lease = lease.word();
  row.releases.fetch_add(1);
  table_.ring();
  return true;
}

void BellBackend::take_group(std::span<Request* const> group) {
  const bool all = group.front()->group == 0 || group.front()->group_rule == Group::all;
  for (std::size_t i = 0; i < group.size(); ++i) {
    if (take(*group[i]) == all) continue;
    for (std::size_t rest = i + 1; rest < group.size(); ++rest) group[rest]->answer = Answer::refused;
    if (!all) return;
    for (Request* taken : group.first(i)) {
      give_back(*taken);
      taken->answer = Answer::refused;
    }
    return;
  }
}

void BellBackend::submit(std::uint16_t /*link*/, std::span<Request* const> batch) {
  for (std::size_t first = 0; first < batch.size();) {
    std::size_t last = first + 1;
    while (batch[first]->group != 0 && last < batch.size() && batch[last]->group == batch[first]->group) ++last;
    const auto group = batch.subspan(first, last - first);
    first = last;
    if (group.front()->op == Op::take) {
      take_group(group);
      continue;
    }
    const bool had = give_back(*group.front());
    const bool yields = group.front()->op == Op::yield;
    group.front()->answer = !had ? Answer::not_held : yields ? Answer::refused : Answer::released;
  }
  for (Request* request : batch) sink_->done(*request);
}

bool BellBackend::start_wait(Request& request) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back({&request});
  }
  table_.ring();
  return true;
}

void BellBackend::stop_wait(Request& request) {
  {
    const std::lock_guard lock(mutex_);
    for (Waiting& each : waiting_) each.over = each.over || each.request == &request;
  }
  table_.ring();
}

// True: it is answered, and not to be waited for any more.
bool BellBackend::serve(Waiting& waiting) {
  const std::uint32_t releases = table_.row(waiting.request->identity).releases.load();
  const bool first = !std::exchange(waiting.listens, true);
  const bool looks = first ? !broken_ : releases != waiting.heard;
  waiting.heard = releases;
  if (looks && take(*waiting.request)) return true;
  waiting.request->answer = Answer::refused;
  return waiting.over;
}

void BellBackend::pump(Time until) {
  for (;;) {
    const std::uint32_t heard = table_.bell();
    if (woken_.exchange(false)) return;
    if (broken_) std::this_thread::sleep_for(kSubscribing);
    std::vector<Request*> answered;
    {
      const std::lock_guard lock(mutex_);
      std::erase_if(waiting_, [&](Waiting& each) {
        if (!serve(each)) return false;
        answered.push_back(each.request);
        return true;
      });
    }
    for (Request* request : answered) sink_->done(*request);
    const Time now = runtime_.steady_now();
    if (!answered.empty() || now >= until) return;
    table_.listen(heard, std::min<Time::rep>((until - now).count(), 1'000'000'000));
  }
}

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"table", "broken"}); !known) return fail(known.error());
  const auto table = context.section.string("table");
  const auto broken = context.section.boolean("broken");
  if (!table) return fail(table.error());
  if (!broken) return fail(broken.error());
  if (!*table) return fail(context.section.invalid("table", "a path"));
  return std::make_unique<BellBackend>(context.runtime, **table, broken->value_or(false));
}

const BackendInfo kBell{
    .name = "bell",
    .schemes = nullptr,
    .summary = "locks in a file, with a bell",
    .schema = R"({"type": "object"})",
    .create = create,
};

}  // namespace

LOCKR_MODULE(kBell);
