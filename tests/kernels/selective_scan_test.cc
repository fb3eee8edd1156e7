// Error bounds of the functions that the scan kernels are made of, as their header states them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "selective_scan_functions.h"
#include "tests/support/tensors.h"

namespace coluber::cpu {
namespace {

using coluber::testing::kUnitF32;

constexpr std::int64_t kCount = 1 << 20;

// Evenly from low to high, exact in float.
std::vector<float> range(double low, double high) {
  std::vector<float> x(kCount);
  for (std::int64_t i = 0; i < kCount; ++i)
    x[static_cast<std::size_t>(i)] =
        static_cast<float>(low + (high - low) * static_cast<double>(i) / static_cast<double>(kCount - 1));
  return x;
}

// max |y(x) - exact(x)| / bound(x)
double worst(ScanFunction function, double low, double high, auto&& exact, auto&& bound) {
  const auto apply = COLUBER_PICK_ISA(scan_apply);
  const std::vector<float> x = range(low, high);
  std::vector<float> y(x.size());
  apply(function, x.data(), y.data(), kCount);
  double share = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    share = std::max(share, std::abs(static_cast<double>(y[i]) - exact(v)) / bound(v));
  }
  return share;
}

TEST(ScanFunctions, Exp) {
  auto bound = [](double x) { return (3.4 + 1.3 * std::abs(x)) * kUnitF32 * std::exp(x); };
  EXPECT_LE(worst(
                ScanFunction::kExp, -87, 88, [](double x) { return std::exp(x); }, bound),
            1);
  EXPECT_LE(worst(
                ScanFunction::kExp, -1e-3, 1e-3, [](double x) { return std::exp(x); }, bound),
            1);
}

TEST(ScanFunctions, ExpIsOneAtZero) {
  const auto apply = COLUBER_PICK_ISA(scan_apply);
  std::vector<float> x(16, 0.0f), y(16);
  apply(ScanFunction::kExp, x.data(), y.data(), 16);
  for (float v : y) EXPECT_EQ(v, 1.0f);
}

TEST(ScanFunctions, Reciprocal) {
  const auto exact = [](double x) { return 1 / x; };
  const auto bound = [](double x) { return 1.1 * kUnitF32 / x; };
  EXPECT_LE(worst(ScanFunction::kReciprocal, 1, 2, exact, bound), 1);
  EXPECT_LE(worst(ScanFunction::kReciprocal, 2, 1e4, exact, bound), 1);
  EXPECT_LE(worst(ScanFunction::kReciprocal, 1e30, 8e37, exact, bound), 1);
  const auto apply = COLUBER_PICK_ISA(scan_apply);
  std::vector<float> x(16, 1.0f), y(16);
  x[1] = std::numeric_limits<float>::quiet_NaN();
  x[2] = 1.6e38f;
  apply(ScanFunction::kReciprocal, x.data(), y.data(), 16);
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_TRUE(y[2] >= 0 && y[2] <= 6.3e-39f) << y[2];
}

TEST(ScanFunctions, SoftplusAndSlope) {
  auto softplus = [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); };
  auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  auto relative = [](double x) { return (8 + (x < 0 ? -1.3 * x : 0.0)) * kUnitF32; };
  auto value_bound = [&](double x) { return relative(x) * softplus(x); };
  auto slope_bound = [&](double x) { return relative(x) * sigmoid(x); };
  EXPECT_LE(worst(ScanFunction::kSoftplus, -80, 80, softplus, value_bound), 1);
  EXPECT_LE(worst(ScanFunction::kSoftplus, -5, 5, softplus, value_bound), 1);
  EXPECT_LE(worst(ScanFunction::kSoftplusSlope, -80, 80, sigmoid, slope_bound), 1);
  EXPECT_LE(worst(ScanFunction::kSoftplusSlope, -5, 5, sigmoid, slope_bound), 1);
  EXPECT_LE(worst(ScanFunction::kSigmoid, -80, 80, sigmoid, slope_bound), 1);
  EXPECT_LE(worst(ScanFunction::kSigmoid, -5, 5, sigmoid, slope_bound), 1);
}

