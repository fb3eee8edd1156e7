// linear with packed weights (kernels/cpu/packed_linear.h).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "coluber/ops.h"
#include "core/cpu_features.h"
#include "ops/linear.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1) {
  return Context(ContextOptions{threads, Algorithm::kAuto});
}

constexpr DType kComputes[] = {DType::kF32, DType::kBF16};

struct Case {
  std::int64_t m, out, in;
};

LinearArgs make(const Case& c, DType compute) {
  return {random_tensor({c.m, c.in}, DType::kF32, 1), random_tensor({c.out, c.in}, DType::kBF16, 2),
          random_tensor({c.out}, DType::kF32, 3), compute};
}

Tensor pack(Context& ctx, const Tensor& weight) {
  return pack_linear_weights(ctx, {&weight, 1})[0];
}

// Of products in bf16 packed weights change no bit. Sizes: few outputs for many tokens, whose tasks round their own;
// ends within a tile of tokens, outputs and k; results that are stored past the caches.
TEST(PackedLinear, GivesTheBitsOfTiles) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  for (const Case& c : {Case{9, 5, 256}, Case{17, 255, 257}, Case{50, 96, 512}, Case{300, 80, 704}, Case{530, 270, 160},
                        Case{520, 512, 130}, Case{2100, 1024, 129}}) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(::testing::Message() << c.m << " tokens, (" << c.out << "," << c.in << "), " << threads);
      Context ctx = context(threads);
      LinearArgs args = make(c, DType::kBF16);
      for (const Tensor& bias : {args.bias, Tensor{}}) {
        args.bias = bias;
        args.packed = {};
        const Tensor expected = linear_forward(ctx, args);
        args.packed = pack(ctx, args.weight);
        ASSERT_TRUE(args.packed.defined());
        EXPECT_TRUE(same_bits(linear_forward(ctx, args), expected));
      }
    }
  }
}

// A token's bits do not depend on the others nor on threads: one token by vectors, up to 8 by tiles that weights are
// copied for, more by blocks, of few outputs and of many.
TEST(PackedLinear, GivesATokenTheSameBitsInAnyCall) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  for (const DType compute : kComputes) {
    for (const Case& c : {Case{530, 270, 704}, Case{200, 96, 257}, Case{40, 33, 129}}) {
      Context one = context(1), two = context(2);
      LinearArgs args = make(c, compute);
      for (const Tensor& bias : {args.bias, Tensor{}}) {
        args.bias = bias;
        args.packed = pack(two, args.weight);
        const Tensor expected = linear_forward(two, args);
        for (const std::int64_t m : {1, 2, 3, 5, 6, 8, 9, 17, 33, 64, 130, 529}) {
          if (m >= c.m) continue;
          SCOPED_TRACE(::testing::Message()
                       << m << " tokens, (" << c.out << "," << c.in << ") " << dtype_name(compute));
          LinearArgs some = args;
          some.x = args.x.slice(0, 1, 1 + m);
          const Tensor alike = expected.slice(0, 1, 1 + m).contiguous();
          EXPECT_TRUE(same_bits(linear_forward(one, some), alike));
          EXPECT_TRUE(same_bits(linear_forward(two, some), alike));
        }
      }
    }
  }
}

// Also where parts of x, products or sums are no normal numbers any more: 0 by vectors as by tiles.
TEST(PackedLinear, GivesATokenOfTinyNumbersTheSameBits) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  Context ctx = context(2);
  for (const int exponent : {-105, -115, -120, -126, -140}) {
    LinearArgs args = make({9, 33, 257}, DType::kF32);
    args.bias = {};
    for (std::int64_t i = 0; i < args.x.numel(); ++i)
      args.x.data<float>()[i] = std::ldexp(args.x.data<float>()[i], exponent);
    args.packed = pack(ctx, args.weight);
    const Tensor expected = linear_forward(ctx, args);
    for (const std::int64_t m : {1, 8}) {
      LinearArgs some = args;
      some.x = args.x.slice(0, 1, 1 + m);
      EXPECT_TRUE(same_bits(linear_forward(ctx, some), expected.slice(0, 1, 1 + m).contiguous()))
          << exponent << " " << m;
    }
  }
}

