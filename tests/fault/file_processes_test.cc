// The file backend among processes that die, stop, fork, and lend their locks.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using spi::Answer;
using spi::Request;
using testing::Child;
using testing::eventually;
using testing::Party;
using testing::TempDirectory;

/// Memory that children share.
template <class T>
class Shared {
 public:
  Shared()
      : at_(static_cast<T*>(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Shared() { ::munmap(at_, sizeof(T)); }
  T* operator->() const { return at_; }

 private:
  T* at_;
};

/// Holds the key and lives until it is killed or told.
class HoldingChild : public Child {
 public:
  HoldingChild(const std::string& directory, std::string_view key)
      : Child([&](const Link& link) {
          Party party(directory);
          if (!party.take(key)) return 1;
          link.say('h');
          link.hear();
          return 0;
        }) {}
};

TEST(FileProcesses, a_killed_holder_frees_its_key) {
  const TempDirectory temp;
  HoldingChild holder(temp.path(), "key");
  ASSERT_EQ(holder.hear(), 'h');
  Party party(temp.path());
  party.serve();
  Request& wanted = party.request("key");
  ASSERT_EQ(party.submit(wanted), Answer::refused);
  ASSERT_TRUE(party.start_wait(wanted));
  ASSERT_EQ(party.holders("key").size(), 2u);
  holder.kill();
  EXPECT_EQ(party.answer_of(wanted), Answer::granted);
  const auto holders = party.holders("key");
  ASSERT_EQ(holders.size(), 1u);
  EXPECT_EQ(holders[0].pid, ::getpid());
}

TEST(FileProcesses, a_dead_holder_is_not_listed) {
  const TempDirectory temp;
  HoldingChild holder(temp.path(), "key");
  ASSERT_EQ(holder.hear(), 'h');
  Party party(temp.path());
  const auto before = party.holders();
  ASSERT_EQ(before.size(), 1u);
  EXPECT_EQ(before[0].pid, holder.pid());
  holder.kill();
  EXPECT_TRUE(party.holders().empty());
  EXPECT_TRUE(party.holders("key").empty());
}

TEST(FileProcesses, a_stopped_holder_keeps_its_key) {
  const TempDirectory temp;
  HoldingChild holder(temp.path(), "key");
  ASSERT_EQ(holder.hear(), 'h');
  holder.stop();
  Party party(temp.path());
  EXPECT_FALSE(party.take("key"));
  EXPECT_EQ(party.holders("key").size(), 1u);
}

// A waiter that was rung and never looks, as it is dead or stopped, delays the others once and a little.
void stalls_nobody(const std::function<void(Child&)>& end) {
  const TempDirectory temp;
  Child waiter([&](const Child::Link& link) {
    Party party(temp.path());
    link.hear();
    party.serve();
    Request& wanted = party.request("key");
    if (!party.start_wait(wanted)) return 1;
    link.say('w');
    link.hear();
    return 0;
  });
  Child second([&](const Child::Link& link) {
    Party party(temp.path());
    link.hear();
    party.serve();
    for (int round = 0; round < 50; ++round) {
      Request& wanted = party.request("key");
      if (party.submit(wanted) != Answer::granted) {
        if (!party.start_wait(wanted) || party.answer_of(wanted) != Answer::granted) return 2;
      }
      party.give_back(wanted);
    }
    link.say('d');
    link.hear();
    return 0;
  });
  Party party(temp.path());
  party.serve();
  Request* held = &party.request("key");
  ASSERT_EQ(party.submit(*held), Answer::granted);
  waiter.say('g');
  ASSERT_EQ(waiter.hear(), 'w');
  end(waiter);
  second.say('g');
  ASSERT_TRUE(eventually([&] {
    const auto all = party.holders("key");
    return std::any_of(all.begin(), all.end(), [&](const Holder& h) { return h.waiting && h.pid == second.pid(); });
  }));
  party.give_back(*held);
  EXPECT_EQ(second.hear(), 'd');
}

TEST(FileProcesses, a_killed_waiter_stalls_nobody) {
  stalls_nobody([](Child& waiter) { waiter.kill(); });
}

TEST(FileProcesses, a_stopped_waiter_stalls_nobody) {
  stalls_nobody([](Child& waiter) { waiter.stop(); });
}

TEST(FileProcesses, do_not_lose_an_update) {
  struct Witness {
    std::array<long, 2> counters;  // Not atomic: the lock has to do.
    std::array<std::uint64_t, 2> last_token;
    std::atomic<int> regressions;
    std::atomic<int> overlaps;
    std::array<std::atomic<int>, 2> inside;
  };
  constexpr int kRounds = 400;
  constexpr int kChildren = 6;
  const TempDirectory temp;
  Shared<Witness> witness;
  std::vector<std::unique_ptr<Child>> children;
  for (int number = 0; number < kChildren; ++number) {
    children.push_back(std::make_unique<Child>([&, number](const Child::Link& link) {
      Party party(temp.path());
      party.serve();
      link.say('r');
      link.hear();
      for (int round = 0; round < kRounds; ++round) {
        const auto which = static_cast<std::size_t>((round + number) % 2);
        Request& wanted = party.request("key:" + std::to_string(which));
        if (party.submit(wanted) != Answer::granted) {
          if (!party.start_wait(wanted) || party.answer_of(wanted) != Answer::granted) return 1;
        }
        if (witness->inside[which].exchange(1) != 0) ++witness->overlaps;
        if (wanted.token <= witness->last_token[which]) ++witness->regressions;
        witness->last_token[which] = wanted.token;
        witness->counters[which] = witness->counters[which] + 1;
        witness->inside[which] = 0;
        if (party.give_back(wanted) != Answer::released) return 2;
      }
      return 0;
    }));
  }
  for (auto& child : children) ASSERT_EQ(child->hear(), 'r');
  for (auto& child : children) child->say('g');
  for (auto& child : children) EXPECT_EQ(child->wait(), 0);
  EXPECT_EQ(witness->counters[0] + witness->counters[1], long{kRounds} * kChildren);
  EXPECT_EQ(witness->regressions, 0);
  EXPECT_EQ(witness->overlaps, 0);
}

TEST(FileProcesses, that_are_killed_at_any_moment_leave_nothing_behind) {
  const TempDirectory temp;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Child>> children;
    for (int number = 0; number < 3; ++number) {
      children.push_back(std::make_unique<Child>([&](const Child::Link& link) {
        Party party(temp.path());
        party.serve();
        link.say('r');
        for (;;) {
          Request& wanted = party.request("key");
          if (party.submit(wanted) != Answer::granted &&
              (!party.start_wait(wanted) || party.answer_of(wanted) != Answer::granted)) {
            return 1;
          }
          party.give_back(wanted);
        }
      }));
    }
    for (auto& child : children) ASSERT_EQ(child->hear(), 'r');
    for (auto& child : children) child->kill();
    Party party(temp.path());
    // Not at once: a key may be kept for a waiter that was killed, for some milliseconds.
    EXPECT_TRUE(eventually([&] { return party.take("key"); }));
    EXPECT_EQ(party.holders().size(), 1u);
  }
}

TEST(FileProcesses, a_forked_child_holds_nothing) {
  const TempDirectory temp;
  Child forker([&](const Child::Link& link) {
    Party party(temp.path());
    Request& mine = party.request("key");
    if (party.submit(mine) != Answer::granted) return 1;
    const pid_t child = ::fork();
    if (child == 0) {
      party.backend().before_fork();
      party.backend().forked();
      link.say('f');
      ::pause();
      ::_exit(0);
    }
    link.hear();
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    return party.give_back(mine) == Answer::released ? 0 : 2;
  });
  ASSERT_EQ(forker.hear(), 'f');
  Party party(temp.path());
  EXPECT_FALSE(party.take("key"));  // The child closed; the parent holds on.
  forker.say('x');
  EXPECT_EQ(forker.wait(), 0);
  EXPECT_TRUE(party.take("key"));
}

TEST(FileProcesses, a_forked_child_does_not_keep_its_dead_parents_lock) {
  const TempDirectory temp;
  Shared<std::atomic<pid_t>> grandchild;
  Child forker([&](const Child::Link& link) {
    Party party(temp.path());
    if (!party.take("key")) return 1;
    const pid_t child = ::fork();
    if (child == 0) {
      party.backend().before_fork();
      party.backend().forked();
      link.say('f');
      ::pause();
      ::_exit(0);
    }
    *grandchild.operator->() = child;
    ::pause();
    return 0;
  });
  ASSERT_EQ(forker.hear(), 'f');
  ASSERT_TRUE(eventually([&] { return grandchild->load() != 0; }));
  forker.kill();
  Party party(temp.path());
  EXPECT_TRUE(party.take("key"));
  EXPECT_EQ(party.holders().size(), 1u);
  ::kill(grandchild->load(), SIGKILL);
}

TEST(FileProcesses, a_guard_keeps_its_dead_parents_lock) {
  const TempDirectory temp;
  Shared<std::atomic<pid_t>> guard;
  Child holder([&](const Child::Link& link) {
    Party party(temp.path());
    Request& mine = party.request("key");
    if (party.submit(mine) != Answer::granted) return 1;
    auto lent = party.backend().descriptors(mine.seat, *mine.key);
    if (!lent) return 2;
    const pid_t child = ::fork();
    if (child == 0) {
      party.backend().before_fork();
      party.backend().forked();  // What was lent stays open.
      link.say('g');
      ::pause();
      ::_exit(0);
    }
    *guard.operator->() = child;
    ::pause();
    return 0;
  });
  ASSERT_EQ(holder.hear(), 'g');
  ASSERT_TRUE(eventually([&] { return guard->load() != 0; }));
  holder.kill();
  Party party(temp.path());
  party.serve();
  Request& wanted = party.request("key");
  ASSERT_EQ(party.submit(wanted), Answer::refused);
  const auto holders = party.holders("key");
  ASSERT_EQ(holders.size(), 1u);
  EXPECT_EQ(holders[0].pid, 0);  // Somebody holds it; who recorded it is dead.
  ASSERT_TRUE(party.start_wait(wanted));
  EXPECT_FALSE(party.answered(wanted));
  ::kill(guard->load(), SIGKILL);
  EXPECT_EQ(party.answer_of(wanted), Answer::granted);
}

}  // namespace
}  // namespace lockr::file
