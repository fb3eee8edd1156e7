// The error bounds that simd.h states, on every instruction set that this machine has.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <ostream>
#include <vector>

#include "simd_functions.h"

namespace coluber::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kMaxLanes = 16;

struct Set {
  const char* name;
  decltype(&base::simd_lanes) lanes;
  decltype(&base::simd_apply) apply;
  decltype(&base::simd_max_min) max_min;
  decltype(&base::simd_reduce) reduce;
  decltype(&base::simd_widen_bf16) widen_bf16;
  decltype(&base::simd_round_bf16) round_bf16;
  decltype(&base::simd_copy_first) copy_first;
  decltype(&base::simd_double_span) double_span;
};

#define COLUBER_SIMD_SET(isa)                                                                          \
  Set {                                                                                                \
#isa, isa::simd_lanes, isa::simd_apply, isa::simd_max_min, isa::simd_reduce, isa::simd_widen_bf16, \
        isa::simd_round_bf16, isa::simd_copy_first, isa::simd_double_span                              \
  }

std::vector<Set> sets() {
  std::vector<Set> all = {COLUBER_SIMD_SET(base)};
#ifndef COLUBER_ONLY_BASE_ISA
  if (selected_isa() >= CpuIsa::kAvx2) all.push_back(COLUBER_SIMD_SET(avx2));
  if (selected_isa() >= CpuIsa::kAvx512) all.push_back(COLUBER_SIMD_SET(avx512));
#endif
  return all;
}

void PrintTo(const Set& set, std::ostream* out) {
  *out << set.name;
}

class Simd : public ::testing::TestWithParam<Set> {
 protected:
  float of(SimdFunction f, float x) const {
    float y = 0;
    GetParam().apply(f, &x, &y, 1);
    return y;
  }

  // |got - exact| <= bound(x, exact) for all x.
  void check(SimdFunction f, const std::vector<float>& x, double (*exact)(double),
             const std::function<double(double, double)>& bound) const {
    std::vector<float> y(x.size());
    GetParam().apply(f, x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = exact(x[i]), allowed = bound(x[i], expected);
      const double used = std::abs(static_cast<double>(y[i]) - expected) / allowed;
      ASSERT_LE(used, 1) << x[i] << ": got " << y[i] << ", exact " << expected;
      worst = std::max(worst, used);
    }
    RecordProperty("worst share of the bound", std::to_string(worst));
  }
};
INSTANTIATE_TEST_SUITE_P(Sets, Simd, ::testing::ValuesIn(sets()), [](const auto& set) { return set.param.name; });

std::vector<float> between(float low, float high, int count = 1 << 19) {
  std::vector<float> x;
  for (int i = 0; i <= count; ++i) x.push_back(static_cast<float>(low + (static_cast<double>(high) - low) * i / count));
  return x;
}

// Positive normal floats, evenly over their exponents.
std::vector<float> all_sizes() {
  std::vector<float> x;
  for (std::uint32_t bits = 0x00800000; bits < 0x7f800000; bits += 4099) x.push_back(std::bit_cast<float>(bits));
  return x;
}

TEST_P(Simd, Exp2) {
  const auto bound = [](double, double exact) { return 2.5e-7 * exact; };
  check(SimdFunction::kExp2, between(-126, 127.99f), std::exp2, bound);
  check(SimdFunction::kExp2, between(-1, 1), std::exp2, bound);
  EXPECT_EQ(of(SimdFunction::kExp2, 0), 1);
  EXPECT_EQ(of(SimdFunction::kExp2, 128), kInfinity);
  EXPECT_EQ(of(SimdFunction::kExp2, 1e30f), kInfinity);
  EXPECT_EQ(of(SimdFunction::kExp2, kInfinity), kInfinity);
  EXPECT_LE(of(SimdFunction::kExp2, -127), 0x1p-126f);
  EXPECT_EQ(of(SimdFunction::kExp2, -200), 0);
  EXPECT_EQ(of(SimdFunction::kExp2, -kInfinity), 0);
  EXPECT_TRUE(std::isnan(of(SimdFunction::kExp2, kNaN)));
}

