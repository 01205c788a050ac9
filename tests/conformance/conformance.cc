#include "lockr/testing/conformance.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

#include "tests/conformance/other_process.h"
#include "tests/conformance/suite.h"

namespace lockr::testing {

OtherProcess::~OtherProcess() = default;
Harness::~Harness() = default;
bool Harness::lists_other_lockers() const { return excludes_across_lockers(); }
std::vector<Fault> Harness::faults() { return {}; }

// Each topic's file has one; naming them here keeps the files when the suite is an archive.
int keep_Exclusion();
int keep_Waiting();
int keep_Sessions();
int keep_ManyKeys();
int keep_Fencing();
int keep_Loss();
int keep_Inspection();
int keep_Unsupported();
int keep_Windows();
int keep_Fork();

namespace {

constexpr unsigned kCaseLimitSeconds = 30;
constexpr int kTopics = 10;

int topics() {
  return keep_Exclusion() + keep_Waiting() + keep_Sessions() + keep_ManyKeys() + keep_Fencing() + keep_Loss() +
         keep_Inspection() + keep_Unsupported() + keep_Windows() + keep_Fork();
}

// Ends the program when a case takes too long: a deadlock fails instead of hanging.
class TimeLimit final : public ::testing::EmptyTestEventListener {
 public:
  TimeLimit() { std::signal(SIGALRM, &TimeLimit::over); }

 private:
  static void over(int /*signal*/) {
    constexpr char kText[] = "\n[  FAILED  ] this case took longer than 30 s; the program is ended\n";
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kText, sizeof kText - 1);
    std::abort();
  }
  void OnTestStart(const ::testing::TestInfo& /*info*/) override { ::alarm(kCaseLimitSeconds * slowness()); }
  void OnTestEnd(const ::testing::TestInfo& /*info*/) override { ::alarm(0); }

  static unsigned slowness() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return 3;
#else
    return 1;
#endif
  }
};

bool engines_open() {
  bool all = !harness_factories().empty();
  if (!all) std::fputs("conformance: there is no harness to run\n", stderr);
  for (const HarnessFactory& factory : harness_factories()) {
    const auto locker = factory.make()->open_locker({});
    if (locker) continue;
    all = false;
    std::fprintf(stderr, "conformance: the engine of harness %s can't be opened: %s\n", factory.name.c_str(),
                 locker.error().to_string().c_str());
  }
  return all;
}

bool something_ran() {
  const auto& tests = *::testing::UnitTest::GetInstance();
  if (tests.skipped_test_count() != 0) {
    std::fputs("conformance: a case was skipped; what a backend can't do is to be asserted\n", stderr);
    return false;
  }
  if (tests.successful_test_count() + tests.failed_test_count() == 0) {
    std::fputs("conformance: no case ran; see --gtest_filter\n", stderr);
    return false;
  }
  return true;
}

}  // namespace

int run_conformance(int argc, char** argv, std::vector<HarnessFactory> harnesses, const Registry& registry) {
  if (argc == 2 && std::strcmp(argv[1], kHoldArgument) == 0) return hold_for_parent(registry);
  harness_factories() = std::move(harnesses);
  ::testing::InitGoogleTest(&argc, argv);
  if (topics() != kTopics) return 1;
  if (::testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  if (!engines_open()) return 1;
  ::testing::UnitTest::GetInstance()->listeners().Append(new TimeLimit);
  const int status = RUN_ALL_TESTS();
  return something_ran() ? status : 1;
}

// ---- what the cases share

std::vector<HarnessFactory>& harness_factories() {
  static std::vector<HarnessFactory> factories;
  return factories;
}

void PrintTo(const HarnessFactory& factory, std::ostream* out) { *out << factory.name; }

std::string harness_name(const ::testing::TestParamInfo<HarnessFactory>& info) { return info.param.name; }

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(200us);
  }
  return true;
}

void Recorder::on_event(const Event& event) noexcept {
  std::lock_guard lock(mutex_);
  events_.push_back(event);
}

std::vector<Event> Recorder::heard(Event::Kind kind) const {
  std::lock_guard lock(mutex_);
  std::vector<Event> found;
  for (const Event& event : events_) {
    if (event.kind == kind) found.push_back(event);
  }
  return found;
}

