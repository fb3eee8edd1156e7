#include <gtest/gtest.h>

#include <cmath>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

// Sizes around a vector, a task of 16384 elements, and rows of a wider tensor.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {Shape{},   {0},     {1},     {15},    {16},       {17},      {63},
                                         {3, 7, 5}, {16384}, {16385}, {40000}, {130, 300}, {2, 0, 3}, {3, 20000}};
  return all;
}

// The same elements as a slice of a wider tensor, or with axes in another order in memory.
Tensor in_wider(const Tensor& t) {
  if (t.rank() == 0) return t.clone();
  Shape shape = t.shape();
  shape[t.rank() - 1] += 5;
  const Tensor part = Tensor::full(shape, 7, t.dtype()).slice(-1, 2, 2 + t.size(-1));
  part.copy_from(t);
  return part;
}
Tensor transposed(const Tensor& t) {
  return t.rank() < 2 ? t.clone() : t.transpose(0, -1).clone().transpose(0, -1);
}

TEST(AddInplace, AddsScaledElements) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.to_string());
    const Tensor a = random_tensor(shape, DType::kF32, 1), x = random_tensor(shape, DType::kF32, 2);
    const Tensor expected = a.to(DType::kF64);
    Context one = context(1), three = context(3), plain = context(1, Algorithm::kReference);
    add_inplace(one, expected, x.to(DType::kF64), -0.75);
    const Tensor got = a.clone();
    add_inplace(one, got, x, -0.75);
    EXPECT_LE(max_error(got, expected), 2 * kUnitF32 * 8);  // a product and a sum of at most 8
    for (Context* ctx : {&three, &plain}) {
      for (auto layout : {in_wider, transposed}) {
        const Tensor to = layout(a);
        add_inplace(*ctx, to, layout(x), -0.75);
        EXPECT_LE(max_error(to, expected), 2 * kUnitF32 * 8);
        const Tensor mixed = layout(a), flat = a.clone();
        add_inplace(*ctx, mixed, x, -0.75);
        add_inplace(*ctx, flat, layout(x), -0.75);
        EXPECT_TRUE(same_bits(mixed, to));
        EXPECT_TRUE(same_bits(flat, to));
        if (ctx == &three) {
          EXPECT_TRUE(same_bits(to, got));
        }
      }
    }
  }
}

TEST(AddInplace, LeavesTheRestOfAWiderTensorAlone) {
  const Tensor wide = Tensor::full({4, 50}, 7, DType::kF32), part = wide.slice(1, 3, 43);
  Context ctx = context(2);
  add_inplace(ctx, part, Tensor::full({4, 40}, 1, DType::kF32));
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 50; ++j) EXPECT_EQ(wide.at({i, j}), j >= 3 && j < 43 ? 8 : 7);
}

TEST(AddInplace, OfATensorToItselfDoubles) {
  const Tensor a = random_tensor({1000}, DType::kF32, 1), b = a.clone();
  Context ctx = context(2);
  add_inplace(ctx, b, b);
  for (std::int64_t i = 0; i < 1000; ++i) EXPECT_EQ(b.at({i}), 2 * a.at({i}));
}

TEST(ScaleInplace, Scales) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.to_string());
    const Tensor a = random_tensor(shape, DType::kF32, 1), expected = a.to(DType::kF64);
    Context one = context(1), three = context(3), plain = context(1, Algorithm::kReference);
    scale_inplace(one, expected, 0.3);
    for (Context* ctx : {&one, &three, &plain}) {
      for (auto layout : {in_wider, transposed}) {
        const Tensor x = layout(a);
        scale_inplace(*ctx, x, 0.3);
        EXPECT_LE(max_error(x, expected), 2 * kUnitF32 * 2);  // 0.3 rounded, the product rounded, of at most 2
      }
    }
  }
}

TEST(SumOfSquares, IsExactToDoubleAndTheSameOnAnyNumberOfThreads) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.to_string());
    const Tensor a = random_tensor(shape, DType::kF32, 1);
    Context one = context(1), two = context(2), three = context(3), plain = context(1, Algorithm::kReference);
    const double expected = sum_of_squares(one, a.to(DType::kF64));
    const double bound = expected * static_cast<double>(a.numel() + 1) * kUnitF64;
    const double got = sum_of_squares(one, a);
    EXPECT_NEAR(got, expected, bound);
    EXPECT_EQ(sum_of_squares(one, a), got);
    EXPECT_EQ(sum_of_squares(two, a), got);
    EXPECT_EQ(sum_of_squares(three, a), got);
    EXPECT_NEAR(sum_of_squares(plain, a), expected, bound);
    EXPECT_NEAR(sum_of_squares(two, in_wider(a)), expected, bound);
    EXPECT_NEAR(sum_of_squares(two, transposed(a)), expected, bound);
  }
}