TEST_P(Simd, Exp) {
  const auto bound = [](double x, double exact) { return (3e-7 + 7.5e-8 * std::abs(x)) * exact; };
  check(SimdFunction::kExp, between(-87, 88.7f), std::exp, bound);
  check(SimdFunction::kExp, between(-1, 1), std::exp, bound);
  EXPECT_EQ(of(SimdFunction::kExp, 0), 1);
  EXPECT_EQ(of(SimdFunction::kExp, -1000), 0);
  EXPECT_EQ(of(SimdFunction::kExp, 1000), kInfinity);
  EXPECT_TRUE(std::isnan(of(SimdFunction::kExp, kNaN)));
}

TEST_P(Simd, Sigmoid) {
  const auto exact = [](double x) { return 1 / (1 + std::exp(-x)); };
  check(SimdFunction::kSigmoid, between(-200, 200), exact, [](double, double) { return 4e-7; });
  check(SimdFunction::kSigmoid, between(-10, 10), exact, [](double, double) { return 4e-7; });
  EXPECT_EQ(of(SimdFunction::kSigmoid, 0), 0.5f);
  EXPECT_EQ(of(SimdFunction::kSigmoid, kInfinity), 1);
  EXPECT_EQ(of(SimdFunction::kSigmoid, -kInfinity), 0);
  EXPECT_TRUE(std::isnan(of(SimdFunction::kSigmoid, kNaN)));
}

TEST_P(Simd, Silu) {
  const auto exact = [](double x) { return x / (1 + std::exp(-x)); };
  const auto bound = [](double x, double) { return 4e-7 * std::max(1.0, std::abs(x)); };
  check(SimdFunction::kSilu, between(-200, 200), exact, bound);
  check(SimdFunction::kSilu, between(-10, 10), exact, bound);
  EXPECT_EQ(of(SimdFunction::kSilu, 0), 0);
  EXPECT_EQ(of(SimdFunction::kSilu, 1e30f), 1e30f);
  EXPECT_EQ(of(SimdFunction::kSilu, -1e30f), 0);
  EXPECT_TRUE(std::isnan(of(SimdFunction::kSilu, kNaN)));
}

TEST_P(Simd, Log) {
  // Around 1, where ln x is small, its own size counts; 1e-38 keeps the quotient defined at ln 1 = 0.
  const auto bound = [](double, double exact) { return 4e-7 * std::abs(exact) + 1e-38; };
  check(SimdFunction::kLog, all_sizes(), std::log, bound);
  check(SimdFunction::kLog, between(0.5f, 2), std::log, bound);
  check(SimdFunction::kLog, between(0.999f, 1.001f), std::log, bound);
  EXPECT_EQ(of(SimdFunction::kLog, 1), 0);
}

TEST_P(Simd, Softplus) {
  const auto exact = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); };
  const auto bound = [](double x, double y) { return (6e-7 + 7.5e-8 * std::max(0.0, -x)) * y; };
  check(SimdFunction::kSoftplus, between(-87, 200), exact, bound);
  check(SimdFunction::kSoftplus, between(-5, 5), exact, bound);
  EXPECT_EQ(of(SimdFunction::kSoftplus, 1e30f), 1e30f);
  EXPECT_EQ(of(SimdFunction::kSoftplus, -1000), 0);
  EXPECT_EQ(of(SimdFunction::kSoftplus, kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(of(SimdFunction::kSoftplus, kNaN)));
}

TEST_P(Simd, Abs) {
  EXPECT_EQ(of(SimdFunction::kAbs, -3), 3);
  EXPECT_EQ(of(SimdFunction::kAbs, 3), 3);
  EXPECT_FALSE(std::signbit(of(SimdFunction::kAbs, -0.0f)));
}

