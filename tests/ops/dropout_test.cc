#include <gtest/gtest.h>

#include "coluber/ops.h"
#include "core/rng.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

TEST(Dropout, KeepsWhereTheGeneratorSays) {
  const std::uint64_t seed = 0x123456789abcdef0, stream = 0xfedcba9876543210;
  const Rng rng(seed, stream);
  Context ctx = context(2), plain = context(1, Algorithm::kReference);
  for (double p : {0.0, 0.1, 0.5, 0.999}) {
    for (std::int64_t n : {0, 1, 3, 255, 256, 257, 16384, 40001}) {
      const Tensor x = random_tensor({n}, DType::kF32, 1);
      const Tensor y = dropout(ctx, x, p, seed, stream);
      const auto factor = static_cast<float>(1 / (1 - p));
      for (std::int64_t i = 0; i < n; ++i) {
        const bool keep = rng.uniform(static_cast<std::uint64_t>(i)) >= p;
        ASSERT_EQ(y.data<float>()[i], keep ? x.data<float>()[i] * factor : 0.0f) << p << " " << i;
      }
      EXPECT_TRUE(same_bits(dropout(plain, x, p, seed, stream), y));
    }
  }
}

TEST(Dropout, ElementsAreCountedInRowMajorOrderWhateverTheStrides) {
  Context one = context(1), three = context(3);
  const Tensor x = random_tensor({30, 7, 1111}, DType::kF32, 1);
  const Tensor y = dropout(one, x, 0.3, 5, 6);
  EXPECT_TRUE(same_bits(dropout(three, x, 0.3, 5, 6), y));
  EXPECT_TRUE(same_bits(dropout(one, x, 0.3, 5, 6), y));
  const Tensor wide = Tensor::zeros({30, 7, 1120}, DType::kF32).slice(2, 4, 1115);
  wide.copy_from(x);
  EXPECT_TRUE(same_bits(dropout(three, wide, 0.3, 5, 6), y));
  EXPECT_TRUE(same_bits(dropout(three, x.transpose(0, 2).clone().transpose(0, 2), 0.3, 5, 6), y));
  EXPECT_LE(max_error(y, dropout(one, x.to(DType::kF64), 0.3, 5, 6)), 2 * kUnitF32);
}

TEST(Dropout, OtherSeedsAndStreamsGiveOtherMasks) {
  Context ctx = context();
  const Tensor x = Tensor::full({1000}, 1, DType::kF32);
  const Tensor y = dropout(ctx, x, 0.5, 1, 1);
  EXPECT_FALSE(same_bits(dropout(ctx, x, 0.5, 2, 1), y));
  EXPECT_FALSE(same_bits(dropout(ctx, x, 0.5, 1, 2), y));
}

TEST(Dropout, TheBaseIsAddedToTheStream) {
  Context ctx = context();
  const Tensor x = random_tensor({3, 500}, DType::kF32, 1), base = Tensor::full({}, 7, DType::kI64);
  EXPECT_TRUE(same_bits(dropout(ctx, x, 0.5, 1, 5, base), dropout(ctx, x, 0.5, 1, 12)));
  EXPECT_NE(refusal([&] { dropout(ctx, x, 0.5, 1, 5, base.to(DType::kI32)); }).find("stream_base"), std::string::npos);
}

TEST(Dropout, KeepsTheMean) {
  Context ctx = context();
  const std::int64_t n = 1 << 20;
  const Tensor y = dropout(ctx, Tensor::full({n}, 1, DType::kF32), 0.25, 1, 2);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += y.data<float>()[i];
  const double sigma = std::sqrt(0.25 / 0.75 / static_cast<double>(n));  // of the mean of n kept-or-not values
  EXPECT_NEAR(sum / static_cast<double>(n), 1, 5 * sigma);
}

TEST(Dropout, DropsWhatIsNotANumber) {
  Context ctx = context();
  const Tensor y = dropout(ctx, Tensor::full({1000}, std::nan(""), DType::kF32), 0.5, 1, 2);
  const Tensor ones = dropout(ctx, Tensor::full({1000}, 1, DType::kF32), 0.5, 1, 2);
  for (std::int64_t i = 0; i < 1000; ++i) EXPECT_EQ(std::isnan(y.at({i})), ones.at({i}) != 0);
}

TEST(Dropout, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Tensor x = Tensor::zeros({2}, DType::kF32);
  EXPECT_EQ(refusal([&] { dropout(ctx, {}, 0.1, 0, 0); }), "[dropout] x: expected a tensor, got no tensor");
  EXPECT_EQ(refusal([&] { dropout(ctx, x.to(DType::kI64), 0.1, 0, 0); }),
            "[dropout] dtype of x: expected f32 or f64, got i64");
  EXPECT_EQ(refusal([&] { dropout(ctx, x, 1, 0, 0); }), "[dropout] p: expected 0 up to but not 1, got 1");
  EXPECT_EQ(refusal([&] { dropout(ctx, x, -0.1, 0, 0); }), "[dropout] p: expected 0 up to but not 1, got -0.1");
  EXPECT_EQ(refusal([&] { dropout(ctx, x, std::nan(""), 0, 0); }), "[dropout] p: expected 0 up to but not 1, got nan");
}

}  // namespace
}  // namespace coluber::ops
