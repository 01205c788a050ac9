// The lock table alone against its model: the same random calls to both, and after each the same answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/table_storage.h"
#include "tests/simulation/seeds.h"
#include "tests/simulation/table_model.h"
#include "tests/support/same_hash.h"

namespace lockr::testing {
namespace {

using namespace std::chrono_literals;
using core::Effects;
using core::Entered;
using core::SessionCore;
using core::Sleeper;
using core::Table;
using core::TableGrant;
using core::Waiter;
using spi::Time;
using State = TableModel::State;
using Ticket = TableModel::Ticket;

/// Time stands where it was put; remembers who was woken: the word of a Sleeper is where it begins itself.
class StillRuntime final : public spi::Runtime {
 public:
  Time steady_now() noexcept override { return now; }
  Time boot_now() noexcept override { return now; }
  Time wall_now() noexcept override { return now; }
  void park(std::atomic<std::uint32_t>&, std::uint32_t, Time) noexcept override { std::abort(); }
  void wake(const void* word) noexcept override { woken.insert(word); }
  void park_among(std::atomic<std::uint32_t>&, std::uint32_t, std::uint32_t, Time) noexcept override { std::abort(); }
  void wake_among(const void*, std::uint32_t) noexcept override { std::abort(); }
  std::uint64_t random() noexcept override { std::abort(); }
  std::unique_ptr<Thread> start(const char*, std::function<void()>) override { std::abort(); }

  Time now = 1000s;
  std::set<const void*> woken;
};

/// One random schedule.
class Schedule {
 public:
  explicit Schedule(std::uint64_t seed) : dice_(seed) {
    const std::size_t held_limit = one_in(4) ? 1 + below(3) : 0;
    const std::size_t waiter_limit = one_in(4) ? 1 + below(4) : 0;
    by_hash_ = one_in(2);
    model_ = std::make_unique<TableModel>(held_limit, waiter_limit);
    table_ = std::make_unique<Table>(core::TableSetup{
        .runtime = &runtime_, .identity_is_hash = by_hash_, .held_limit = held_limit, .waiter_limit = waiter_limit});
    const auto [first, second] = keys_of_one_hash();
    keys_ = {Key::parse("a").value(), first, second};
    keys_.resize(1 + below(3), Key::none());
    for (std::size_t i = 0; i < 2 + below(5); ++i) open_session();
  }

  void run() {
    const std::size_t steps = 20 + below(60);
    for (std::size_t i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      step();
      compare();
    }
    if (one_in(2)) close_table();
    end();
  }
  std::size_t calls() const { return calls_.size(); }

 private:
  struct Owner {
    int number;
    bool detects;
    std::unique_ptr<SessionCore> session;
  };
  struct Call {
    Key key;
    std::string name;
    Owner* owner;
    Mode mode;
    std::unique_ptr<Waiter> waiter;
    TableGrant* grant = nullptr;  // Until it is disposed of.
    Time asked{0};
    bool queued = false;
    bool told_overdue = false;
  };

  std::uint64_t below(std::uint64_t bound) { return dice_() % bound; }
  bool one_in(unsigned count) { return below(count) == 0; }
  std::string name_of(const Key& key) const {
    return by_hash_ ? std::to_string(key.hash()) : std::string(key.string());
  }

  Owner& open_session() {
    Owner owner{.number = static_cast<int>(owners_.size()), .detects = !one_in(4), .session = nullptr};
    owner.session = std::make_unique<SessionCore>("session " + std::to_string(owner.number));
    owner.session->detect_deadlocks = owner.detects;
    model_->add_session(owner.number, owner.detects);
    owners_.push_back(std::make_unique<Owner>(std::move(owner)));
    return *owners_.back();
  }

  void step() {
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return enter();
      case 4:
        return pass_time();
      case 5:
        return with_one_queued([&](Ticket ticket) { poll(ticket); });
      case 6:
        return with_one_queued([&](Ticket ticket) { leave(ticket, one_in(2) ? errc::timeout : errc::cancelled); });
      case 7:
        return with_one_queued([&](Ticket ticket) { detect(ticket); });
      case 8:
        return with_one_granted([&](Ticket ticket) { release(ticket); });
      case 9:
      case 10:
        return with_one_granted([&](Ticket ticket) { dispose(ticket); });
      default:
        if (one_in(5)) close_session();
    }
  }

  // ---- calls

