// Products of one to eight tokens, and the conversions of weights.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/matmul_isa.h"
#include "kernels/matmul.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::cpu {
namespace {

using namespace coluber::testing;

Tensor forward(int threads, const Tensor& x, const Tensor& weight, const Tensor& bias, bool bf16 = false) {
  ThreadPool pool(threads);
  Arena arena;
  const Tensor y = Tensor::full({x.size(0), weight.size(0)}, -7, DType::kF32);
  LinearForwardParams p;
  p.m = x.size(0);
  p.n = weight.size(0);
  p.k = x.size(1);
  p.x = x.data<float>();
  p.ldx = x.stride(0);
  p.weight = {weight.raw(), weight.dtype(), weight.stride(0)};
  p.bias = bias.defined() ? bias.data<float>() : nullptr;
  p.bf16 = bf16;
  p.y = y.data<float>();
  p.ldy = y.stride(0);
  linear_forward(pool, arena, p);
  return y;
}

Tensor broadcast_bias(const Tensor& bias, std::int64_t m) {
  return bias.unsqueeze(0).expand(0, m).clone();
}

TEST(SkinnyForward, MatchesDouble) {
  const std::vector<std::int64_t> depths = {1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 255, 256, 257, 1536, 5200};
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (std::int64_t k : depths) {
      for (std::int64_t n : {1, 2, 3, 5, 29}) {
        for (std::int64_t m = 1; m <= kSkinnyRows; ++m) {
          SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << " m " << m << " n " << n << " k " << k);
          const Tensor x = random_tensor({m, k + 2}, DType::kF32, 1).slice(1, 1, k + 1);  // unaligned, rows apart
          const Tensor weight = random_tensor({n, k + 1}, dtype, 2).slice(1, 0, k);
          const Tensor bias = random_tensor({n}, DType::kF32, 3);
          const Tensor y = forward(2, x, weight, bias);
          EXPECT_LE(product_share(y, x, weight.transpose(0, 1), broadcast_bias(bias, m)), 1);
        }
      }
    }
  }
}

TEST(SkinnyForward, RoundsBothFactorsToBf16WhenAsked) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (std::int64_t m : {1, 4, 8}) {
      const Tensor x = random_tensor({m, 301}, DType::kF32, 1), weight = random_tensor({19, 301}, dtype, 2);
      const Tensor y = forward(1, x, weight, {}, true);
      EXPECT_LE(product_share(y, x.to(DType::kBF16), weight.to(DType::kBF16).transpose(0, 1)), 1) << dtype_name(dtype);
      EXPECT_GT(product_share(y, x, weight.transpose(0, 1)), 1) << "bf16 and f32 cannot be told apart";
    }
  }
}

// A token's result does not depend on its neighbours nor on the number of threads: bits.
TEST(SkinnyForward, IsBatchInvariant) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (std::int64_t k : {64, 100, 768, 2560}) {  // inputs of 8 tokens within L1, and beyond it
      const Tensor weight = random_tensor({203, k}, dtype, 2), bias = random_tensor({203}, DType::kF32, 3);
      const Tensor x = random_tensor({kSkinnyRows, k}, DType::kF32, 1);
      const Tensor all = forward(1, x, weight, bias);
      for (std::int64_t m = 1; m <= kSkinnyRows; ++m) {
        for (int threads : {1, 2, 3}) {
          SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << " k " << k << " m " << m << " threads " << threads);
          EXPECT_TRUE(same_bits(forward(threads, x.slice(0, 0, m), weight, bias), all.slice(0, 0, m)));
          EXPECT_TRUE(same_bits(forward(threads, x.slice(0, 8 - m, 8), weight, bias), all.slice(0, 8 - m, 8)));
        }
      }
    }
  }
}

TEST(SkinnyForward, WithoutInputsIsTheBias) {
  const Tensor x = Tensor::empty({3, 0}, DType::kF32), weight = Tensor::empty({5, 0}, DType::kF32);
  const Tensor bias = random_tensor({5}, DType::kF32, 1);
  EXPECT_TRUE(same_bits(forward(2, x, weight, bias), broadcast_bias(bias, 3)));
}

TEST(Conversions, WidenEveryHalf) {
  static const auto kernel = COLUBER_PICK_ISA(widen);
  const Tensor from = Tensor::empty({65536}, DType::kF16), to = Tensor::empty({65536}, DType::kF32);
  for (std::int64_t i = 0; i < 65536; ++i) from.data<float16>()[i].bits = static_cast<std::uint16_t>(i);
  kernel(from.raw(), DType::kF16, false, to.data<float>(), 65536);
  for (std::int64_t i = 0; i < 65536; ++i) {
    const auto expected = static_cast<float>(from.data<float16>()[i]);
    if (std::isnan(expected))
      EXPECT_TRUE(std::isnan(to.data<float>()[i])) << i;
    else
      ASSERT_EQ(to.data<float>()[i], expected) << i;
  }
}

TEST(Conversions, RoundLikeTheScalarTypes) {
  static const auto widen_kernel = COLUBER_PICK_ISA(widen);
  static const auto narrow_kernel = COLUBER_PICK_ISA(narrow);
  constexpr std::int64_t kCount = 1013;
  const Tensor source = random_tensor({kCount}, DType::kF32, 4, 100);
  for (std::int64_t i = 0; i < 64; ++i)  // ties, to both sides
    source.data<float>()[i] = std::bit_cast<float>(0x3f800000u + static_cast<std::uint32_t>(i) * 0x8000u);
  for (DType dtype : {DType::kF32, DType::kF16}) {
    const Tensor from = source.to(dtype), expected = from.to(DType::kF32).to(DType::kBF16);
    const Tensor wide = Tensor::empty({kCount}, DType::kF32), narrowed = Tensor::empty({kCount}, DType::kBF16);
    widen_kernel(from.raw(), dtype, true, wide.data<float>(), kCount);
    narrow_kernel(from.raw(), dtype, narrowed.data<bfloat16>(), kCount);
    EXPECT_TRUE(same_bits(wide, expected.to(DType::kF32))) << dtype_name(dtype);
    EXPECT_TRUE(same_bits(narrowed, expected)) << dtype_name(dtype);
  }
}

}  // namespace
}  // namespace coluber::cpu
