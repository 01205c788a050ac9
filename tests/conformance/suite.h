// What the cases of the conformance suite share.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"

namespace lockr::testing {

using namespace std::chrono_literals;

/// Longer than anything here takes, shorter than the 30 s after which a case is ended.
inline constexpr std::chrono::seconds kPatience{20};

/// Waits for the condition, at most kPatience.
bool eventually(const std::function<bool()>& condition);

/// What run_conformance() was given. Set before the cases are made.
std::vector<HarnessFactory>& harness_factories();
/// How GoogleTest prints the parameter of a case.
void PrintTo(const HarnessFactory& factory, std::ostream* out);
std::string harness_name(const ::testing::TestParamInfo<HarnessFactory>& info);

/// Whether a result is an error of this code.
template <class T>
::testing::AssertionResult fails_with(const Result<T>& result, errc code) {
  if (result) return ::testing::AssertionFailure() << "it succeeded, where " << name_of(code) << " was expected";
  if (result.error().code() == code) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name_of(code) << " was expected, it is " << result.error().to_string();
}

/// Whether it succeeded; says why not.
template <class T>
::testing::AssertionResult succeeds(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().to_string();
}

/// Writes down what it hears.
class Recorder final : public Observer {
 public:
  void on_event(const Event& event) noexcept override;
  std::vector<Event> heard(Event::Kind kind) const;

 private:
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

/// A case: an engine, a locker of "this process", and the proof at the end that nothing was left behind.
class Conformance : public ::testing::TestWithParam<HarnessFactory> {
 protected:
  void SetUp() override;
  /// Every locker's books balance, nobody holds or waits, and the engine records nothing any more.
  void TearDown() override;

  Harness& harness() { return *harness_; }
  Locker& locker() { return *lockers_.front(); }
  /// One more locker of the engine, closed at the end. Fails the case when it can't be opened.
  Locker& open(Opening opening = {});
  /// A second process where the backend excludes across lockers, else this one: two parties in either case.
  Locker& other_party();
  /// Closes and destroys a locker before the end of the case, after checking its books.
  void close(Locker& locker);

  /// A key of this case alone.
  Key key(std::string_view name = "key") const;
  std::vector<Key> keys(std::size_t count) const;
  const Capabilities& capabilities() { return locker().capabilities(); }
  std::unique_ptr<Session> session(std::string label = {}) { return session_of(locker(), std::move(label)); }
  static std::unique_ptr<Session> session_of(Locker& locker, std::string label = {});
  /// Whether so many callers wait in the locker's queues, now or soon.
  static bool waiting(Locker& locker, std::uint64_t count);
  bool waiting(std::uint64_t count) { return waiting(locker(), count); }
  /// Whether nobody holds the key: a session of its own can take it exclusively, now or soon.
  bool is_free(Locker& locker, const Key& key);

  /// Locks on a thread of its own.
  static std::future<Result<Releaser>> lock_later(Session& session, Key key,
                                                  LockOptions options = {.timeout = kPatience});
  /// The result of such a thread; fails the case when it does not come.
  template <class T>
  static T result_of(std::future<T>& future) {
    EXPECT_EQ(future.wait_for(kPatience), std::future_status::ready) << "a call did not return";
    return future.get();
  }

  /// False where the backend has no shared locks; has then asserted that every way to ask for one says so.
  bool shared_or_unsupported();

 private:
  void expect_balanced(Locker& locker);

  std::unique_ptr<Harness> harness_;
  std::vector<std::unique_ptr<Locker>> lockers_;
};

}  // namespace lockr::testing

/// Makes a topic, in namespace lockr::testing: its class, and instances of its cases for every harness. The function
/// keeps them in a program that links the suite from an archive.
#define LOCKR_CONFORMANCE_TOPIC(Topic)                                                                     \
  class Topic : public ::lockr::testing::Conformance {};                                                   \
  int keep_##Topic() { return 1; }                                                                         \
  INSTANTIATE_TEST_SUITE_P(Conformance, Topic, ::testing::ValuesIn(::lockr::testing::harness_factories()), \
                           ::lockr::testing::harness_name)