  void enter() {
    Owner& owner = *owners_[below(owners_.size())];
    // A session that takes part in deadlock detection belongs to one thread.
    const bool waits = std::any_of(calls_.begin(), calls_.end(),
                                   [&](const auto& each) { return each.second.queued && each.second.owner == &owner; });
    if (waits && owner.detects) return;
    const Ticket ticket = next_ticket_++;
    const Key& key = keys_[below(keys_.size())];
    Call& call = calls_
                     .emplace(ticket, Call{.key = key,
                                           .name = name_of(key),
                                           .owner = &owner,
                                           .mode = one_in(2) ? Mode::exclusive : Mode::shared,
                                           .waiter = std::make_unique<Waiter>(),
                                           .asked = runtime_.now})
                     .first->second;
    const bool is_try = one_in(3);
    const auto expected = model_->enter(ticket, owner.number, call.name, call.mode, is_try);
    // As a Session does: by the short path, else by the long one.
    call.grant = one_in(2) ? table_->take_free(*owner.session, call.key, call.mode) : nullptr;
    if (!call.grant) enter_by_the_long_path(call, is_try);
    check_entered(call, expected);
    if (call.queued && !is_try) detect(ticket);
  }

  void enter_by_the_long_path(Call& call, bool is_try) {
    Effects effects;
    effects.self = call.waiter.get();
    const Entered entered =
        table_->enter(*call.owner->session, call.key, {.mode = call.mode, .is_try = is_try}, *call.waiter, effects);
    note(effects);
    call.queued = entered == Entered::queued;
    if (entered == Entered::granted) call.grant = call.waiter->grant;
  }

  void check_entered(const Call& call, const TableModel::Result& expected) {
    EXPECT_EQ(call.grant != nullptr, expected.state == State::granted);
    EXPECT_EQ(call.queued, expected.state == State::queued);
    if (expected.error && call.waiter->error) {
      EXPECT_EQ(call.waiter->error->code(), *expected.error);
    }
    EXPECT_EQ(expected.error.has_value(), call.waiter->error.has_value());
    if (call.grant) check_token(call, expected.repeats);
  }

  void check_token(const Call& call, const std::vector<Ticket>& repeats) {
    const std::uint64_t token = call.grant->fencing_token().value_or(0);
    EXPECT_EQ(call.grant->key(), call.key);
    EXPECT_EQ(call.grant->mode(), call.mode);
    std::uint64_t& last = tokens_[call.name];
    if (!repeats.empty()) {
      EXPECT_TRUE(std::any_of(repeats.begin(), repeats.end(), [&](Ticket each) { return token_of_[each] == token; }));
    } else {
      EXPECT_GT(token, last);
      last = token;
    }
    token_of_[ticket_of(call)] = token;
  }

  void poll(Ticket ticket) {
    Call& call = calls_.at(ticket);
    const bool overdue = runtime_.now - call.asked >= core::kBarging;
    call.told_overdue |= overdue;
    Effects effects;
    runtime_.woken.erase(&call.waiter->sleeper);
    const bool decided = table_->poll(*call.waiter, effects);
    note(effects);
    EXPECT_EQ(decided, model_->poll(ticket, overdue));
  }

  void leave(Ticket ticket, errc code) {
    Effects effects;
    EXPECT_TRUE(table_->leave(*calls_.at(ticket).waiter, code, effects));
    note(effects);
    model_->leave(ticket, code);
  }

  void detect(Ticket ticket) {
    Effects effects;
    const bool found = table_->leave_if_deadlocked(*calls_.at(ticket).waiter, effects);
    note(effects);
    EXPECT_EQ(found, model_->leave_if_deadlocked(ticket));
  }

  void release(Ticket ticket) {
    Effects effects;
    core::ReleaseWait wait;
    const auto status = table_->release(*calls_.at(ticket).grant, wait, effects);
    note(effects);
    ASSERT_TRUE(status) << "nothing beneath this table could be waited for";
    const auto expected = model_->release(ticket);
    EXPECT_EQ(status->has_value(), !expected);
    if (expected && !*status) {
      EXPECT_EQ(status->error().code(), *expected);
    }
  }

  void dispose(Ticket ticket) {
    Call& call = calls_.at(ticket);
    TableGrant& grant = *std::exchange(call.grant, nullptr);
    if (!one_in(2) || !table_->give_free(grant)) {
      Effects effects;
      table_->dispose(grant, effects);
      note(effects);
    }
    model_->dispose(ticket);
  }

  void close_session() {
    Owner& owner = *owners_[below(owners_.size())];
    if (model_->closed(owner.number)) return;
    Effects effects;
    std::deque<core::PendingRelease> pending;
    table_->close_session(*owner.session, effects, pending);
    note(effects);
    EXPECT_TRUE(pending.empty());
    model_->close_session(owner.number);
    open_session();
  }

  // Every waiter wakes when it has waited for so long, and looks for itself.
  void pass_time() {
    runtime_.now += Time(static_cast<Time::rep>(below(1'500'000)));
    for (auto& [ticket, call] : calls_) {
      if (call.queued && !call.told_overdue && runtime_.now - call.asked >= core::kBarging) {
        absorb();
        if (call.queued) poll(ticket);
      }
    }
  }

  void close_table() {
    Effects effects;
    table_->close(effects);
    note(effects);
    model_->close();
    compare();
  }

  // ---- comparing

