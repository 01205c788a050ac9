// What grows? The cost of a cycle to one who holds more and more keys, and beside more and more waiters, the cost of a
// key in a lock_all of more and more, and the memory of a held key.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "contest.h"
#include "report.h"

namespace {

using lockr::bench::arena;
using lockr::bench::Client;
using lockr::bench::Contender;
using lockr::bench::kBatch;
using lockr::bench::Placement;
using lockr::bench::Point;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostAtOnce = 256;

double heap_bytes() {
  const auto info = mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

double server_bytes() { return arena().server && arena().server->memory_bytes ? arena().server->memory_bytes() : 0; }

// Seconds for one step: the median of many blocks, which a moment without a CPU does not move.
template <class Step>
double time_of(Step step) {
  constexpr std::size_t kBlock = 8;
  const auto span = std::chrono::milliseconds(lockr::bench::quick() ? 8 : 60);
  std::size_t steps = 0;
  std::vector<double> blocks;
  const auto go_on_for = [&](std::chrono::nanoseconds length) {
    blocks.clear();
    for (auto begin = Clock::now(), end = begin + length; begin < end || blocks.empty();) {
      for (std::size_t i = 0; i < kBlock; ++i) step(steps++);
      const auto now = Clock::now();
      blocks.push_back(std::chrono::duration<double>(now - begin).count() / kBlock);
      begin = now;
    }
  };
  go_on_for(span / 2);  // Until caches know what they will be asked for.
  go_on_for(span);
  std::nth_element(blocks.begin(), blocks.begin() + static_cast<long>(blocks.size() / 2), blocks.end());
  return blocks[blocks.size() / 2];
}

// Different CPUs where there is a server, for as long as it lives.
class Apart {
 public:
  Apart() {
    if (!arena().server) return;
    server_.push_back(arena().server->pid);
    lockr::bench::place(Placement::apart, server_);
  }
  Apart(const Apart&) = delete;
  Apart& operator=(const Apart&) = delete;
  ~Apart() {
    if (!server_.empty()) lockr::bench::place(Placement::anywhere, server_);
  }

 private:
  std::vector<int> server_;
};

double time_of_cycles(Client& client) {
  return time_of([&](std::size_t i) { client.cycle(1 + i * 7919 % arena().keys, false); });
}

void beside_held(benchmark::State& state, const Contender& contender, std::size_t count) {
  const Apart apart;
  for (auto _ : state) {
    const auto client = contender.client(0, arena().keys);
    const double before = heap_bytes();
    const double server_before = server_bytes();
    client->hold(count);
    const auto keys = static_cast<double>(count);
    state.counters["bytes_per_key"] = (heap_bytes() - before) / keys;
    state.counters["server_bytes_per_key"] = (server_bytes() - server_before) / keys;
    state.SetIterationTime(time_of_cycles(*client));
  }
}

void beside_waiters(benchmark::State& state, const Contender& contender, std::size_t count) {
  const Apart apart;
  for (auto _ : state) {
    const auto client = contender.client(0, arena().keys);
    auto holder = contender.client(1, kBatch);
    holder->hold(1);
    std::atomic<std::size_t> started{0};
    std::vector<std::thread> waiters;
    for (std::size_t i = 0; i < count; ++i) {
      waiters.emplace_back([&, i] {
        const auto waiter = contender.client(2 + i, kBatch);
        ++started;
        waiter->cycle(0, false);
      });
    }
    while (started < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(lockr::bench::quick() ? 20 : 100));  // All are asleep.
    state.SetIterationTime(time_of_cycles(*client));
    holder.reset();
    for (std::thread& each : waiters) each.join();
  }
}

void many_at_once(benchmark::State& state, const Contender& contender, std::size_t count) {
  const Apart apart;
  for (auto _ : state) {
    const auto client = contender.client(0, kMostAtOnce);
    state.SetIterationTime(time_of([&](std::size_t) { client->batch(count); }) / static_cast<double>(count));
  }
}

std::string name_of(const char* what, std::size_t count, const Contender& contender) {
  return what + std::string("/") + std::to_string(count) + "/" + contender.id;
}

using Body = void (*)(benchmark::State&, const Contender&, std::size_t);

struct Question {
  const char* plot;
  Body body;
  std::vector<std::size_t> counts;
};

std::vector<Question> questions(const Contender& contender) {
  if (!contender.client || contender.is_floor) return {};
  Question held{"held", beside_held, {}};
  for (std::size_t count = 1; count <= contender.most_held; count *= 10) held.counts.push_back(count);
  Question waiters{"waiters", beside_waiters, {}};
  for (const std::size_t count : {1, 10, 100, 500}) {
    if (count <= contender.most_waiters) waiters.counts.push_back(count);
  }
  Question at_once{"lock_all", many_at_once, {}};
  for (std::size_t count = 1; count <= kMostAtOnce; count *= 4) at_once.counts.push_back(count);
  return {held, waiters, at_once};
}

void register_all() {
  for (const Contender& contender : arena().contenders) {
    if (contender.missing) continue;
    for (const Question& question : questions(contender)) {
      for (const std::size_t count : question.counts) {
        const auto body = [&contender, count, body = question.body](benchmark::State& state) {
          body(state, contender, count);
        };
        benchmark::RegisterBenchmark(name_of(question.plot, count, contender).c_str(), body)
            ->Iterations(1)
            ->Repetitions(lockr::bench::repetitions(3))
            ->UseManualTime();
      }
    }
  }
}

std::vector<Point> points() {
  std::vector<Point> all;
  for (const Contender& contender : arena().contenders) {
    const auto add = [&](const char* plot, std::size_t count, const std::string& benchmark, const char* counter,
                         const char* unit) {
      all.push_back({plot, arena().backend, contender.name, static_cast<double>(count), benchmark, counter, unit});
    };
    for (const Question& question : questions(contender)) {
      for (const std::size_t count : question.counts) {
        const std::string benchmark = name_of(question.plot, count, contender);
        add(question.plot, count, benchmark, "", "ns");
        if (question.body != beside_held || count < 1000) continue;
        add("memory_client", count, benchmark, "bytes_per_key", "bytes");
        add("memory_server", count, benchmark, "server_bytes_per_key", "bytes");
      }
    }
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) { return lockr::bench::run(argc, argv, {}, register_all, points()); }
