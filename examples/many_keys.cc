// More than one key, and more than one holder: all of several keys, the first free one, one key for many readers.
#include <lockr/lockr.h>

#include <array>
#include <iostream>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

namespace {

lockr::Key key_of(std::string_view kind, std::string_view name) {
  return lockr::Key::from_scopes({kind, name}).value();
}

// Two threads move money between the same two accounts, in opposite directions. lock_all takes its keys in one order
// whatever the order given, so they never wait for each other in a circle.
bool transfers_keep_the_sum(lockr::Locker& locker) {
  constexpr int kTransfers = 1000;
  long anna = 5000;
  long bert = 5000;
  auto transfer = [&locker](std::array<lockr::Key, 2> accounts, long& from, long& to) {
    auto session = locker.open_session().value();
    for (int i = 0; i < kTransfers; ++i) {
      // [lock all]
      auto both = session->lock_all(accounts);
      if (!both) return;  // then not even one of them is held
      --from;
      ++to;
      // [lock all]
    }
  };
  {
    const lockr::Key a = key_of("account", "anna");
    const lockr::Key b = key_of("account", "bert");
    std::jthread there([&] { transfer({a, b}, anna, bert); });
    std::jthread back([&] { transfer({b, a}, bert, anna); });
  }
  std::cout << "after " << 2 * kTransfers << " transfers anna has " << anna << " and bert " << bert << '\n';
  return anna == 5000 && bert == 5000 && locker.stats().acquired == 4 * kTransfers;
}

// At most two jobs at once: two keys, and each job takes whichever is free.
bool jobs_share_two_places(lockr::Locker& locker) {
  // [any]
  const std::array places{key_of("place", "1"), key_of("place", "2")};
  auto first = locker.open_session().value();
  auto second = locker.open_session().value();
  auto third = locker.open_session().value();

  auto one = first->try_lock_any(places);    // place:1
  auto two = second->try_lock_any(places);   // place:2
  auto none = third->try_lock_any(places);   // errc::not_acquired
  first->close();                            // gives back all that it held
  auto again = third->try_lock_any(places);  // place:1
  // [any]
  if (!one || !two || none || !again) return false;
  std::cout << "the third job works at " << again->key().string() << ", which the first one left\n";
  return one->key() == places[0] && two->key() == places[1] && again->key() == places[0] &&
         none.error().code() == lockr::errc::not_acquired;
}

// Many may read together, one writes alone.
bool readers_keep_the_writer_out(lockr::Locker& locker) {
  const lockr::Key page = key_of("page", "front");
  // [readers]
  auto reader = locker.lock(page, {.mode = lockr::Mode::shared});
  auto other = locker.lock(page, {.mode = lockr::Mode::shared});
  const bool refused = !locker.try_lock(page);  // a writer: errc::not_acquired
  // [readers]
  if (!reader || !other || !refused) return false;
  if (!reader->release() || !other->release()) return false;
  std::cout << "two read together; the writer came after them\n";
  return locker.try_lock(page).has_value();
}

}  // namespace

int main() {
  auto locker = lockr::open(lockr::LockerConfig::from_url("memory:").value()).value();
  const bool well =
      transfers_keep_the_sum(*locker) && jobs_share_two_places(*locker) && readers_keep_the_writer_out(*locker);
  if (!well) std::cerr << "that was not expected\n";
  return well ? 0 : 1;
}