  Ticket ticket_of(const Call& call) const {
    for (const auto& [ticket, each] : calls_) {
      if (&each == &call) return ticket;
    }
    return -1;
  }

  void note(Effects& effects) {
    effects.wakes.carry_out(runtime_);
    self_ = effects.self;
    EXPECT_FALSE(effects.has_requests());
    EXPECT_FALSE(effects.notices);
    absorb();
  }

  // Takes over what became of waiters; whoever was decided by another's call must have been woken.
  void absorb() {
    for (auto& [ticket, call] : calls_) {
      if (!call.queued || !call.waiter->sleeper.decided()) continue;
      call.queued = false;
      EXPECT_TRUE(call.waiter.get() == self_ || runtime_.woken.contains(&call.waiter->sleeper)) << "nobody woke it";
      if (call.waiter->sleeper.state() == Sleeper::kGranted) {
        call.grant = call.waiter->grant;
        check_token(call, {});
      }
    }
    self_ = nullptr;
  }

  void compare() {
    absorb();
    for (const auto& [ticket, call] : calls_) {
      const State state = model_->state(ticket);
      EXPECT_EQ(call.queued, state == State::queued) << "call " << ticket;
      if (state == State::failed && call.waiter->error) {
        EXPECT_EQ(call.waiter->error->code(), *model_->error(ticket)) << "call " << ticket;
      }
    }
    for (const Key& key : keys_) compare(key);
  }

  void compare(const Key& key) {
    const std::string name = name_of(key);
    std::vector<Holder> rows;
    for (const Key& each : keys_) {
      if (name_of(each) != name) continue;
      std::vector<Holder> some;
      table_->describe(some, &each);
      rows.insert(rows.end(), some.begin(), some.end());
    }
    const auto text = [&](bool waiting, const std::string& label, Mode mode) {
      return (waiting ? "waits " : "holds ") + label + (mode == Mode::shared ? " shared" : " exclusively");
    };
    std::multiset<std::string> seen;
    for (const Holder& row : rows) seen.insert(text(row.waiting, row.label, row.mode));
    std::multiset<std::string> expected;
    for (const auto& claim : model_->holders(name)) expected.insert(text(false, label_of(claim), claim.mode));
    for (const auto& claim : model_->queue(name)) expected.insert(text(true, label_of(claim), claim.mode));
    EXPECT_EQ(seen, expected);
    if (const auto next = model_->to_wake(name)) {
      EXPECT_EQ(calls_.at(*next).waiter->sleeper.state(), Sleeper::kNudged)
          << "the key is free and its first waiter sleeps";
    }
  }
  std::string label_of(const TableModel::Claim& claim) const { return "session " + std::to_string(claim.session); }

  void with_one_queued(auto action) {
    std::vector<Ticket> queued;
    for (const auto& [ticket, call] : calls_) {
      if (call.queued) queued.push_back(ticket);
    }
    if (!queued.empty()) action(queued[below(queued.size())]);
  }
  void with_one_granted(auto action) {
    std::vector<Ticket> granted;
    for (const auto& [ticket, call] : calls_) {
      if (call.grant) granted.push_back(ticket);
    }
    if (!granted.empty()) action(granted[below(granted.size())]);
  }

  // Everyone leaves; nothing may be left.
  void end() {
    for (auto& [ticket, call] : calls_) {
      if (call.queued) leave(ticket, errc::cancelled);
      if (call.grant) dispose(ticket);
    }
    for (auto& [ticket, call] : calls_) {
      if (call.grant) dispose(ticket);
    }
    compare();
    const Stats seen = table_->count();
    const Stats expected = model_->stats();
    const auto numbers = [](const Stats& s) {
      return std::array{s.acquired,  s.reentries, s.released,   s.not_acquired, s.waited, s.timeouts,
                        s.cancelled, s.deadlocks, s.handed_off, s.held,         s.waiting};
    };
    EXPECT_EQ(numbers(seen), numbers(expected));
    EXPECT_EQ(seen.held + seen.waiting, 0u);
    EXPECT_EQ(seen.acquired, seen.released);
  }

  std::mt19937_64 dice_;
  StillRuntime runtime_;
  bool by_hash_ = false;
  std::unique_ptr<TableModel> model_;
  std::vector<Key> keys_;
  std::vector<std::unique_ptr<Owner>> owners_;
  std::unique_ptr<Table> table_;
  std::map<Ticket, Call> calls_;
  std::map<std::string, std::uint64_t> tokens_;  // The last of each key.
  std::map<Ticket, std::uint64_t> token_of_;
  const void* self_ = nullptr;
  Ticket next_ticket_ = 0;
};

TEST(TableModel, and_table_agree_on_every_schedule) {
  std::size_t calls = 0;
  for_each_seed(10'000, [&](std::uint64_t seed) {
    Schedule schedule(seed);
    schedule.run();
    calls += schedule.calls();
  });
  EXPECT_GT(calls, 0u);
}

}  // namespace
}  // namespace lockr::testing