void Conformance::SetUp() {
  harness_ = GetParam().make();
  ASSERT_NE(harness_, nullptr);
  auto first = harness_->open_locker({});
  ASSERT_TRUE(succeeds(first));
  lockers_.push_back(*std::move(first));
}

void Conformance::TearDown() {
  for (const auto& each : lockers_) expect_balanced(*each);
  std::vector<std::string> leftovers;
  eventually([&] { return (leftovers = harness_->leftovers()).empty(); });
  EXPECT_EQ(leftovers, std::vector<std::string>());
  for (const auto& each : lockers_) EXPECT_TRUE(succeeds(each->close()));
  lockers_.clear();
}

void Conformance::expect_balanced(Locker& one) {
  Stats stats;
  eventually([&] {
    stats = one.stats();
    return stats.held == 0 && stats.waiting == 0;
  });
  EXPECT_EQ(stats.held, 0u);
  EXPECT_EQ(stats.waiting, 0u);
  EXPECT_EQ(stats.acquired, stats.released + stats.lost) << "every grant is released or lost, once";
}

Locker& Conformance::open(Opening opening) {
  auto opened = harness_->open_locker(opening);
  // An engine that was just restarted may still turn the first ones away.
  eventually([&] {
    if (!opened && opened.error().code() == errc::connection_lost) opened = harness_->open_locker(opening);
    return opened.has_value() || opened.error().code() != errc::connection_lost;
  });
  if (!opened) {
    ADD_FAILURE() << "a locker could not be opened: " << opened.error().to_string();
    return locker();
  }
  lockers_.push_back(*std::move(opened));
  return *lockers_.back();
}

Locker& Conformance::other_party() { return harness_->excludes_across_lockers() ? open() : locker(); }

void Conformance::close(Locker& which) {
  auto found = std::find_if(lockers_.begin(), lockers_.end(), [&](const auto& each) { return each.get() == &which; });
  ASSERT_NE(found, lockers_.end());
  expect_balanced(which);
  EXPECT_TRUE(succeeds(which.close()));
  lockers_.erase(found);
}

Key Conformance::key(std::string_view name) const {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  return Key::from_scopes({"conformance", info->test_suite_name(), info->name(), name}).value();
}

std::vector<Key> Conformance::keys(std::size_t count) const {
  std::vector<Key> made;
  for (std::size_t i = 0; i < count; ++i) made.push_back(key("key" + std::to_string(i)));
  return made;
}

std::unique_ptr<Session> Conformance::session_of(Locker& locker, std::string label) {
  auto opened = locker.open_session({.label = std::move(label)});
  EXPECT_TRUE(succeeds(opened));
  return opened ? *std::move(opened) : nullptr;
}

bool Conformance::waiting(Locker& locker, std::uint64_t count) {
  return eventually([&] { return locker.stats().waiting == count; });
}

bool Conformance::is_free(Locker& locker, const Key& key) {
  return static_cast<bool>(succeeds(locker.lock(key, {.timeout = kPatience})));
}

std::future<Result<Releaser>> Conformance::lock_later(Session& session, Key key, LockOptions options) {
  return std::async(std::launch::async, [&session, key = std::move(key), options = std::move(options)] {
    return session.lock(key, options);
  });
}

bool Conformance::shared_or_unsupported() {
  if (capabilities().shared) return true;
  const auto asker = session();
  const std::vector<Key> two = keys(2);
  EXPECT_TRUE(fails_with(asker->try_lock(two[0], Mode::shared), errc::unsupported));
  EXPECT_TRUE(fails_with(asker->lock(two[0], {.mode = Mode::shared}), errc::unsupported));
  EXPECT_TRUE(fails_with(asker->lock_all(two, {.mode = Mode::shared}), errc::unsupported));
  EXPECT_TRUE(fails_with(asker->try_lock_any(two, Mode::shared), errc::unsupported));
  EXPECT_TRUE(fails_with(locker().lock(two[0], {.mode = Mode::shared}), errc::unsupported));
  EXPECT_EQ(locker().stats().engine_requests, 0u) << "it was to be refused before the engine is asked";
  return false;
}

}  // namespace lockr::testing
