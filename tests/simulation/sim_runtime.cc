#include "tests/simulation/sim_runtime.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "tests/simulation/fiber_stack.h"

// The linker sends the program's calls to the __wrap_ functions and knows the C library's as __real_.
extern "C" {
int __real_pthread_mutex_lock(pthread_mutex_t* mutex);
int __real_pthread_mutex_trylock(pthread_mutex_t* mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t* mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t* mutex) {
  auto* sim = lockr::testing::SimRuntime::running();
  return sim ? sim->lock(mutex) : __real_pthread_mutex_lock(mutex);
}
int __wrap_pthread_mutex_trylock(pthread_mutex_t* mutex) {
  auto* sim = lockr::testing::SimRuntime::running();
  return sim ? sim->try_lock(mutex) : __real_pthread_mutex_trylock(mutex);
}
int __wrap_pthread_mutex_unlock(pthread_mutex_t* mutex) {
  auto* sim = lockr::testing::SimRuntime::running();
  return sim ? sim->unlock(mutex) : __real_pthread_mutex_unlock(mutex);
}
}

namespace lockr::testing {

using spi::kNever;

namespace {

constexpr Time kEndOfTime = std::chrono::hours(24);
constexpr std::uint64_t kMostSwitches = 50'000'000;
constexpr std::uint64_t kLongestStep = 3000;  // Nanoseconds.

std::string text_of(Time time) {
  if (time == kNever) return "never";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.9f s", static_cast<double>(time.count()) / 1e9);
  return buffer;
}

void erase_from(auto& list, const auto& item) { list.erase(std::find(list.begin(), list.end(), item)); }

}  // namespace

struct SimRuntime::Fiber {
  std::string name = "root";
  std::function<void()> body{};
  std::unique_ptr<FiberStack> stack{};
  std::unique_ptr<Switching> switching = std::make_unique<Switching>();
  ucontext_t context{};
  core::Inbox inbox{};
  const void* waits_for = nullptr;  // A word, or a mutex.
  Time until = kNever;              // While parked.
  std::uint32_t bits = 0;           // As given to park_among().
  unsigned mutexes = 0;             // Held.
  std::atomic<std::uint32_t> ended{0};
};

// A Thread of the library's: joins by parking until the fiber has ended.
class SimRuntime::Handle final : public spi::Runtime::Thread {
 public:
  Handle(SimRuntime& runtime, std::shared_ptr<Fiber> fiber) : runtime_(runtime), fiber_(std::move(fiber)) {}
  ~Handle() override {
    if (abandoned_ || fiber_.get() == runtime_.current_) return;
    while (fiber_->ended == 0) runtime_.park(fiber_->ended, 0, kNever);
  }
  void abandon() noexcept override { abandoned_ = true; }

