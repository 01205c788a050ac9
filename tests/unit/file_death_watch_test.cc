#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "backends/file/death_watch.h"
#include "tests/support/file_party.h"

namespace lockr::file {
namespace {

using testing::Child;
using testing::eventually;

int live_until_told(const Child::Link& link) {
  link.say('r');
  link.hear();
  return 0;
}

TEST(FileDeathWatch, hears_of_a_death) {
  Child one(live_until_told);
  Child two(live_until_told);
  std::atomic<int> deaths = 0;
  DeathWatch watch(spi::system_runtime(), [&] { ++deaths; });
  watch.watch(one.pid());
  watch.watch(two.pid());
  watch.watch(two.pid());
  one.kill();
  ASSERT_TRUE(eventually([&] { return deaths == 1; }));
  two.say('x');
  EXPECT_TRUE(eventually([&] { return deaths == 2; }));
}

TEST(FileDeathWatch, says_nothing_of_one_that_is_dead_already) {
  Child dead(live_until_told);
  const pid_t pid = dead.pid();
  dead.kill();
  Child next(live_until_told);
  std::atomic<int> deaths = 0;
  DeathWatch watch(spi::system_runtime(), [&] { ++deaths; });
  watch.watch(pid);
  watch.watch(next.pid());
  next.kill();
  ASSERT_TRUE(eventually([&] { return deaths > 0; }));
  EXPECT_EQ(deaths, 1);
}

TEST(FileDeathWatch, makes_room_for_new_ones) {
  std::vector<std::unique_ptr<Child>> children;
  for (unsigned i = 0; i <= DeathWatch::kMost; ++i) children.push_back(std::make_unique<Child>(live_until_told));
  std::atomic<int> deaths = 0;
  DeathWatch watch(spi::system_runtime(), [&] { ++deaths; });
  for (unsigned i = 0; i < DeathWatch::kMost; ++i) watch.watch(children[i]->pid());
  Child& last = *children.back();
  watch.watch(last.pid());  // Room is made now, and used the next time.
  bool killed = false;
  EXPECT_TRUE(eventually([&] {
    watch.watch(last.pid());
    if (!std::exchange(killed, true)) last.signal(SIGKILL);
    return deaths > 0;
  }));
}

TEST(FileDeathWatch, ends_when_nothing_died) {
  Child child(live_until_told);
  DeathWatch watch(spi::system_runtime(), [] { FAIL(); });
  watch.watch(child.pid());
  watch.close();
  watch.close();
}

}  // namespace
}  // namespace lockr::file