TEST_P(Simd, MaxAndMinGiveTheSecondWhereOneIsNotANumber) {
  std::vector<float> a(kMaxLanes, 1), b(kMaxLanes, 2), max(kMaxLanes), min(kMaxLanes);
  a[1] = kNaN;
  b[2] = kNaN;
  a[3] = -kInfinity;
  GetParam().max_min(a.data(), b.data(), max.data(), min.data());
  EXPECT_EQ(max[0], 2);
  EXPECT_EQ(min[0], 1);
  EXPECT_EQ(max[1], 2);
  EXPECT_EQ(min[1], 2);
  EXPECT_TRUE(std::isnan(max[2]));
  EXPECT_TRUE(std::isnan(min[2]));
  EXPECT_EQ(max[3], 2);
  EXPECT_EQ(min[3], -kInfinity);
}

TEST_P(Simd, ReductionsTakeEveryLane) {
  const int lanes = GetParam().lanes();
  for (int lane = 0; lane < lanes; ++lane) {
    std::vector<float> x(kMaxLanes, 1);
    x[static_cast<std::size_t>(lane)] = 100;
    float sum = 0, max = 0;
    GetParam().reduce(x.data(), &sum, &max);
    EXPECT_EQ(sum, static_cast<float>(lanes + 99));
    EXPECT_EQ(max, 100);
  }
}

TEST_P(Simd, Bf16WidensExactlyAndRoundsToNearestEven) {
  std::vector<bfloat16> half(65536), back(65536);
  std::vector<float> wide(65536);
  for (std::size_t i = 0; i < half.size(); ++i) half[i].bits = static_cast<std::uint16_t>(i);
  GetParam().widen_bf16(half.data(), wide.data(), 65536);
  for (std::size_t i = 0; i < half.size(); ++i) EXPECT_EQ(std::bit_cast<std::uint32_t>(wide[i]), i << 16);
  // Beside and between neighbours: ties and both sides of them.
  for (std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
    for (std::size_t i = 0; i < wide.size(); ++i)
      wide[i] = std::bit_cast<float>(static_cast<std::uint32_t>(i << 16) | low);
    GetParam().round_bf16(wide.data(), back.data(), 65536);
    for (std::size_t i = 0; i < wide.size(); ++i) {
      if (!std::isnan(wide[i])) {
        ASSERT_EQ(back[i].bits, bfloat16(wide[i]).bits) << wide[i];
      }
    }
  }
}

TEST_P(Simd, FirstLanesLeaveTheOthersAlone) {
  const int lanes = GetParam().lanes();
  for (int n = 0; n <= lanes; ++n) {
    std::vector<float> x(kMaxLanes, 5), y(2 * kMaxLanes, -1);
    GetParam().copy_first(x.data(), y.data(), n);
    for (int i = 0; i < lanes; ++i) {
      EXPECT_EQ(y[static_cast<std::size_t>(i)], i < n ? 5 : 0);
      EXPECT_EQ(y[static_cast<std::size_t>(lanes + i)], i < n ? 6 : -1);
    }
  }
}

TEST_P(Simd, SpansOfAnyLength) {
  for (int n = 0; n <= 9 * kMaxLanes; ++n) {
    std::vector<float> x, y(static_cast<std::size_t>(n) + 1, -1);
    for (int i = 0; i < n; ++i) x.push_back(static_cast<float>(i));
    float sum = 0;
    GetParam().double_span(x.data(), y.data(), n, &sum);
    for (int i = 0; i < n; ++i) ASSERT_EQ(y[static_cast<std::size_t>(i)], static_cast<float>(2 * i));
    EXPECT_EQ(y.back(), -1);
    EXPECT_EQ(sum, static_cast<float>(n * (n + 1) / 2));  // of x + 1
  }
}

}  // namespace
}  // namespace coluber::cpu