 private:
  SimRuntime& runtime_;
  const std::shared_ptr<Fiber> fiber_;
  bool abandoned_ = false;
};

SimRuntime* SimRuntime::running_ = nullptr;

SimRuntime::SimRuntime(std::uint64_t seed)
    : seed_(seed),
      dice_(seed),
      switch_one_in_(std::array<unsigned, 4>{0, 40, 8, 2}[dice_() % 4]),
      spurious_one_in_(std::array<unsigned, 3>{0, 200, 20}[dice_() % 3]),
      step_one_in_(std::array<unsigned, 3>{1, 5, 50}[dice_() % 3]) {}

SimRuntime::~SimRuntime() = default;

void SimRuntime::run(std::function<void()> body) {
  root_ = std::make_unique<Fiber>();
  current_ = root_.get();
  running_ = this;
  core::ShortMutex::listener = heard;
  make_runnable(*make("main", std::move(body)));
  pass_on();
  running_ = nullptr;
  core::ShortMutex::listener = nullptr;
  ended_.reset();
}

// ---- fibers

std::unique_ptr<spi::Runtime::Thread> SimRuntime::start(const char* name, std::function<void()> body) {
  auto fiber = make(name, std::move(body));
  make_runnable(*fiber);
  return std::make_unique<Handle>(*this, std::move(fiber));
}

std::shared_ptr<SimRuntime::Fiber> SimRuntime::make(std::string name, std::function<void()> body) {
  auto fiber = std::make_shared<Fiber>();
  fiber->name = std::move(name);
  fiber->body = std::move(body);
  fiber->stack = std::make_unique<FiberStack>();
  fiber->switching = std::make_unique<Switching>(*fiber->stack);
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack->bottom();
  fiber->context.uc_stack.ss_size = FiberStack::kSize;
  makecontext(&fiber->context, enter, 0);
  fibers_.push_back(fiber);
  return fiber;
}

void SimRuntime::enter() {
  SimRuntime& self = *running_;
  self.current_->switching->arrive();
  std::exchange(self.current_->body, {})();
  self.end_current();
}

void SimRuntime::end_current() {
  if (current_->mutexes != 0) fail("a thread ended with a mutex locked");
  current_->ended = 1;
  wake(&current_->ended);
  const auto self =
      std::find_if(fibers_.begin(), fibers_.end(), [&](const auto& each) { return each.get() == current_; });
  ended_ = std::move(*self);
  fibers_.erase(self);
  // The last one out returns from run().
  switch_to(fibers_.empty() ? *root_ : pick());
}

void SimRuntime::switch_to(Fiber& next) {
  Fiber& self = *current_;
  if (&self == &next) return;
  if (++switches_ > kMostSwitches) fail("the threads keep going round without end");
  self.inbox = std::exchange(core::inbox, next.inbox);
  current_ = &next;
  self.switching->leave(*next.switching, self.ended != 0);
  swapcontext(&self.context, &next.context);
  self.switching->arrive();
}

void SimRuntime::pass_on() { switch_to(pick()); }

void SimRuntime::maybe_pass_on() {
  if (!one_in(switch_one_in_)) return;
  make_runnable(*current_);
  pass_on();
}

// ---- who is next

void SimRuntime::make_runnable(Fiber& fiber) {
  fiber.waits_for = nullptr;
  runnable_.push_back(&fiber);
}

SimRuntime::Fiber& SimRuntime::pick() {
  if (one_in(step_one_in_)) now_ += Time(dice_() % kLongestStep);
  if (!parked_.empty() && one_in(spurious_one_in_)) {
    Fiber& woken = *parked_[dice_() % parked_.size()];
    erase_from(parked_, &woken);
    make_runnable(woken);
  }
  wake_due();
  while (runnable_.empty()) advance();
  Fiber*& chosen = runnable_[dice_() % runnable_.size()];
  Fiber& next = *chosen;
  chosen = runnable_.back();
  runnable_.pop_back();
  return next;
}

void SimRuntime::advance() {
  Time next = kNever;
  for (const Fiber* fiber : parked_) next = std::min(next, fiber->until);
  if (next == kNever) fail("no thread can run, and nothing will wake one");
  if (next > kEndOfTime) fail("a day has passed and the threads still run");
  now_ = std::max(now_, next);
  wake_due();
}

void SimRuntime::wake_due() {
  for (std::size_t i = 0; i < parked_.size();) {
    Fiber& fiber = *parked_[i];
    if (now_ < fiber.until) {
      ++i;
      continue;
    }
    parked_.erase(parked_.begin() + static_cast<std::ptrdiff_t>(i));
    make_runnable(fiber);
  }
}

// ---- parking

void SimRuntime::park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time until) noexcept {
  park_among(word, expected, ~std::uint32_t{0}, until);
}

void SimRuntime::park_among(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint32_t bits,
                            Time until) noexcept {
  if (current_ == nullptr || current_ == root_.get()) fail("parked outside of run()");
  if (current_->mutexes != 0) fail("a thread parks with a mutex locked");
  if (word.load() != expected) return;
  current_->waits_for = &word;
  current_->until = until;
  current_->bits = bits;
  parked_.push_back(current_);
  pass_on();
}

