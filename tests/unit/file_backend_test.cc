#include "backends/file/file_backend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/file/ofd_lock.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using spi::Answer;
using spi::Op;
using spi::Request;
using testing::Party;
using testing::TempDirectory;

class FileBackendTest : public ::testing::Test {
 protected:
  FileBackendTest() {
    EXPECT_TRUE(one_.opened()) << one_.opened().error().to_string();
    EXPECT_TRUE(two_.opened()) << two_.opened().error().to_string();
  }

  static std::vector<Answer> submit_group(Party& party, std::vector<Request*> batch, spi::Group rule) {
    for (Request* request : batch) {
      request->op = Op::take;
      request->group = 7;
      request->group_rule = rule;
    }
    party.backend().submit(0, batch);
    std::vector<Answer> answers;
    for (const Request* request : batch) answers.push_back(request->answer);
    return answers;
  }
  using Answers = std::vector<Answer>;

  TempDirectory temp_;
  Party one_{temp_.path()};
  Party two_{temp_.path()};
};

TEST_F(FileBackendTest, says_what_it_can_do) {
  const spi::Traits& traits = one_.backend().traits();
  EXPECT_EQ(traits.lanes, 0);
  EXPECT_TRUE(traits.identity_is_hash);
  EXPECT_TRUE(traits.capabilities.shared);
  EXPECT_TRUE(traits.capabilities.fencing);
  EXPECT_TRUE(traits.capabilities.cross_process);
  EXPECT_FALSE(traits.capabilities.cross_host);
  ASSERT_EQ(traits.capabilities.facts.size(), 1u);
  EXPECT_EQ(traits.capabilities.facts[0].second, temp_.path());
}

TEST_F(FileBackendTest, two_lockers_exclude_each_other) {
  Request& mine = one_.request("key");
  Request& theirs = two_.request("key");
  EXPECT_EQ(one_.submit(mine), Answer::granted);
  EXPECT_EQ(two_.submit(theirs), Answer::refused);
  EXPECT_TRUE(two_.take("other"));
  EXPECT_EQ(one_.give_back(mine), Answer::released);
  EXPECT_EQ(two_.submit(theirs), Answer::granted);
}

// Locks of one file go together when the descriptor's last one is given back, and not before.
TEST_F(FileBackendTest, giving_back_leaves_the_other_locks_of_a_file) {
  constexpr std::uint64_t kNeighbours = 3;
  std::vector<Request*> mine;
  std::vector<Request*> theirs;
  for (std::uint64_t i = 0; i < kNeighbours; ++i) {
    const std::string name = "key " + std::to_string(i);
    for (auto [party, all] : {std::pair(&one_, &mine), std::pair(&two_, &theirs)}) {
      all->push_back(&party->request(name));
      all->back()->identity = (i << 32) * kShards + 5;
    }
    ASSERT_EQ(one_.submit(*mine[i]), Answer::granted);
  }
  for (std::uint64_t given = 0; given < kNeighbours; ++given) {
    EXPECT_EQ(one_.give_back(*mine[given]), Answer::released);
    for (std::uint64_t i = given + 1; i < kNeighbours; ++i) EXPECT_EQ(two_.submit(*theirs[i]), Answer::refused);
    EXPECT_EQ(two_.submit(*theirs[given]), Answer::granted);
  }
}

