// Laws of sampling: each option alone, their order, exact probabilities, and the draws against them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "coluber/error.h"
#include "coluber/generate.h"

namespace coluber {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::set<std::int32_t> kept(const std::vector<float>& logits, const SamplingOptions& options,
                            const std::vector<std::int32_t>& context = {}) {
  std::set<std::int32_t> ids;
  for (const TokenProbability& p : sampling_distribution(logits, options, context)) ids.insert(p.id);
  return ids;
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

SamplingOptions with(double temperature, std::int64_t top_k = 0, double top_p = 1, double min_p = 0) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.min_p = min_p;
  return options;
}

TEST(Sampling, PlainDistributionIsTheSoftmax) {
  const std::vector<float> logits = {0.5f, -1.25f, 2.0f, 0.0f};
  double total = 0;
  for (const float x : logits) total += std::exp(static_cast<double>(x));
  const auto distribution = sampling_distribution(logits, with(1));
  ASSERT_EQ(distribution.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(distribution[i].id, static_cast<std::int32_t>(i));
    EXPECT_NEAR(distribution[i].probability, std::exp(static_cast<double>(logits[i])) / total, 1e-15);
  }
}

TEST(Sampling, TemperatureDividesLogits) {
  const auto distribution = sampling_distribution(std::vector<float>{0, 1}, with(0.5));
  EXPECT_NEAR(distribution[1].probability, 1 / (1 + std::exp(-2.0)), 1e-15);
}

TEST(Sampling, GreedyTakesTheLowestIdAmongEquals) {
  SamplingOptions greedy;
  greedy.greedy = true;
  EXPECT_EQ(kept({1, 3, 3, 2}, greedy), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept({1, 3, 3, 2}, with(0)), (std::set<std::int32_t>{1}));
}

TEST(Sampling, TopKKeepsTheLargestAndLowerIdsAmongEquals) {
  EXPECT_EQ(kept({1, 3, 2, 3, 2}, with(1, 3)), (std::set<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(kept({1, 3, 2, 3, 2}, with(1, 9)).size(), 5u);
  EXPECT_EQ(kept({1, 3, 2, 3, 2}, with(1, 0)).size(), 5u);
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> logits = logs({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(kept(logits, with(1, 0, 0.39)), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept(logits, with(1, 0, 0.41)), (std::set<std::int32_t>{1, 3}));
  EXPECT_EQ(kept(logits, with(1, 0, 0.89)), (std::set<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(kept(logits, with(1, 0, 1e-9)), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept(logits, with(1, 0, 1)).size(), 4u);
}

TEST(Sampling, TopPCountsWhatTopKLeft) {
  // Of {0.4, 0.3} renormalised the first alone has 0.571.
  const std::vector<float> logits = logs({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(kept(logits, with(1, 2, 0.56)), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept(logits, with(1, 2, 0.58)), (std::set<std::int32_t>{1, 3}));
}

TEST(Sampling, MinPIsRelativeToTheLargest) {
  const std::vector<float> logits = logs({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(kept(logits, with(1, 0, 1, 0.45)), (std::set<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(kept(logits, with(1, 0, 1, 0.6)), (std::set<std::int32_t>{1, 3}));
  EXPECT_EQ(kept(logits, with(1, 0, 1, 1)), (std::set<std::int32_t>{1}));
}

TEST(Sampling, TemperatureComesBeforeTruncation) {
  const std::vector<float> logits = logs({0.1, 0.4, 0.2, 0.3});
  // Squared and renormalised: 0.033, 0.533, 0.133, 0.3.
  EXPECT_EQ(kept(logits, with(0.5, 0, 0.5)), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept(logits, with(1, 0, 0.5)), (std::set<std::int32_t>{1, 3}));
}

TEST(Sampling, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  const std::vector<std::int32_t> context = {0, 1, 0, 1, 99, -3};  // repeats count once, foreign ids not at all
  const auto got = sampling_distribution(std::vector<float>{4, -1, 2}, options, context);
  const auto expected = sampling_distribution(std::vector<float>{2, -2, 2}, SamplingOptions{});
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_DOUBLE_EQ(got[i].probability, expected[i].probability);
  options.greedy = true;
  EXPECT_EQ(kept({4, 1, 3}, options, {0}), (std::set<std::int32_t>{2}));
}

TEST(Sampling, SamplerRemembersItsOwnTokens) {
  SamplingOptions options;
  options.greedy = true;
  options.repetition_penalty = 4;
  Sampler sampler(options, 3);
  const std::vector<float> logits = {4, 3, 2};
  EXPECT_EQ(sampler.sample(logits), 0);
  EXPECT_EQ(sampler.sample(logits), 1);
  EXPECT_EQ(sampler.sample(logits), 2);
}

TEST(Sampling, PaddingRowsAreNeverDrawn) {
  SamplingOptions options;
  Sampler sampler(options, 2);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(sampler.sample(std::vector<float>{0, 0, 50, 50}), 2);
  Sampler greedy(with(0), 2);
  EXPECT_EQ(greedy.sample(std::vector<float>{0, 1, 50, kInf}), 1);
}

TEST(Sampling, ImpossibleIdsAreNeverDrawn) {
  Sampler sampler(with(1), 4);
  for (int i = 0; i < 1000; ++i) {
    const std::int32_t id = sampler.sample(std::vector<float>{-kInf, 0, 1, -kInf});
    EXPECT_TRUE(id == 1 || id == 2);
  }
}

TEST(Sampling, SameSeedAndStreamDrawTheSame) {
  std::vector<float> logits(50);
  std::iota(logits.begin(), logits.end(), 0.0f);
  for (float& x : logits) x *= 0.05f;
  const auto draw = [&](std::uint64_t seed, std::uint64_t stream) {
    SamplingOptions options;
    options.seed = seed;
    Sampler sampler(options, 50, stream);
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 64; ++i) ids.push_back(sampler.sample(logits));
    return ids;
  };
  EXPECT_EQ(draw(3, 1), draw(3, 1));
  EXPECT_NE(draw(3, 1), draw(4, 1));
  EXPECT_NE(draw(3, 1), draw(3, 2));
}

TEST(Sampling, CopiesDrawTheSame) {
  std::vector<float> logits(20, 0.0f);
  Sampler a(with(1), 20);
  a.sample(logits);
  Sampler b = a;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(a.sample(logits), b.sample(logits));
}

// Pearson's statistic of n draws against the exact distribution. With k - 1 degrees of freedom the 99.99% quantile of
// chi-square is 27.9 for k = 8 (Abramowitz and Stegun table 26.8); a wrong distribution gives hundreds at n = 20,000.
TEST(Sampling, DrawsFollowTheExactProbabilities) {
  const std::vector<float> logits = {0.0f, 1.0f, -1.0f, 0.5f, 0.25f, -0.5f, 1.5f, -2.0f};
  for (const SamplingOptions& options : {with(1), with(0.7), with(1.5, 8), with(1, 0, 0.999999)}) {
    const auto distribution = sampling_distribution(logits, options);
    ASSERT_EQ(distribution.size(), 8u);
    SamplingOptions seeded = options;
    seeded.seed = 11;
    Sampler sampler(seeded, 8);
    std::vector<double> counts(8, 0);
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) counts[static_cast<std::size_t>(sampler.sample(logits))] += 1;
    double statistic = 0;
    for (const TokenProbability& p : distribution) {
      const double expected = p.probability * kDraws;
      const double difference = counts[static_cast<std::size_t>(p.id)] - expected;
      statistic += difference * difference / expected;
    }
    EXPECT_LT(statistic, 27.9);
  }
}

TEST(Sampling, RefusesWhatIsNotANumber) {
  const auto code = [](const std::vector<float>& logits) {
    try {
      sampling_distribution(logits, SamplingOptions{});
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code({0, std::nanf(""), 1}), ErrorCode::kNumeric);
  EXPECT_EQ(code({0, kInf}), ErrorCode::kNumeric);
  EXPECT_EQ(code({-kInf, -kInf}), ErrorCode::kNumeric);
}

TEST(Sampling, RefusesOptionsOutOfRange) {
  std::vector<SamplingOptions> bad(9);
  bad[0].temperature = -1;
  bad[1].temperature = std::nan("");
  bad[2].top_k = -1;
  bad[3].top_p = 0;
  bad[4].top_p = 1.5;
  bad[5].min_p = -0.1;
  bad[6].min_p = 1.1;
  bad[7].repetition_penalty = 0;
  bad[8].repetition_penalty = std::numeric_limits<double>::infinity();
  for (const SamplingOptions& options : bad) EXPECT_THROW(options.check(), Error);
  EXPECT_THROW(Sampler(SamplingOptions{}, 0), Error);
  EXPECT_THROW(Sampler(SamplingOptions{}, 5).sample(std::vector<float>{1, 2}), Error);
}

}  // namespace
}  // namespace coluber
