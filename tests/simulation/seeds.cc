#include "tests/simulation/seeds.h"

#include <gtest/gtest.h>

#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/simulation/fiber_stack.h"  // LOCKR_ASAN, LOCKR_TSAN.

namespace lockr::testing {
namespace {

volatile std::uint64_t seed_in_progress = 0;

std::vector<std::uint64_t> seeds_to_run(std::uint64_t count) {
#if defined(LOCKR_ASAN) || defined(LOCKR_TSAN)
  count /= 10;
#endif
  if (const char* one = std::getenv("LOCKR_SEED")) return {std::strtoull(one, nullptr, 10)};
  std::uint64_t first = 1;
  std::uint64_t last = count;
  if (const char* many = std::getenv("LOCKR_SEEDS")) {
    char* end = nullptr;
    last = std::strtoull(many, &end, 10);
    if (*end == '-') first = std::exchange(last, std::strtoull(end + 1, nullptr, 10));
  }
  std::vector<std::uint64_t> seeds;
  for (std::uint64_t seed = first; seed <= last; ++seed) seeds.push_back(seed);
  return seeds;
}

void tell_seed() {
  if (seed_in_progress == 0) return;
  std::fprintf(stderr, "died in seed %" PRIu64 "; run it again: LOCKR_SEED=%" PRIu64 "\n", seed_in_progress,
               seed_in_progress);
}

void with_seed(std::uint64_t seed, const std::function<void()>& body) {
  seed_in_progress = seed;
  const auto tell_and_die = [](int signal) {
    tell_seed();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  };
  std::signal(SIGABRT, tell_and_die);
#if defined(LOCKR_ASAN) || defined(LOCKR_TSAN)
  __sanitizer_set_death_callback(tell_seed);
#else
  std::signal(SIGSEGV, tell_and_die);
#endif
  body();
  seed_in_progress = 0;
}

}  // namespace

void for_each_seed(std::uint64_t count, const std::function<void(std::uint64_t)>& body) {
  for (const std::uint64_t seed : seeds_to_run(count)) {
    with_seed(seed, [&] {
      SCOPED_TRACE("LOCKR_SEED=" + std::to_string(seed));
      body(seed);
    });
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace lockr::testing