TEST_F(FileBackendTest, threads_give_back_no_more_than_their_own) {
  const auto work = [&](std::uint64_t number) {
    Request& request = one_.request("key " + std::to_string(number));
    request.identity = number * kShards + 5;
    Request& probe = two_.request("key " + std::to_string(number));
    probe.identity = request.identity;
    for (int i = 0; i < 2000; ++i) {
      ASSERT_EQ(one_.submit(request), Answer::granted);
      ASSERT_EQ(two_.submit(probe), Answer::refused) << "another thread's unlock took it away";
      ASSERT_EQ(one_.give_back(request), Answer::released);
    }
  };
  std::vector<std::thread> threads;
  for (std::uint64_t number = 0; number < 3; ++number) threads.emplace_back(work, number);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(FileBackendTest, shares_among_readers_only) {
  Request& reader = one_.request("key", Mode::shared);
  Request& other = two_.request("key", Mode::shared);
  EXPECT_EQ(one_.submit(reader), Answer::granted);
  EXPECT_EQ(two_.submit(other), Answer::granted);
  Party three(temp_.path());
  EXPECT_FALSE(three.take("key"));
  one_.give_back(reader);
  EXPECT_FALSE(three.take("key"));
  two_.give_back(other);
  EXPECT_TRUE(three.take("key"));
  EXPECT_FALSE(one_.take("key", Mode::shared));
}

TEST_F(FileBackendTest, numbers_grow_with_every_acquisition) {
  std::uint64_t last = 0;
  for (int i = 0; i < 100; ++i) {
    Party& party = i % 3 == 0 ? one_ : two_;
    Request& request = party.request("key", i % 2 == 0 ? Mode::shared : Mode::exclusive);
    ASSERT_EQ(party.submit(request), Answer::granted);
    EXPECT_GT(request.token, last);
    EXPECT_LT(request.token, std::uint64_t{1} << 53);
    last = request.token;
    party.give_back(request);
  }
}

TEST_F(FileBackendTest, numbers_of_readers_who_share_differ) {
  Request& reader = one_.request("key", Mode::shared);
  Request& other = two_.request("key", Mode::shared);
  one_.submit(reader);
  two_.submit(other);
  EXPECT_LT(reader.token, other.token);
}

TEST_F(FileBackendTest, refuses_damaged_numbers_and_holds_nothing) {
  Request& request = one_.request("key");
  {
    const Descriptor fd(::open((temp_ / "state").c_str(), O_WRONLY | O_CLOEXEC));
    const std::uint64_t damaged = ~std::uint64_t{0};
    const auto offset = static_cast<off_t>(offsetof(State, buckets) + bucket_of(request.identity) * sizeof(Bucket));
    ASSERT_EQ(::pwrite(fd.get(), &damaged, sizeof damaged, offset), 8);
  }
  EXPECT_EQ(one_.submit(request), Answer::failed);
  EXPECT_EQ(request.error.code(), errc::backend_failure);
  EXPECT_NE(request.error.message().find("damaged"), std::string::npos);
  const int shard = static_cast<int>(shard_of(request.identity));
  char name[32];
  std::snprintf(name, sizeof name, "lock-%03x", static_cast<unsigned>(shard));
  const Descriptor fd(::open((temp_ / name).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(ofd_foreign_lock(fd.get(), offset_of(request.identity)), F_UNLCK);
}

TEST_F(FileBackendTest, takes_all_of_a_group_or_none) {
  Request &a = one_.request("a"), &b = one_.request("b"), &c = one_.request("c");
  ASSERT_TRUE(two_.take("b"));
  EXPECT_EQ(submit_group(one_, {&a, &b, &c}, spi::Group::all),
            (Answers{Answer::refused, Answer::refused, Answer::refused}));
  EXPECT_TRUE(two_.take("a"));
  EXPECT_TRUE(two_.take("c"));

  Request &d = one_.request("d"), &e = one_.request("e");
  EXPECT_EQ(submit_group(one_, {&d, &e}, spi::Group::all), (Answers{Answer::granted, Answer::granted}));
  EXPECT_FALSE(two_.take("d"));
  EXPECT_FALSE(two_.take("e"));
  EXPECT_EQ(one_.give_back(d), Answer::released);
  EXPECT_EQ(one_.give_back(e), Answer::released);
}

TEST_F(FileBackendTest, takes_the_first_free_one_of_a_group) {
  Request &a = one_.request("a"), &b = one_.request("b"), &c = one_.request("c");
  Request& theirs = two_.request("a");
  ASSERT_EQ(two_.submit(theirs), Answer::granted);
  EXPECT_EQ(submit_group(one_, {&a, &b, &c}, spi::Group::any),
            (Answers{Answer::refused, Answer::granted, Answer::refused}));
  EXPECT_TRUE(two_.take("c"));
  EXPECT_FALSE(two_.take("b"));
}

TEST_F(FileBackendTest, answers_a_batch_of_single_requests) {
  Request &a = one_.request("a"), &b = one_.request("b");
  ASSERT_TRUE(two_.take("a"));
  Request* batch[] = {&a, &b};
  one_.backend().submit(0, batch);
  EXPECT_EQ(a.answer, Answer::refused);
  EXPECT_EQ(b.answer, Answer::granted);
}

TEST_F(FileBackendTest, yields_at_once_when_nobody_waits) {
  Request& mine = one_.request("key");
  ASSERT_EQ(one_.submit(mine), Answer::granted);
  const std::uint64_t token = mine.token;
  EXPECT_EQ(one_.submit(mine, Op::yield), Answer::granted);
  EXPECT_GT(mine.token, token);
  EXPECT_FALSE(two_.take("key"));
}

TEST_F(FileBackendTest, tells_who_holds) {
  ASSERT_EQ(one_.submit(one_.request("tenant:1", Mode::shared, "worker 7")), Answer::granted);
  ASSERT_TRUE(one_.take("tenant:2"));
  EXPECT_EQ(two_.holders().size(), 2u);
  const auto holders = two_.holders("tenant:1");
  ASSERT_EQ(holders.size(), 1u);
  EXPECT_EQ(holders[0].key, "tenant:1");
  EXPECT_EQ(holders[0].label, "worker 7");
  EXPECT_EQ(holders[0].mode, Mode::shared);
  EXPECT_EQ(holders[0].pid, ::getpid());
  EXPECT_FALSE(holders[0].waiting);
  char host[256] = {};
  ASSERT_EQ(::gethostname(host, sizeof host - 1), 0);
  EXPECT_EQ(holders[0].host, host);
  ASSERT_TRUE(holders[0].since);
  EXPECT_LT(std::chrono::abs(std::chrono::system_clock::now() - *holders[0].since), std::chrono::minutes(1));
  EXPECT_EQ(one_.holders("tenant:1").size(), 1u);
  EXPECT_TRUE(two_.holders("tenant:3").empty());
}

TEST_F(FileBackendTest, uses_the_lockers_label_when_a_session_has_none) {
  ASSERT_EQ(one_.submit(one_.request("key", Mode::exclusive, "")), Answer::granted);
  ASSERT_EQ(two_.holders("key").size(), 1u);
  EXPECT_EQ(two_.holders("key")[0].label, "party");
}

TEST_F(FileBackendTest, tells_long_keys_whole_to_who_asks_for_them_and_cut_to_others) {
  const std::string key = std::string(500, 'k') + ":x";
  ASSERT_TRUE(one_.take(key));
  EXPECT_EQ(two_.holders(key).at(0).key, key);
  const std::string cut = two_.holders().at(0).key;
  EXPECT_TRUE(cut.ends_with("...")) << cut;
  EXPECT_EQ(cut.substr(0, 50), key.substr(0, 50));
}

TEST_F(FileBackendTest, tells_that_a_key_is_held_also_without_a_record) {
  const Key key = Key::parse("key").value();
  char name[32];
  std::snprintf(name, sizeof name, "lock-%03x", shard_of(key.hash()));
  const Descriptor fd(::open((temp_ / name).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(ofd_lock(fd.get(), F_RDLCK, offset_of(key.hash())), 0);
  const auto holders = one_.holders("key");
  ASSERT_EQ(holders.size(), 1u);
  EXPECT_EQ(holders[0].key, "key");
  EXPECT_EQ(holders[0].mode, Mode::shared);
  EXPECT_EQ(holders[0].pid, 0);
  EXPECT_FALSE(holders[0].since);
}

TEST_F(FileBackendTest, lends_descriptors_that_keep_the_lock) {
  Request& mine = one_.request("key");
  ASSERT_EQ(one_.submit(mine), Answer::granted);
  auto lent = one_.backend().descriptors(mine.seat, *mine.key);
  ASSERT_TRUE(lent);
  ASSERT_EQ(lent->size(), 2u) << "of the lock file, and of the directory";
  EXPECT_EQ(::fcntl(lent->front().get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  one_.backend().before_fork();
  one_.backend().forked();  // As when the process died.
  EXPECT_FALSE(two_.take("key"));
  lent->clear();
  EXPECT_TRUE(two_.take("key"));
}

TEST_F(FileBackendTest, has_no_descriptors_of_a_seat_that_is_not_held) {
  const auto lent = one_.backend().descriptors({.link = 3, .life = 9}, Key::parse("key").value());
  ASSERT_FALSE(lent);
  EXPECT_EQ(lent.error().code(), errc::lock_lost);
  EXPECT_FALSE(one_.backend().descriptors({.link = 5000, .life = 1}, Key::parse("key").value()));
}

TEST_F(FileBackendTest, gives_everything_up_when_it_closes) {
  ASSERT_TRUE(one_.take("a"));
  ASSERT_TRUE(one_.take("b", Mode::shared));
  one_.close();
  EXPECT_TRUE(two_.take("a"));
  EXPECT_TRUE(two_.take("b"));
  EXPECT_EQ(two_.holders().size(), 2u);
}

TEST_F(FileBackendTest, announces_the_loss_of_a_replaced_shard_and_what_follows) {
  Request& mine = one_.request("key");
  ASSERT_EQ(one_.submit(mine), Answer::granted);
  ASSERT_TRUE(one_.take("another key"));
  char name[32];
  std::snprintf(name, sizeof name, "lock-%03x", shard_of(mine.identity));
  ASSERT_EQ(::unlink((temp_ / name).c_str()), 0);
  one_.serve();
  ASSERT_TRUE(testing::eventually([&] { return !one_.losses().empty(); }));
  const auto losses = one_.losses();
  EXPECT_EQ(losses[0].seat, mine.seat);
  EXPECT_TRUE(losses[0].everything);
  EXPECT_EQ(losses[0].code, errc::lock_lost);
  EXPECT_EQ(one_.give_back(mine), Answer::not_held);
  EXPECT_TRUE(one_.holders("key").empty());
  Request& next = one_.request("key");
  EXPECT_EQ(one_.submit(next), Answer::failed);
  EXPECT_EQ(next.error.code(), errc::backend_failure);
}

TEST_F(FileBackendTest, keeps_apart_from_another_directory) {
  const TempDirectory other;
  Party elsewhere(other.path());
  ASSERT_TRUE(one_.take("key"));
  EXPECT_TRUE(elsewhere.take("key"));
}

TEST_F(FileBackendTest, excludes_where_only_the_state_file_was_removed) {
  ASSERT_TRUE(one_.take("key"));
  ASSERT_EQ(::unlink((temp_ / "state").c_str()), 0);
  Party three(temp_.path());
  ASSERT_TRUE(three.opened());
  EXPECT_FALSE(three.take("key"));
}

TEST_F(FileBackendTest, announces_the_loss_of_every_lock_with_the_state_file) {
  Request& mine = one_.request("key");
  ASSERT_EQ(one_.submit(mine), Answer::granted);
  ASSERT_EQ(::unlink((temp_ / "state").c_str()), 0);
  one_.serve();
  ASSERT_TRUE(testing::eventually([&] { return !one_.losses().empty(); }));
  EXPECT_EQ(one_.losses()[0].seat, mine.seat);
  EXPECT_EQ(one_.losses()[0].code, errc::lock_lost);
  EXPECT_EQ(one_.give_back(mine), Answer::not_held);
  EXPECT_EQ(one_.submit(one_.request("key")), Answer::failed) << "its tokens would be of a file that is gone";
}

TEST_F(FileBackendTest, makes_missing_files_again_only_where_nobody_uses_the_directory) {
  ASSERT_TRUE(one_.take("key"));
  ASSERT_EQ(::unlink((temp_ / "lock-005").c_str()), 0);
  two_.close();
  {
    const Party refused(temp_.path(), {.patience = std::chrono::milliseconds(20)});
    ASSERT_FALSE(refused.opened());
    EXPECT_EQ(refused.opened().error().code(), errc::backend_failure);
    EXPECT_NE(refused.opened().error().message().find("other processes use"), std::string::npos)
        << refused.opened().error().message();
  }
  struct stat found {};
  EXPECT_NE(::stat((temp_ / "lock-005").c_str(), &found), 0);
}

TEST(FileBackend, makes_the_files_again_that_a_cleaner_took_while_nobody_used_them) {
  const TempDirectory temp;
  std::uint64_t token = 0;
  {
    Party first(temp.path());
    Request& request = first.request("key");
    ASSERT_EQ(first.submit(request), Answer::granted);
    token = request.token;
  }
  for (const auto& entry : std::filesystem::directory_iterator(temp.path())) {
    if (entry.path().filename() != "state") std::filesystem::remove(entry.path());
  }
  Party next(temp.path()), other(temp.path());
  ASSERT_TRUE(next.opened()) << next.opened().error().to_string();
  ASSERT_TRUE(other.opened()) << other.opened().error().to_string();
  Request& request = next.request("key");
  ASSERT_EQ(next.submit(request), Answer::granted);
  EXPECT_GT(request.token, token);
  EXPECT_FALSE(other.take("key"));
}

TEST_F(FileBackendTest, lets_go_of_the_directory_when_closed_or_when_everything_was_taken_away) {
  ASSERT_TRUE(one_.take("key"));
  for (const auto& entry : std::filesystem::directory_iterator(temp_.path())) std::filesystem::remove(entry.path());
  two_.close();
  one_.serve();
  EXPECT_TRUE(testing::eventually([&] { return Party(temp_.path()).opened().has_value(); }));
  EXPECT_FALSE(one_.losses().empty()) << "told before";
}

// As a locker of lockr 0.1: its place in the state file alone tells that it lives.
TEST(FileBackend, makes_no_files_again_beside_a_locker_without_a_lock_on_the_directory) {
  const TempDirectory temp;
  { const Party first(temp.path()); }
  const Descriptor state(::open((temp / "state").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(ofd_lock(state.get(), F_WRLCK, (std::int64_t{1} << 41) + 3), 0);
  ASSERT_EQ(::unlink((temp / "lock-3ff").c_str()), 0);
  EXPECT_FALSE(Party(temp.path(), {.patience = std::chrono::milliseconds(20)}).opened());
  ASSERT_EQ(ofd_unlock_all(state.get()), 0);
  EXPECT_TRUE(Party(temp.path()).opened());
}

// systemd-tmpfiles(8) leaves the contents of a directory alone that it can't lock for itself.
TEST(FileBackend, keeps_cleaners_out_while_it_is_open_or_a_lock_lives_on) {
  const TempDirectory temp;
  const Descriptor cleaner(::open(temp.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto may_clean = [&] {
    if (::flock(cleaner.get(), LOCK_EX | LOCK_NB) != 0) return false;
    return ::flock(cleaner.get(), LOCK_UN) == 0;
  };
  EXPECT_TRUE(may_clean());
  Result<std::vector<Descriptor>> lent;
  {
    Party party(temp.path());
    EXPECT_FALSE(may_clean());
    Request& request = party.request("key");
    ASSERT_EQ(party.submit(request), Answer::granted);
    lent = party.backend().descriptors(request.seat, *request.key);
    ASSERT_TRUE(lent);
    party.backend().before_fork();
    party.backend().forked();  // As when the process died.
  }
  EXPECT_FALSE(may_clean()) << "a guard keeps the lock";
  lent->clear();
  EXPECT_TRUE(may_clean());
}

TEST(FileBackend, makes_files_younger_that_have_become_old_and_no_others) {
  const TempDirectory temp;
  { const Party first(temp.path()); }
  const auto set_age = [&](std::time_t seconds) {
    const timespec at{.tv_sec = std::time(nullptr) - seconds, .tv_nsec = 0};
    const timespec times[] = {at, at};
    for (const auto& entry : std::filesystem::directory_iterator(temp.path())) {
      ASSERT_EQ(::utimensat(AT_FDCWD, entry.path().c_str(), times, 0), 0);
    }
  };
  const auto age_of = [&](const char* name) {
    struct stat found {};
    EXPECT_EQ(::stat((temp / name).c_str(), &found), 0);
    return std::time(nullptr) - std::min(found.st_atim.tv_sec, found.st_mtim.tv_sec);
  };
  constexpr std::time_t kHour = 3600;
  set_age(23 * kHour);
  { const Party next(temp.path()); }
  EXPECT_GE(age_of("lock-000"), 23 * kHour);
  set_age(25 * kHour);
  { const Party next(temp.path()); }
  for (const char* name : {"state", "lock-000", "lock-3ff"}) EXPECT_LT(age_of(name), kHour) << name;
  set_age(25 * kHour);
  Party open(temp.path());
  set_age(25 * kHour);
  open.serve();
  EXPECT_TRUE(testing::eventually([&] { return age_of("state") < kHour; })) << "an open locker does it too";
}

TEST_F(FileBackendTest, uses_the_default_directory_without_a_config) {
  ASSERT_EQ(::setenv("LOCKR_DIR", (temp_ / "chosen").c_str(), 1), 0);
  Party party("");
  ::unsetenv("LOCKR_DIR");
  ASSERT_TRUE(party.opened());
  struct stat found {};
  EXPECT_EQ(::stat((temp_ / "chosen/state").c_str(), &found), 0);
}

TEST(FileBackend, keys_spread_over_the_shards) {
  std::set<unsigned> shards, buckets;
  for (int i = 0; i < 10000; ++i) {
    const std::uint64_t hash = Key::parse("key:" + std::to_string(i)).value().hash();
    shards.insert(shard_of(hash));
    buckets.insert(bucket_of(hash));
    EXPECT_GE(offset_of(hash), 0);
  }
  EXPECT_EQ(shards.size(), kShards);
  EXPECT_GT(buckets.size(), kBuckets * 4 / 5);
  EXPECT_EQ(offset_of(~std::uint64_t{0}), (std::int64_t{1} << 54) - 1);
}

}  // namespace
}  // namespace lockr::file
