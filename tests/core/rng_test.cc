#include "core/rng.h"

#include <gtest/gtest.h>

#include <vector>

namespace coluber {
namespace {

// The known answers that the authors publish with Philox4x32-10 (Random123, kat_vectors): counter, key, result.
TEST(Rng, GivesThePublishedAnswers) {
  struct Answer {
    std::array<std::uint32_t, 4> counter;
    std::array<std::uint32_t, 2> key;
    std::array<std::uint32_t, 4> expected;
  };
  const std::vector<Answer> answers = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  auto join = [](std::uint32_t low, std::uint32_t high) { return (static_cast<std::uint64_t>(high) << 32) | low; };
  for (const Answer& a : answers) {
    const Rng rng(join(a.key[0], a.key[1]), join(a.counter[2], a.counter[3]));
    EXPECT_EQ(rng.block(join(a.counter[0], a.counter[1])), a.expected);
  }
}

TEST(Rng, BitsAreTheWordsOfTheBlocks) {
  const Rng rng(1, 2);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(rng.bits(i), rng.block(i / 4)[i % 4]);
}

TEST(Rng, UniformHasItsMomentsAndRange) {
  const Rng rng(3, 4);
  const std::uint64_t n = 1 << 20;
  double sum = 0, square = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = rng.uniform(i);
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    ASSERT_EQ(static_cast<double>(static_cast<float>(x)), x);  // 24 bits
    sum += x;
    square += x * x;
  }
  const auto count = static_cast<double>(n);
  EXPECT_NEAR(sum / count, 0.5, 5 * std::sqrt(1 / 12.0 / count));
  EXPECT_NEAR(square / count, 1 / 3.0, 5 * std::sqrt(4 / 45.0 / count));
}

TEST(Rng, NormalHasItsMoments) {
  const Rng rng(5, 6);
  const std::uint64_t n = 1 << 20;
  double sum = 0, square = 0, fourth = 0, neighbours = 0;
  for (std::uint64_t i = 0; i < n; i += 2) {
    const double x = rng.normal(i), y = rng.normal(i + 1);
    sum += x + y;
    square += x * x + y * y;
    fourth += x * x * x * x + y * y * y * y;
    neighbours += x * y;
  }
  const auto count = static_cast<double>(n);
  EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(square / count, 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(fourth / count, 3, 5 * std::sqrt(96 / count));
  EXPECT_NEAR(neighbours / (count / 2), 0, 5 / std::sqrt(count / 2));
}

TEST(Rng, BelowIsInRangeAndEven) {
  const Rng rng(7, 8);
  for (std::uint64_t bound : {std::uint64_t{1}, std::uint64_t{7}, std::uint64_t{1} << 63}) {
    for (std::uint64_t i = 0; i < 1000; ++i) ASSERT_LT(rng.below(i, bound), bound);
  }
  std::vector<int> counts(7);
  const int n = 70000;
  for (std::uint64_t i = 0; i < n; ++i) ++counts[rng.below(i, 7)];
  for (int count : counts) EXPECT_NEAR(count, n / 7, 5 * std::sqrt(n / 7.0));
}

TEST(Rng, SeedsAndStreamsDiffer) {
  const Rng a(1, 2);
  EXPECT_EQ(a.block(9), Rng(1, 2).block(9));
  EXPECT_NE(a.block(9), Rng(1, 3).block(9));
  EXPECT_NE(a.block(9), Rng(2, 2).block(9));
  EXPECT_NE(a.block(9), Rng(1, (std::uint64_t{1} << 32) + 2).block(9));
  EXPECT_NE(a.block(9), Rng((std::uint64_t{1} << 32) + 1, 2).block(9));
  EXPECT_NE(a.block(9), a.block((std::uint64_t{1} << 32) + 9));
}

}  // namespace
}  // namespace coluber
