#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>

#include "backends/file/records.h"
#include "lockr/key.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using testing::TempDirectory;

class FileRecords : public ::testing::Test {
 protected:
  FileRecords()
      : directory_(open_directory(temp_.path(), {}, [](std::string_view) { return false; }).value()),
        mine_(open_state(my_file_, "my-host")),
        theirs_(open_state(their_file_, "their-host")) {}

  StateFile& open_state(StateFile& file, const std::string& host) {
    spi::Runtime& runtime = spi::system_runtime();
    const Status opened = file.open(directory_, host, runtime, runtime.steady_now() + testing::kPatience);
    EXPECT_TRUE(opened) << opened.error().to_string();
    return file;
  }
  static Records::Entry entry(std::uint64_t identity, std::string_view key, std::string_view label = "label") {
    return {.identity = identity, .mode = Mode::exclusive, .waiting = false, .since_ns = 5, .key = key, .label = label};
  }

  TempDirectory temp_;
  Directory directory_;
  StateFile my_file_, their_file_;
  Records mine_, theirs_;
};

TEST_F(FileRecords, are_read_by_others_as_they_were_written) {
  Records::Entry entry = this->entry(0x123456789abcdef0, "tenant:42:invoice", "worker 7");
  entry.mode = Mode::shared;
  entry.since_ns = 1'700'000'000'123'456'789;
  ASSERT_TRUE(mine_.add(entry));
  const auto views = theirs_.read({});
  ASSERT_EQ(views.size(), 1u);
  EXPECT_EQ(views[0].identity, entry.identity);
  EXPECT_EQ(views[0].key, "tenant:42:invoice");
  EXPECT_EQ(views[0].label, "worker 7");
  EXPECT_EQ(views[0].host, "my-host");
  EXPECT_EQ(views[0].pid, static_cast<std::uint64_t>(::getpid()));
  EXPECT_EQ(views[0].since_ns, entry.since_ns);
  EXPECT_EQ(views[0].mode, Mode::shared);
  EXPECT_FALSE(views[0].waiting);
  EXPECT_FALSE(views[0].key_cut);
}

TEST_F(FileRecords, tell_texts_of_every_length) {
  for (std::size_t length = 0; length <= 150; ++length) {
    const std::string key(length, 'k');
    const std::string label(length % 49, 'l');
    ASSERT_TRUE(mine_.add(entry(length << 10, key, label)));
    const auto views = theirs_.read(length << 10);
    ASSERT_EQ(views.size(), 1u);
    EXPECT_EQ(views[0].key, key.substr(0, views[0].key.size()));
    EXPECT_EQ(views[0].key_cut, views[0].key.size() < key.size());
    EXPECT_EQ(views[0].label, label);
    EXPECT_TRUE(length > 96 || !views[0].key_cut) << length;
    mine_.remove(length << 10, false);
  }
}

TEST_F(FileRecords, cut_long_texts_and_say_so) {
  ASSERT_TRUE(mine_.add(entry(1, std::string(1024, 'k'), std::string(128, 'l'))));
  const auto views = theirs_.read(1);
  ASSERT_EQ(views.size(), 1u);
  EXPECT_TRUE(views[0].key_cut);
  EXPECT_EQ(views[0].key, std::string(104, 'k'));
  EXPECT_EQ(views[0].label, std::string(48, 'l'));
}

TEST_F(FileRecords, of_one_identity_are_found_among_others) {
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(mine_.add(entry(i << 40 | 1 << 10, "key" + std::to_string(i))));
  const auto views = theirs_.read(std::uint64_t{7} << 40 | 1 << 10);
  ASSERT_EQ(views.size(), 1u);
  EXPECT_EQ(views[0].key, "key7");
  EXPECT_EQ(theirs_.read({}).size(), 10u);
}

TEST_F(FileRecords, of_holding_and_waiting_are_two) {
  Records::Entry waiting = entry(9, "k");
  waiting.waiting = true;
  ASSERT_TRUE(mine_.add(entry(9, "k")));
  ASSERT_TRUE(mine_.add(waiting));
  EXPECT_EQ(theirs_.read(9).size(), 2u);
  mine_.remove(9, false);
  const auto views = theirs_.read(9);
  ASSERT_EQ(views.size(), 1u);
  EXPECT_TRUE(views[0].waiting);
  EXPECT_TRUE(theirs_.holders(9).empty());
}