TEST(SumOfSquares, KeepsLargeAndSmallNumbersApart) {
  Context ctx = context();
  const Tensor a = Tensor::full({1 << 16}, 1, DType::kF32);
  a.set({7}, 1e15);  // its square is 1e30: a float sum would lose the ones, and 1e30 is not far below its end
  EXPECT_NEAR(sum_of_squares(ctx, a), 1e30, 1e30 * 2e-7);
  EXPECT_TRUE(std::isnan(sum_of_squares(ctx, Tensor::full({100}, std::nan(""), DType::kF32))));
}

TEST(Copy, OfAnyLayoutKeepsEveryElement) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.to_string());
    const Tensor x = random_tensor(shape, DType::kF32, 3);
    for (const int threads : {1, 3}) {
      Context ctx = context(threads);
      for (const Tensor& from : {x, in_wider(x), transposed(x)}) {
        for (const Tensor& to : {Tensor::zeros(shape, DType::kF32), in_wider(Tensor::zeros(shape, DType::kF32)),
                                 transposed(Tensor::zeros(shape, DType::kF32))}) {
          copy(ctx, to, from);
          EXPECT_TRUE(same_bits(x, to.clone()));
        }
      }
    }
  }
}

TEST(Copy, LeavesTheRestOfAWiderTensorAlone) {
  Context ctx = context(2);
  const Tensor wide = Tensor::full({9, 11}, 7, DType::kF32);
  copy(ctx, wide.slice(-1, 2, 6), Tensor::zeros({9, 4}, DType::kF32));
  for (std::int64_t i = 0; i < wide.numel(); ++i)
    ASSERT_EQ(wide.data<float>()[i], i % 11 >= 2 && i % 11 < 6 ? 0.0f : 7.0f) << i;
}

// Relative error at most 3e-7 + 7.5e-8 |x| (kernels/elementwise.h).
TEST(NegExp, IsWithinItsBound) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.to_string());
    const Tensor x = random_tensor(shape, DType::kF32, 4);
    Context one = context(1), three = context(3);
    scale_inplace(one, x, 20);
    const Tensor y = neg_exp(one, x);
    EXPECT_TRUE(same_bits(y, neg_exp(three, x)));
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const double at = static_cast<double>(x.data<float>()[i]), exact = -std::exp(at);
      ASSERT_NEAR(static_cast<double>(y.data<float>()[i]), exact, (3e-7 + 7.5e-8 * std::abs(at)) * -exact) << at;
    }
  }
}

TEST(Elementwise, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Tensor a = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_EQ(refusal([&] {
              add_inplace(ctx, a, Tensor::zeros({3, 2}, DType::kF32));
            }),
            "[add_inplace] x: expected shape (2, 3), got (3, 2)");
  EXPECT_EQ(refusal([&] {
              add_inplace(ctx, a, Tensor::zeros({2, 3}, DType::kF64));
            }),
            "[add_inplace] dtype of x: expected f32, got f64");
  EXPECT_EQ(refusal([&] { add_inplace(ctx, {}, a); }), "[add_inplace] accumulator: expected a tensor, got no tensor");
  EXPECT_EQ(refusal([&] { add_inplace(ctx, a.to(DType::kI32), a); }),
            "[add_inplace] dtype of accumulator: expected f32 or f64, got i32");
  EXPECT_EQ(refusal([&] {
              add_inplace(ctx, Tensor::zeros({1, 3}, DType::kF32).expand(0, 2), a);
            }),
            "[add_inplace] accumulator: expected elements of its own, got an axis of stride 0");
  EXPECT_EQ(refusal([&] { scale_inplace(ctx, a.to(DType::kU8), 1); }),
            "[scale_inplace] dtype of x: expected f32 or f64, got u8");
  EXPECT_EQ(refusal([&] { scale_inplace(ctx, Tensor::zeros({1}, DType::kF32).expand(0, 2), 2); }),
            "[scale_inplace] x: expected elements of its own, got an axis of stride 0");
  EXPECT_EQ(refusal([&] { sum_of_squares(ctx, a.to(DType::kF16)); }),
            "[sum_of_squares] dtype of x: expected f32 or f64, got f16");
}

}  // namespace
}  // namespace coluber::ops