TEST(PackedLinear, MatchesDouble) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  Context ctx = context(2);
  for (const DType compute : kComputes) {
    for (const Case& c :
         {Case{1, 3, 128}, Case{2, 70, 1601}, Case{8, 257, 160}, Case{9, 64, 300}, Case{140, 300, 1601}}) {
      SCOPED_TRACE(::testing::Message() << c.m << " tokens, (" << c.out << "," << c.in << ") " << dtype_name(compute));
      LinearArgs args = make(c, compute);
      args.packed = pack(ctx, args.weight);
      const Tensor x = compute == DType::kBF16 ? args.x.to(DType::kBF16) : args.x;
      EXPECT_LE(product_share(linear_forward(ctx, args), x, args.weight.transpose(0, 1),
                              args.bias.unsqueeze(0).expand(0, c.m).clone()),
                1);
    }
  }
}

// Through the identity f32 comes back as it was, all 24 bits of it, and NaN and infinity where they were.
TEST(PackedLinear, RoundsNoBitOfF32) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  Context ctx = context(2);
  constexpr std::int64_t kInputs = 160;
  LinearArgs args;
  args.weight = Tensor::zeros({kInputs, kInputs}, DType::kBF16);
  for (std::int64_t i = 0; i < kInputs; ++i) args.weight.set({i, i}, 1);
  args.packed = pack(ctx, args.weight);
  for (const std::int64_t m : {1, 8, 40}) {
    args.x = random_tensor({m, kInputs}, DType::kF32, 1);
    for (std::int64_t i = 0; i < kInputs; ++i)
      args.x.data<float>()[i] *= std::ldexp(1.0f, static_cast<int>(i * 7 % 200) - 100);
    EXPECT_TRUE(same_bits(linear_forward(ctx, args), args.x)) << m;
    args.x.set({m - 1, 3}, std::numeric_limits<double>::infinity());
    EXPECT_EQ(linear_forward(ctx, args).at({m - 1, 3}), std::numeric_limits<double>::infinity()) << m;
    args.x.data<float>()[(m - 1) * kInputs + 3] = std::bit_cast<float>(0x7f800001u);  // a NaN in its last bit alone
    EXPECT_TRUE(std::isnan(linear_forward(ctx, args).at({m - 1, 3}))) << m;
  }
}

TEST(PackedLinear, WeightsArePackedIntoOnePiece) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  Context ctx = context();
  const std::vector<Tensor> weights = {random_tensor({40, 128}, DType::kBF16, 1),
                                       random_tensor({40, 32}, DType::kBF16, 2),
                                       random_tensor({33, 160}, DType::kBF16, 3)};
  const std::vector<Tensor> packed = pack_linear_weights(ctx, weights);
  EXPECT_FALSE(packed[1].defined());
  EXPECT_EQ(packed[2].data<bfloat16>(), packed[0].data<bfloat16>() + packed[0].numel());
  EXPECT_TRUE(same_bits(packed[2], pack(ctx, weights[2])));
}

TEST(PackedLinear, PacksWhatTilesTake) {
  Context ctx = context();
  auto packs = [&](const Shape& shape, DType dtype) { return pack(ctx, Tensor::zeros(shape, dtype)).defined(); };
  EXPECT_EQ(packs({40, 128}, DType::kBF16), has_amx_bf16());
  EXPECT_FALSE(packs({40, 127}, DType::kBF16));  // too few inputs for tiles
  EXPECT_FALSE(packs({0, 128}, DType::kBF16));
  EXPECT_FALSE(packs({40, 128}, DType::kF32));
  EXPECT_FALSE(packs({40, 128}, DType::kF16));
}

}  // namespace
}  // namespace coluber::ops