TEST_F(FileRecords, name_other_holders) {
  ASSERT_TRUE(mine_.add(entry(9, "k")));
  EXPECT_TRUE(mine_.holders(9).empty());
  EXPECT_EQ(theirs_.holders(9), std::vector<int>{::getpid()});
}

TEST_F(FileRecords, of_another_locker_are_not_removed) {
  ASSERT_TRUE(mine_.add(entry(9, "k")));
  theirs_.remove(9, false);
  EXPECT_EQ(theirs_.read(9).size(), 1u);
}

TEST_F(FileRecords, of_a_lost_shard_go) {
  ASSERT_TRUE(mine_.add(entry(5, "a")));
  ASSERT_TRUE(mine_.add(entry(5 + kShards, "b")));
  ASSERT_TRUE(mine_.add(entry(6, "c")));
  ASSERT_TRUE(theirs_.add(entry(5 + 2 * kShards, "d")));
  mine_.forget_shard(5);
  EXPECT_EQ(theirs_.read({}).size(), 2u);
  EXPECT_EQ(theirs_.read(6).size(), 1u);
}

TEST_F(FileRecords, run_out_and_say_so) {
  unsigned added = 0;
  while (added <= kRecordWindow && mine_.add(entry(std::uint64_t{added} << 40, "k"))) ++added;
  EXPECT_EQ(added, kRecordWindow);
  EXPECT_TRUE(mine_.crowded());
  EXPECT_FALSE(mine_.crowded());
  mine_.remove(std::uint64_t{3} << 40, false);
  EXPECT_TRUE(mine_.add(entry(std::uint64_t{99} << 40, "k")));
}

TEST_F(FileRecords, of_the_dead_are_not_listed_and_make_room_once_noticed) {
  for (unsigned i = 0; i < kRecordWindow; ++i) ASSERT_TRUE(theirs_.add(entry(std::uint64_t{i} << 40, "k")));
  their_file_.forked();
  EXPECT_TRUE(mine_.read({}).empty());
  EXPECT_FALSE(mine_.add(entry(0, "mine")));
  my_file_.bury_processes();
  ASSERT_TRUE(mine_.add(entry(0, "mine")));
  const auto views = mine_.read({});
  ASSERT_EQ(views.size(), 1u);
  EXPECT_EQ(views[0].key, "mine");
}

TEST_F(FileRecords, of_a_closed_locker_are_gone) {
  ASSERT_TRUE(theirs_.add(entry(9, "k")));
  their_file_.close();
  EXPECT_TRUE(mine_.read({}).empty());
}

TEST_F(FileRecords, survive_garbage_of_any_writer) {
  std::mt19937_64 random(7);
  State& state = my_file_.state();
  const std::size_t words = (sizeof(State) - offsetof(State, processes)) / 8;
  Word* first = reinterpret_cast<Word*>(state.processes);
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < words; ++i) first[i].store(random(), std::memory_order_relaxed);
    // Some that look whole, with lengths far out of range.
    for (unsigned i = 0; i < kRecords; ++i) {
      const std::uint64_t process = random() % (kProcesses + 2);
      state.buckets[i].claim = (process + 1) << 48 | (random() & 0xffffffffffff);
      state.records[i].claim.store(state.buckets[i].claim);
      state.records[i].version = 2;
    }
    for (const RecordView& view : mine_.read({})) {
      EXPECT_LE(view.key.size(), kTextWords * 8);
      EXPECT_LE(view.label.size(), kTextWords * 8);
      EXPECT_LE(view.host.size(), kHostWords * 8);
    }
    for (std::uint64_t identity = 0; identity < 200; ++identity) {
      static_cast<void>(mine_.holders(random()));
      mine_.remove(random(), false);
      static_cast<void>(mine_.add(entry(random(), "k")));
    }
  }
}

TEST_F(FileRecords, are_never_seen_half_written) {
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    const std::string texts[] = {std::string(90, 'a'), std::string(90, 'b')};
    for (unsigned i = 0; !stop; ++i) {
      mine_.add(entry(1, texts[i % 2], texts[i % 2].substr(0, 40)));
      mine_.remove(1, false);
    }
  });
  unsigned seen = 0;
  for (int i = 0; i < 20000 || (seen == 0 && i < 20'000'000); ++i) {
    for (const RecordView& view : theirs_.read(1)) {
      ++seen;
      EXPECT_EQ(view.key, std::string(90, view.key[0]));
      EXPECT_EQ(view.label, std::string(40, view.key[0]));
    }
  }
  stop = true;
  writer.join();
  EXPECT_GT(seen, 0u);
}

}  // namespace
}  // namespace lockr::file