void SimRuntime::wake(const void* word) noexcept {
  std::vector<Fiber*> found;
  std::copy_if(parked_.begin(), parked_.end(), std::back_inserter(found),
               [&](const Fiber* fiber) { return fiber->waits_for == word; });
  if (found.empty()) return;
  Fiber* one = found[dice_() % found.size()];
  erase_from(parked_, one);
  make_runnable(*one);
}

void SimRuntime::wake_among(const void* word, std::uint32_t bits) noexcept {
  for (std::size_t i = 0; i < parked_.size();) {
    Fiber& fiber = *parked_[i];
    if (fiber.waits_for != word || (fiber.bits & bits) == 0) {
      ++i;
      continue;
    }
    parked_.erase(parked_.begin() + static_cast<std::ptrdiff_t>(i));
    make_runnable(fiber);
  }
}

void SimRuntime::sleep(Time span) {
  std::atomic<std::uint32_t> word{0};
  for (const Time until = now_ + span; now_ < until;) park(word, 0, until);
}

// ---- mutexes

template <class Try>
void SimRuntime::take(const void* mutex, Try try_lock) {
  maybe_pass_on();
  while (!try_lock()) {
    current_->waits_for = mutex;
    blocked_.push_back(current_);
    pass_on();
  }
  ++current_->mutexes;
}

void SimRuntime::given_up(const void* mutex) {
  --current_->mutexes;
  for (std::size_t i = 0; i < blocked_.size();) {
    if (blocked_[i]->waits_for != mutex) {
      ++i;
      continue;
    }
    make_runnable(*blocked_[i]);
    blocked_.erase(blocked_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  maybe_pass_on();
}

int SimRuntime::lock(pthread_mutex_t* mutex) {
  if (current_ == root_.get()) return __real_pthread_mutex_lock(mutex);
  take(mutex, [&] { return __real_pthread_mutex_trylock(mutex) == 0; });
  return 0;
}

int SimRuntime::try_lock(pthread_mutex_t* mutex) {
  const int error = __real_pthread_mutex_trylock(mutex);
  if (error == 0 && current_ != root_.get()) ++current_->mutexes;
  return error;
}

int SimRuntime::unlock(pthread_mutex_t* mutex) {
  const int error = __real_pthread_mutex_unlock(mutex);
  if (current_ != root_.get()) given_up(mutex);
  return error;
}

// Nobody else runs between this and the lock itself.
void SimRuntime::heard(const core::ShortMutex& mutex, core::ShortMutex::Moment moment) {
  SimRuntime* sim = running_;
  if (!sim || sim->current_ == sim->root_.get()) return;
  if (moment == core::ShortMutex::Moment::before_lock) {
    sim->take(&mutex, [&] { return !mutex.locked(); });
  } else {
    sim->given_up(&mutex);
  }
}

// ---- failure

void SimRuntime::fail(const std::string& what) const {
  std::fprintf(stderr, "\nseed %" PRIu64 ": %s, at %s\n", seed_, what.c_str(), text_of(now_).c_str());
  for (const auto& fiber : fibers_) {
    const char* state = fiber.get() == current_ ? "runs" : "can run";
    if (std::find(parked_.begin(), parked_.end(), fiber.get()) != parked_.end()) state = "parked";
    if (std::find(blocked_.begin(), blocked_.end(), fiber.get()) != blocked_.end()) state = "waits for a mutex";
    std::fprintf(stderr, "  %-16s %s, on %p, until %s, %u mutexes locked\n", fiber->name.c_str(), state,
                 fiber->waits_for, text_of(fiber->until).c_str(), fiber->mutexes);
  }
  std::abort();
}

}  // namespace lockr::testing