// A state never grows by its own decay: 1 at 0 and at most 1 below, also where the fraction rounds to a whole number.
TEST(ScanFunctions, DecayIsAtMostOne) {
  const auto apply = COLUBER_PICK_ISA(scan_exp2_product);
  const std::vector<float> a(kCount, 1.0f);
  std::vector<float> y(a.size());
  for (const double low : {-1e-9, -1e-7, -1e-5, -0.01, -2.0, -126.0}) {
    apply(a.data(), range(low, 0).data(), y.data(), kCount);
    for (std::size_t i = 0; i < y.size(); ++i) ASSERT_LE(y[i], 1.0f) << low << " " << i;
    EXPECT_EQ(y.back(), 1.0f);
  }
}

TEST(ScanFunctions, Exp2OfProduct) {
  const auto apply = COLUBER_PICK_ISA(scan_exp2_product);
  const std::vector<float> a = range(0, 5), b = range(-25, 25);
  std::vector<float> y(a.size());
  apply(a.data(), b.data(), y.data(), kCount);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double x = static_cast<double>(a[i]) * static_cast<double>(b[i]), exact = std::exp2(x);
    ASSERT_LE(std::abs(static_cast<double>(y[i]) - exact), (3.4 + 0.7 * std::abs(x)) * kUnitF32 * exact) << x;
  }
}

// Far below and above what a float holds: next to nothing, and very much, but never a wrong sign or NaN.
TEST(ScanFunctions, Exp2OfProductAtTheEnds) {
  const auto apply = COLUBER_PICK_ISA(scan_exp2_product);
  const std::vector<float> a = {127, 200, 1e4f, 1e30f, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  for (const float sign : {-1.0f, 1.0f}) {
    std::vector<float> y(16);
    apply(a.data(), std::vector<float>(16, sign).data(), y.data(), 16);
    for (int i = 0; i < 4; ++i) {
      const float v = y[static_cast<std::size_t>(i)];
      EXPECT_TRUE(sign < 0 ? v >= 0 && v <= 1.2e-38f : v >= 1.6e38f) << v;
    }
  }
}

TEST(ScanFunctions, Phase) {
  const auto apply = COLUBER_PICK_ISA(scan_phase);
  const std::vector<float> dt = range(0, 3), turns = range(-40, 40);
  std::vector<float> re(dt.size()), im(dt.size());
  apply(dt.data(), turns.data(), re.data(), im.data(), kCount);
  for (std::size_t i = 0; i < re.size(); ++i) {
    const double x = static_cast<double>(dt[i]) * static_cast<double>(turns[i]);
    const double bound = (4 + 6.3 * std::abs(x)) * kUnitF32;
    ASSERT_LE(std::abs(static_cast<double>(re[i]) - std::cos(2 * std::numbers::pi * x)), bound) << x;
    ASSERT_LE(std::abs(static_cast<double>(im[i]) - std::sin(2 * std::numbers::pi * x)), bound) << x;
  }
}

TEST(ScanFunctions, TransposeAndSums) {
  const auto transpose = COLUBER_PICK_ISA(scan_transpose);
  const auto sum_rows = COLUBER_PICK_ISA(scan_sum_rows);
  std::vector<float> matrix(256), turned(256), sums(16);
  for (std::size_t i = 0; i < 256; ++i) matrix[i] = turned[i] = static_cast<float>(i * i % 253);
  const auto lanes = static_cast<std::size_t>(transpose(turned.data()));
  sum_rows(matrix.data(), sums.data());
  for (std::size_t i = 0; i < lanes; ++i) {
    float sum = 0;  // of whole numbers: exact
    for (std::size_t j = 0; j < lanes; ++j) {
      EXPECT_EQ(turned[16 * j + i], matrix[16 * i + j]);
      sum += matrix[16 * i + j];
    }
    EXPECT_EQ(sums[i], sum) << i;
  }
}

}  // namespace
}  // namespace coluber::cpu
