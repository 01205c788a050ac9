#include "benchmarks/percentile.h"

#include <gtest/gtest.h>

#include <numeric>

namespace {

using lockr::bench::percentile;

std::vector<double> one_to(std::size_t last) {
  std::vector<double> all(last);
  std::iota(all.begin(), all.end(), 1);
  return all;
}

TEST(Percentile, is_the_least_value_that_so_many_are_not_above) {
  EXPECT_EQ(percentile(one_to(10), 500), 5);
  EXPECT_EQ(percentile(one_to(11), 500), 6);
  EXPECT_EQ(percentile(one_to(1000), 990), 990);
  EXPECT_EQ(percentile(one_to(1000), 999), 999);
  EXPECT_EQ(percentile(one_to(1001), 999), 1000);
}

TEST(Percentile, of_too_few_values_is_none) {
  EXPECT_EQ(percentile({}, 500), std::nullopt);
  EXPECT_EQ(percentile({7}, 500), std::nullopt);
  EXPECT_EQ(percentile({7, 9}, 500), 7);
  EXPECT_EQ(percentile(one_to(99), 990), std::nullopt);
  EXPECT_EQ(percentile(one_to(100), 990), 99);
  EXPECT_EQ(percentile(one_to(999), 999), std::nullopt);
}

}  // namespace
