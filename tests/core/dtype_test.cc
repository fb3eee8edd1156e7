#include "coluber/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace coluber {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(DType, NamesGoBothWays) {
  for (DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8})
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  EXPECT_FALSE(dtype_from_name("float").has_value());
  EXPECT_FALSE(dtype_from_name("").has_value());
  EXPECT_EQ(dtype_size(DType::kBF16), 2);
  EXPECT_EQ(dtype_size(DType::kI64), 8);
}

// What the bits mean, from the definition: sign, `exponent_bits`, `mantissa_bits`.
double meaning(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? std::nan("") : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1u << mantissa_bits), exponent - bias - mantissa_bits);
}

template <class Half>
void check_every_value(int exponent_bits, int mantissa_bits) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    Half half;
    half.bits = static_cast<std::uint16_t>(bits);
    const double expected = meaning(bits, exponent_bits, mantissa_bits);
    const auto value = static_cast<float>(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(Half(value)))) << bits;
      continue;
    }
    ASSERT_EQ(value, expected) << bits;
    ASSERT_EQ(Half(value).bits, bits);  // zeros keep their sign
  }
}

// Between neighbours `low` and the next, the middle goes to the even one and its float neighbours to their own side.
template <class Half>
void check_every_middle(int exponent_bits, int mantissa_bits) {
  const auto infinity = static_cast<std::uint32_t>((1 << exponent_bits) - 1) << mantissa_bits;
  for (std::uint32_t low = 0; low < infinity; ++low) {
    const double a = meaning(low, exponent_bits, mantissa_bits);
    // The last finite number's neighbour counts as if the exponents went on.
    const double b = low + 1 < infinity ? meaning(low + 1, exponent_bits, mantissa_bits)
                                        : std::ldexp(1.0, (1 << (exponent_bits - 1)));
    const auto middle = static_cast<float>((a + b) / 2);  // exact: one bit more than a half has
    const std::uint32_t even = low % 2 == 0 ? low : low + 1;
    ASSERT_EQ(Half(middle).bits, even) << a;
    ASSERT_EQ(Half(-middle).bits, even | 0x8000u) << a;
    ASSERT_EQ(Half(std::nextafter(middle, 0.0f)).bits, low) << a;
    ASSERT_EQ(Half(std::nextafter(middle, std::numeric_limits<float>::infinity())).bits, low + 1) << a;
  }
}

TEST(BFloat16, EveryValue) {
  check_every_value<bfloat16>(8, 7);
}
TEST(BFloat16, RoundsToNearestEven) {
  check_every_middle<bfloat16>(8, 7);
}
TEST(Float16, EveryValue) {
  check_every_value<float16>(5, 10);
}
TEST(Float16, RoundsToNearestEven) {
  check_every_middle<float16>(5, 10);
}

TEST(Float16, LargeAndSmall) {
  EXPECT_EQ(static_cast<float>(float16(65519.0f)), 65504.0f);
  EXPECT_EQ(static_cast<float>(float16(65520.0f)), std::numeric_limits<float>::infinity());
  EXPECT_EQ(static_cast<float>(float16(3e38f)), std::numeric_limits<float>::infinity());
  EXPECT_EQ(static_cast<float>(float16(1e-30f)), 0.0f);
  EXPECT_EQ(static_cast<float>(float16(0x1p-24f)), 0x1p-24f);
}

}  // namespace
}  // namespace coluber
