// A worker: a process with one locker and a session on each of its threads, all taking and giving back.
#include "tests/torture/worker.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockr/lockr.h"
#include "tests/torture/arena.h"
#include "tests/torture/run.h"

namespace lockr::torture {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

constexpr auto code(errc value) { return static_cast<std::uint8_t>(value); }

unsigned entries_of(const char* directory) {
  DIR* const open = ::opendir(directory);
  if (!open) return 0;
  unsigned count = 0;
  while (const dirent* entry = ::readdir(open)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(open);
  return count;
}
unsigned descriptors_open() { return entries_of("/proc/self/fd") - 1; }
unsigned threads_running() { return entries_of("/proc/self/task"); }

// Without what is shared: the arena fills up.
std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0, resident = 0, shared = 0;
  statm >> size >> resident >> shared;
  return (resident - shared) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// What BootClock is ahead of our clock, at least.
Nanos boot_ahead() {
  Nanos best = 0;
  for (int i = 0; i < 20; ++i) {
    const Nanos before = now();
    const Nanos ahead = BootClock::now().time_since_epoch().count() - now();
    if (i == 0 || ahead > best) best = ahead;
    if (now() - before < 200) break;
  }
  return best;
}

/// Fires stop sources when their time has come.
class Canceller {
 public:
  Canceller() : thread_([this](const std::stop_token& over) { run(over); }) {}
  void fire(std::stop_source source, Nanos when) {
    const std::lock_guard lock(mutex_);
    due_.emplace(when, std::move(source));
    changed_.notify_one();
  }

 private:
  void run(const std::stop_token& over) {
    std::unique_lock lock(mutex_);
    while (!over.stop_requested()) {
      if (due_.empty()) {
        changed_.wait(lock, over, [this] { return !due_.empty(); });
        continue;
      }
      const auto next = due_.begin();
      const Nanos left = next->first - now();
      if (left > 0) {
        changed_.wait_for(lock, nanoseconds(left));
        continue;
      }
      std::stop_source source = std::move(next->second);
      due_.erase(next);
      lock.unlock();
      source.request_stop();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::multimap<Nanos, std::stop_source> due_;  // Guarded by mutex_.
  std::jthread thread_;
};

/// One session's thread, for one stretch.
class Slot {
 public:
  Slot(Arena& arena, Session& session, const std::vector<Key>& keys, Canceller& canceller, int worker, int slot,
       std::uint16_t incarnation, std::uint32_t order)
      : arena_(arena),
        session_(session),
        keys_(keys),
        canceller_(canceller),
        worker_(worker),
        slot_(slot),
        incarnation_(incarnation),
        order_(order),
        me_(owner_word(slot, incarnation)),
        boot_ahead_(boot_ahead()),
        random_(arena.settings().seed * 1000003 + static_cast<std::uint64_t>(slot) * 7919 +
                std::uint64_t{incarnation} * 104729 + order),
        next_long_hold_(now() + static_cast<Nanos>(one_of(5000)) * kMillisecond) {}

  void run() {
    while (!resting()) {
      if (arena_.count(slot_).load(std::memory_order_relaxed) + 2 > arena_.settings().attempts_per_slot) {
        arena_.full() = true;
        return;
      }
      step();
    }
  }
  std::uint64_t grants() const { return grants_; }
  /// Calls of lock_all.
  std::uint64_t pairs() const { return pairs_; }

 private:
  bool resting() const { return arena_.order().load(std::memory_order_relaxed) != order_; }
  unsigned one_of(unsigned count) { return static_cast<unsigned>(random_() % count); }
  bool mood(Mood mood) const {
    return (arena_.moods().load(std::memory_order_relaxed) & static_cast<std::uint32_t>(mood)) != 0;
  }

  // The first keys are fought for, the others mostly free.
  int any_key() {
    const auto keys = static_cast<unsigned>(keys_.size());
    const bool hot = one_of(100) < arena_.settings().hot_percent;
    return static_cast<int>(hot ? one_of(std::min(keys, 2u)) : one_of(keys));
  }

  void step() {
    const unsigned dice = one_of(100);
    const bool shared = arena_.learned().shared && one_of(100) < arena_.settings().shared_percent;
    if (dice < 10 && keys_.size() > 1) {
      take_two(shared);
    } else if (dice < 30) {
      Attempt& attempt = begin(Call::try_lock, any_key(), shared, 0);
      answer(attempt, session_.try_lock(keys_[attempt.key], mode(shared)));
    } else {
      take_one(shared);
    }
  }

  static Mode mode(bool shared) { return shared ? Mode::shared : Mode::exclusive; }

  // Of a wait. Impatient ones are asked for; some wait for longer than any bound, so that it is judged.
  std::uint32_t any_timeout() {
    if (mood(Mood::impatient) && one_of(2) == 0) return 1000;
    const Settings& settings = arena_.settings();
    return static_cast<std::uint32_t>(one_of(16) == 0 ? settings.long_timeout_us : settings.timeout_us);
  }

  Attempt& begin(Call call, int key, bool shared, std::uint32_t timeout_us) {
    std::atomic<std::uint32_t>& count = arena_.count(slot_);
    const std::uint32_t at = count.load(std::memory_order_relaxed);
    Attempt& attempt = arena_.attempts(slot_)[at];
    attempt = Attempt{};
    attempt.call = call;
    attempt.key = static_cast<std::uint16_t>(key);
    attempt.slot = static_cast<std::uint16_t>(slot_);
    attempt.incarnation = incarnation_;
    attempt.timeout_us = timeout_us;
    if (shared) attempt.marks |= kShared;
    attempt.asked = now();
    count.store(at + 1, std::memory_order_release);
    return attempt;
  }

  void take_one(bool shared) {
    const std::uint32_t timeout = any_timeout();
    LockOptions options{.mode = mode(shared), .timeout = microseconds(timeout)};
    std::optional<std::stop_source> source;
    if (mood(Mood::fickle) && one_of(2) == 0) options.stop = source.emplace().get_token();
    Attempt& attempt = begin(Call::lock, any_key(), shared, timeout);
    if (source) {
      attempt.marks |= kStoppable;
      canceller_.fire(*source, attempt.asked + static_cast<Nanos>(one_of(1500)) * kMicrosecond);
    }
    answer(attempt, session_.lock(keys_[attempt.key], options));
  }

  void take_two(bool shared) {
    ++pairs_;
    const auto keys = static_cast<unsigned>(keys_.size());
    const unsigned first = one_of(keys);
    const unsigned second = (first + 1 + one_of(keys - 1)) % keys;
    const std::uint32_t timeout = any_timeout();
    Attempt* const attempts[] = {&begin(Call::lock_all, static_cast<int>(first), shared, timeout),
                                 &begin(Call::lock_all, static_cast<int>(second), shared, timeout)};
    const Key both[] = {keys_[first], keys_[second]};
    auto got = session_.lock_all(both, {.mode = mode(shared), .timeout = microseconds(timeout)});
    const Nanos answered = now();
    for (Attempt* attempt : attempts) {
      if (got) {
        attempt->answer = kSuccess;
      } else {
        refuse(*attempt, got.error());
      }
      attempt->answered = answered;
    }
    if (!got) return;
    for (std::size_t i = 0; i < 2; ++i) enter(*attempts[i], (*got)[i]);
    hold(*attempts[0], (*got)[0]);
    for (std::size_t i = 0; i < 2; ++i) leave(*attempts[i], (*got)[i]);
    for (std::size_t i = 0; i < 2; ++i) release(*attempts[i], std::move((*got)[i]));
  }

  void answer(Attempt& attempt, Result<Releaser> got) {
    const Nanos answered = now();
    if (!got) {
      refuse(attempt, got.error());
      attempt.answered = answered;
      return;
    }
    attempt.answer = kSuccess;
    attempt.answered = answered;
    enter(attempt, *got);
    hold(attempt, *got);
    leave(attempt, *got);
    release(attempt, *std::move(got));
  }

  void refuse(Attempt& attempt, const Error& error) {
    attempt.answer = code(error.code());
    if (const auto until = error.may_hold_until()) attempt.valid_until = until->count() - boot_ahead_;
    if (error.code() == errc::cancelled) ++arena_.worker(worker_).cancels;
    if (error.code() == errc::timeout && attempt.timeout_us <= 1000) ++arena_.worker(worker_).timeouts;
    switch (error.code()) {
      case errc::not_acquired:
      case errc::timeout:
      case errc::cancelled:
      case errc::connection_lost:
        break;
      default:
        say_once(error);
    }
  }

  // What may be behind a violation; the faults of a run cause the same again and again.
  void say_once(const Error& error) {
    static std::atomic_flag said;
    if (!said.test_and_set()) std::fprintf(stderr, "worker %d: %s\n", worker_, error.to_string().c_str());
  }

  bool dead(std::uint32_t owner) {
    const WorkerArea& area = arena_.worker(slot_of(owner) / arena_.settings().threads);
    return area.liveness.dying.load() >= incarnation_of(owner);
  }
  // Slots of workers that live. What a dead one left is cleared before its next incarnation starts.
  std::uint64_t living_slots() {
    std::uint64_t bits = 0;
    const int threads = arena_.settings().threads;
    for (int worker = 0; worker < arena_.settings().workers; ++worker) {
      const Liveness& liveness = arena_.worker(worker).liveness;
      if (liveness.dying.load() >= liveness.incarnation.load()) continue;
      for (int i = 0; i < threads; ++i) bits |= std::uint64_t{1} << (worker * threads + i);
    }
    return bits;
  }

  void enter(Attempt& attempt, const Releaser& held) {
    ++grants_;
    Witness& witness = arena_.witness(attempt.key);
    note_validity(attempt, held);
    if (const auto token = held.fencing_token()) {
      attempt.token = *token;
      write_resource(attempt, witness);
    } else if (arena_.learned().fencing) {
      arena_.complain(worker_, Oracle::fence, "a grant without a token: " + token.error().to_string());
    }
    const std::uint64_t bit = std::uint64_t{1} << slot_;
    if (attempt.shared()) {
      witness.readers.fetch_or(bit);
      const std::uint32_t owner = witness.owner.load();
      if (owner != 0 && !dead(owner)) attempt.marks |= kMet;
      return;
    }
    const std::uint32_t owner = witness.owner.exchange(me_);
    if (owner != 0 && !dead(owner)) attempt.marks |= kMet;
    // Read twice: in between the bits of the dead may have been cleared and their worker started anew.
    if (witness.readers.load() != 0 && (witness.readers.load() & living_slots() & witness.readers.load()) != 0) {
      attempt.marks |= kMet;
    }
    witness.entries.fetch_add(1);
    witness.counter = witness.counter + 1;
  }

  // The guarded resource: takes what is not older than what it has seen, or everything if it is careless.
  void write_resource(Attempt& attempt, Witness& witness) {
    if (attempt.shared() || attempt.token == 0) return;
    if (arena_.settings().careless_resource) {
      if (witness.max_token.exchange(attempt.token) > attempt.token) attempt.marks |= kOverwrote;
      return;
    }
    std::uint64_t seen = witness.max_token.load();
    while (seen < attempt.token && !witness.max_token.compare_exchange_weak(seen, attempt.token)) {
    }
    if (seen > attempt.token) attempt.marks |= kStale;
  }

  void note_validity(Attempt& attempt, const Releaser& held) const {
    if (const auto until = held.valid_until()) attempt.valid_until = until->time_since_epoch().count() - boot_ahead_;
  }

  Nanos any_hold(const Attempt& attempt) {
    const Settings& settings = arena_.settings();
    // Not of what others fight for, or they would do little else than wait.
    const bool wanted = attempt.key < 2 || attempt.call == Call::lock_all;
    if (settings.long_hold_us != 0 && !wanted && attempt.answered > next_long_hold_) {
      next_long_hold_ = attempt.answered + static_cast<Nanos>(5000 + one_of(10'000)) * kMillisecond;
      return settings.long_hold_us * kMicrosecond;
    }
    const auto limit = static_cast<unsigned>(settings.hold_us);
    if (limit == 0 || one_of(settings.hold_one_in) != 0) return 0;
    return static_cast<Nanos>(one_of(8) == 0 ? one_of(limit * 8) : one_of(limit)) * kMicrosecond;
  }

  void hold(Attempt& attempt, Releaser& held) {
    if (mood(Mood::forking) && one_of(8) == 0) fork_inside(attempt, held);
    const Nanos until = attempt.answered + any_hold(attempt);
    // Into a rest a holder stays for as long as it takes to tell that losses are not told.
    const Nanos loss = arena_.learned().bounds.loss;
    Nanos rest_ends = 0;
    while (now() < until) {
      if (!held.held()) return;
      if (rest_ends == 0 && resting()) rest_ends = now() + 2 * loss;
      if (rest_ends != 0 && now() >= rest_ends) return;
      note_validity(attempt, held);
      const Nanos left = until - now();
      if (left > 0) std::this_thread::sleep_for(nanoseconds(std::min(left, kMillisecond)));
    }
  }

  void leave(Attempt& attempt, const Releaser& held) {
    Witness& witness = arena_.witness(attempt.key);
    // Once more, without a look at whether it is held, as what was sent before a pause arrives after it.
    write_resource(attempt, witness);
    note_validity(attempt, held);
    const bool lost = !held.held();
    if (attempt.shared()) {
      witness.readers.fetch_and(~(std::uint64_t{1} << slot_));
    } else {
      std::uint32_t mine = me_;
      witness.owner.compare_exchange_strong(mine, 0);
    }
    if (lost) attempt.marks |= kLost;
    attempt.left = now();
  }

  // By call or by destruction, one as often as the other.
  void release(Attempt& attempt, Releaser held) {
    if (one_of(2) == 0) {
      const Status status = held.release();
      attempt.release_answer = status ? kSuccess : code(status.error().code());
    } else {
      Releaser().operator=(std::move(held));
    }
    attempt.released = now();
  }

  // A child of a holder holds nothing and can't give anything away.
  void fork_inside(Attempt& attempt, Releaser& held) {
    const pid_t child = ::fork();
    if (child < 0) return;
    if (child == 0) {
      int status = 0;
      if (held.held()) status = 1;
      if (const Status released = held.release(); released || released.error().code() != errc::forked_process)
        status = 2;
      const auto tried = session_.try_lock(keys_[attempt.key]);
      if (tried || tried.error().code() != errc::forked_process) status = 3;
      ::_exit(status);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    ++arena_.worker(worker_).forks;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      constexpr const char* kWhat[] = {"ended by a signal", "believes that it holds the lock", "could release the lock",
                                       "could use the session"};
      const int what = WIFEXITED(status) && WEXITSTATUS(status) < 4 ? WEXITSTATUS(status) : 0;
      arena_.complain(worker_, Oracle::error, std::string("the child of a holder ") + kWhat[what]);
    }
  }

  Arena& arena_;
  Session& session_;
  const std::vector<Key>& keys_;
  Canceller& canceller_;
  const int worker_, slot_;
  const std::uint16_t incarnation_;
  const std::uint32_t order_;  // To work; another is to rest.
  const std::uint32_t me_;
  const Nanos boot_ahead_;
  Random random_;
  Nanos next_long_hold_;
  std::uint64_t grants_ = 0, pairs_ = 0;
};

class Worker {
 public:
  Worker(int fd, int index, std::uint16_t incarnation) : arena_(fd), index_(index), incarnation_(incarnation) {}

  int run() {
    ::prctl(PR_SET_NAME, ("torture-" + std::to_string(index_)).c_str());
    for (int key = 0; key < arena_.settings().keys; ++key) {
      keys_.push_back(Key::from_scopes({"torture", "k" + std::to_string(key)}).value());
    }
    const std::jthread heart([this](const std::stop_token& over) { beat(over); });
    if (!open()) return 1;
    for (std::uint32_t done = 0;;) {
      const std::uint32_t order = await_other_than(done);
      if (!carry_out(order)) return 0;
      area().done = done = order;
    }
  }

 private:
  WorkerArea& area() { return arena_.worker(index_); }

  // Writes down when it wakes up late.
  void beat(const std::stop_token& over) {
    constexpr Nanos kPeriod = 2 * kMillisecond;
    for (Nanos due = now() + kPeriod; !over.stop_requested();) {
      const timespec until{.tv_sec = due / kSecond, .tv_nsec = due % kSecond};
      ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
      const Nanos woke = now();
      if (woke - due > kMillisecond) area().stalls.push({static_cast<std::int16_t>(index_), due, woke});
      due = woke + kPeriod;
    }
  }

  std::uint32_t await_other_than(std::uint32_t done) {
    for (;;) {
      const std::uint32_t order = arena_.order().load();
      if (order != done && Order::kind(order) != Order::Kind::wait) return order;
      std::this_thread::sleep_for(microseconds(200));
    }
  }

  bool carry_out(std::uint32_t order) {
    switch (Order::kind(order)) {
      case Order::Kind::work:
        if (reopens(order)) {
          close();
          if (!open()) std::_Exit(1);
        }
        work(order);
        break;
      case Order::Kind::look:
        look();
        break;
      case Order::Kind::leave:
        close();
        area().done = order;
        return false;
      case Order::Kind::wait:
      case Order::Kind::rest:
        break;
    }
    return true;
  }

  // Every other worker begins a stretch with another locker.
  bool reopens(std::uint32_t order) const {
    return Order::stretch(order) > 1 && (Order::stretch(order) + static_cast<std::uint32_t>(index_)) % 2 == 0;
  }

  // A worker that was just started meets an engine that may be down; it is not at fault for a while.
  bool open() {
    descriptors_ = descriptors_open(), threads_ = threads_running();
    const std::string text = area().config.get();
    auto config = text.starts_with('{') ? LockerConfig::from_json(text) : LockerConfig::from_url(text);
    if (!config) return fail(config.error());
    const Nanos deadline = now() + 20 * kSecond;
    for (;;) {
      auto opened = lockr::open(*config);
      if (opened) {
        locker_ = *std::move(opened);
        break;
      }
      if (!opened.error().retryable() || now() > deadline) return fail(opened.error());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    grants_ = pairs_ = 0;
    learn(*config);
    return true;
  }

  bool fail(const Error& error) {
    area().reason.set(error.to_string());
    area().failed = true;
    return false;
  }

  void learn(const LockerConfig& config) {
    Learned& learned = arena_.learned();
    if (learned.known) return;
    const Capabilities& can = locker_->capabilities();
    learned.bounds.takeover = can.takeover ? can.takeover->count() : 0;
    learned.bounds.loss = can.loss.count();
    learned.bounds.reply = config.reply_timeout().count();
    learned.bounds.release = config.release_timeout().count();
    learned.shared = can.shared;
    learned.fencing = can.fencing;
    learned.cross_process = can.cross_process;
    learned.backend.set(can.backend);
    learned.known = true;
  }

  void work(std::uint32_t order) {
    const int threads = arena_.settings().threads;
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < threads; ++i) sessions.push_back(locker_->open_session({.label = "torture"}).value());
    Canceller canceller;
    std::vector<std::unique_ptr<Slot>> slots;
    std::vector<std::jthread> running;
    for (int i = 0; i < threads; ++i) {
      slots.push_back(std::make_unique<Slot>(arena_, *sessions[static_cast<std::size_t>(i)], keys_, canceller, index_,
                                             index_ * threads + i, incarnation_, order));
      running.emplace_back([slot = slots.back().get()] { slot->run(); });
    }
    running.clear();
    for (const auto& slot : slots) grants_ += slot->grants(), pairs_ += slot->pairs();
    while (arena_.order().load() == order) std::this_thread::sleep_for(microseconds(200));
  }

  // Everybody rests: nothing may be held, or waited for, by anybody.
  void look() {
    const Stats stats = locker_->stats();
    const auto expect = [&](std::uint64_t is, std::uint64_t expected, Oracle oracle, const char* what) {
      if (is == expected) return;
      arena_.complain(
          index_, oracle,
          std::string("stats() has ") + what + " " + std::to_string(is) + ", expected " + std::to_string(expected));
    };
    expect(stats.held, 0, Oracle::leak, "held");
    expect(stats.waiting, 0, Oracle::leak, "waiting");
    // A lock_all counts what it had of both keys and could not keep; it begins anew when one is lost meanwhile.
    const std::uint64_t most = grants_ + 2 * (pairs_ + stats.lost);
    if (stats.acquired > most) expect(stats.acquired, most, Oracle::accounting, "acquired");
    if (stats.acquired < grants_) expect(stats.acquired, grants_, Oracle::accounting, "acquired");
    area().resident = resident_bytes();
    area().descriptors = descriptors_open();
    look_at_engine();
  }

  // An engine may take its takeover time to forget who died, and no longer.
  void look_at_engine() {
    const Learned& learned = arena_.learned();
    const Nanos deadline = now() + learned.bounds.takeover + learned.bounds.reply + kSecond;
    for (;;) {
      auto all = locker_->inspect();
      std::string left;
      if (!all) left = all.error().to_string();
      if (all) {
        std::erase_if(*all, [this](const Holder& holder) { return !ours(holder.key); });
        if (all->empty()) return;
        const Holder& first = all->front();
        left = std::to_string(all->size()) + " left, the first: " + first.key +
               (first.waiting ? " waited for" : " held") + " by " + first.label + ", process " +
               std::to_string(first.pid);
      }
      // A server that was just started anew has time to be found.
      if (now() > deadline + (all ? 0 : 8 * kSecond)) {
        arena_.complain(index_, Oracle::leak, "inspect() at rest: " + left);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  bool ours(const std::string& key) const { return key.find("torture:k") != key.npos; }

  void close() {
    if (const Status closed = locker_->close(); !closed) {
      arena_.complain(index_, Oracle::error, "close(): " + closed.error().to_string());
    }
    locker_.reset();
    // A thread that was joined may be listed for a moment.
    const Nanos deadline = now() + 2 * kSecond;
    unsigned threads = threads_running();
    for (; threads != threads_ && now() < deadline; threads = threads_running()) std::this_thread::yield();
    const unsigned descriptors = descriptors_open();
    const auto expect = [&](unsigned is, unsigned expected, const char* what) {
      if (is == expected) return;
      arena_.complain(
          index_, Oracle::leak,
          std::to_string(is) + " " + what + " after close(), " + std::to_string(expected) + " before open()");
    };
    expect(threads, threads_, "threads");
    expect(descriptors, descriptors_, "descriptors");
  }

  Arena arena_;
  const int index_;
  const std::uint16_t incarnation_;
  std::vector<Key> keys_;
  std::unique_ptr<Locker> locker_;
  std::uint64_t grants_ = 0, pairs_ = 0;  // By this locker.
  unsigned descriptors_ = 0, threads_ = 0;
};

}  // namespace

std::vector<std::string> worker_command(int fd, int worker, std::uint16_t incarnation) {
  return {"/proc/self/exe", kWorkerArgument, std::to_string(fd), std::to_string(worker), std::to_string(incarnation)};
}

std::optional<int> worker_main(int argc, char** argv) {
  if (argc != 5 || std::strcmp(argv[1], kWorkerArgument) != 0) return std::nullopt;
  // No static destructors: threads of the library may be inside of something when a worker is told to go.
  std::_Exit(Worker(std::atoi(argv[2]), std::atoi(argv[3]), static_cast<std::uint16_t>(std::atoi(argv[4]))).run());
}

}  // namespace lockr::torture
