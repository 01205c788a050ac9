// --seed N runs that seed alone, --seeds N the first N, --seeds M-N those from M to N; as LOCKR_SEED and LOCKR_SEEDS in
// the environment.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    const char* variable = option == "--seed" ? "LOCKR_SEED" : option == "--seeds" ? "LOCKR_SEEDS" : nullptr;
    if (!variable || i + 1 == argc) {
      std::fprintf(stderr, "usage: %s [--seed N | --seeds N] [GoogleTest options]\n", argv[0]);
      return 64;
    }
    setenv(variable, argv[i + 1], 1);
  }
  return RUN_ALL_TESTS();
}
