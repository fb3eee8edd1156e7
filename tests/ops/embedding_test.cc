#include <gtest/gtest.h>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

Tensor random_ids(const Shape& shape, std::int64_t v, std::uint64_t seed = 1) {
  const Tensor ids = Tensor::empty({shape.numel()}, DType::kI32);
  const Rng rng(seed, 9);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(v)));
  return ids.reshape(shape);
}

TEST(Embedding, RowsOfAnyFloatTableComeOutExactly) {
  Context fast = context(2), plain = context(1, Algorithm::kReference);
  const std::int64_t v = 50, m = 37;
  const Tensor ids = random_ids({3, 29}, v);
  for (DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const Tensor table = random_tensor({v, m}, DType::kF64, 2, 1e-3).to(dtype);
    for (DType out : {DType::kF32, DType::kF64}) {
      const Tensor y = embedding_forward(fast, ids, table, out);
      ASSERT_EQ(y.shape(), (Shape{3, 29, m}));
      ASSERT_EQ(y.dtype(), out);
      const Tensor rows = table.to(out);
      for (std::int64_t i = 0; i < 3; ++i) {
        for (std::int64_t t = 0; t < 29; ++t) {
          const auto id = static_cast<std::int64_t>(ids.at({i, t}));
          ASSERT_TRUE(same_bits(y.select(0, i).select(0, t), rows.select(0, id)));
        }
      }
      EXPECT_TRUE(same_bits(embedding_forward(plain, ids, table, out), y));
    }
  }
}

// Every f16 there is, NaNs by their being NaN.
TEST(Embedding, WidensEveryHalf) {
  const Tensor table = Tensor::empty({64, 1024}, DType::kF16);
  for (std::int64_t i = 0; i < 65536; ++i) table.data<float16>()[i].bits = static_cast<std::uint16_t>(i);
  Context ctx = context(2);
  const Tensor ids = Tensor::empty({64}, DType::kI32);
  for (std::int32_t i = 0; i < 64; ++i) ids.data<std::int32_t>()[i] = i;
  const Tensor y = embedding_forward(ctx, ids, table);
  for (std::int64_t i = 0; i < 65536; ++i) {
    const auto expected = static_cast<float>(table.data<float16>()[i]);
    const float got = y.data<float>()[i];
    if (std::isnan(expected))
      ASSERT_TRUE(std::isnan(got)) << i;
    else
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected)) << i;
  }
}

TEST(Embedding, TablesMayBeViews) {
  Context ctx = context();
  const Tensor table = random_tensor({20, 16}, DType::kF32, 1), ids = random_ids({7}, 20);
  const Tensor y = embedding_forward(ctx, ids, table);
  const Tensor wide = Tensor::zeros({20, 24}, DType::kF32).slice(1, 3, 19);
  wide.copy_from(table);
  EXPECT_TRUE(same_bits(embedding_forward(ctx, ids, wide), y));
  EXPECT_TRUE(same_bits(embedding_forward(ctx, ids, table.transpose(0, 1).clone().transpose(0, 1)), y));
  const Tensor every_second = Tensor::zeros({14}, DType::kI32).reshape({7, 2}).select(1, 0);
  every_second.copy_from(ids);
  EXPECT_TRUE(same_bits(embedding_forward(ctx, every_second, table), y));
}

// Row sums in token order are the same additions in every kernel: the same bits as the plain loops.
TEST(Embedding, BackwardAddsRowsInTokenOrderOnAnyNumberOfThreads) {
  struct Case {
    std::int64_t tok, v, m;
  };
  for (const Case& c :
       {Case{0, 5, 4}, {1, 5, 4}, {500, 1, 300}, {1000, 7, 33}, {300, 5000, 130}, {64, 64, 1}, {5, 5, 0}}) {
    SCOPED_TRACE(c.tok);
    const Tensor ids = random_ids({c.tok}, c.v), grad_y = random_tensor({c.tok, c.m}, DType::kF32, 3);
    const Tensor before = random_tensor({c.v, c.m}, DType::kF32, 4), expected = before.clone();
    Context plain = context(1, Algorithm::kReference);
    embedding_backward(plain, ids, grad_y, expected);
    for (int threads : {1, 2, 3}) {
      Context ctx = context(threads);
      const Tensor grad = before.clone();
      embedding_backward(ctx, ids, grad_y, grad);
      EXPECT_TRUE(same_bits(grad, expected)) << threads;
    }
    const Tensor exact = before.to(DType::kF64);
    embedding_backward(plain, ids, grad_y.to(DType::kF64), exact);
    const double terms = static_cast<double>(c.tok) + 1;
    EXPECT_LE(max_error(expected, exact), terms * kUnitF32 * 6 * terms);
  }
}

TEST(Embedding, BackwardTakesAnyLayout) {
  Context ctx = context(2);
  const Tensor ids = random_ids({6, 10}, 20), grad_y = random_tensor({6, 10, 16}, DType::kF32, 3);
  const Tensor expected = Tensor::zeros({20, 16}, DType::kF32);
  embedding_backward(ctx, ids, grad_y, expected);
  const Tensor wide = Tensor::zeros({20, 30}, DType::kF32), part = wide.slice(1, 2, 18);
  embedding_backward(ctx, ids, grad_y.transpose(0, 2).clone().transpose(0, 2), part);
  EXPECT_TRUE(same_bits(part, expected));
  EXPECT_EQ(max_abs(wide.slice(1, 0, 2)), 0);
  EXPECT_EQ(max_abs(wide.slice(1, 18, 30)), 0);
}

TEST(Embedding, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Tensor table = Tensor::zeros({10, 4}, DType::kF32);
  const Tensor ids = Tensor::of<std::int32_t>({2, 3}, {0, 1, 2, 3, 4, 9});
  auto forward = [&](const Tensor& i, const Tensor& t, DType out = DType::kF32) {
    return refusal([&] { embedding_forward(ctx, i, t, out); });
  };
  EXPECT_EQ(forward(ids, table), "");
  EXPECT_EQ(forward(Tensor::of<std::int32_t>({2, 2}, {0, 1, 10, 3}), table),
            "[embedding] id at position 2: expected 0 to 9, got 10 (the table has 10 rows)");
  EXPECT_EQ(forward(Tensor::of<std::int32_t>({2}, {5, -1}), table),
            "[embedding] id at position 1: expected 0 to 9, got -1 (the table has 10 rows)");
  EXPECT_EQ(forward(Tensor::of<std::int32_t>({1}, {0}), Tensor::zeros({0, 4}, DType::kF32)),
            "[embedding] id at position 0: expected none, got 0 (the table has 0 rows)");
  EXPECT_EQ(forward({}, table), "[embedding] ids: expected a tensor, got no tensor");
  EXPECT_EQ(forward(ids.to(DType::kI64), table), "[embedding] dtype of ids: expected i32, got i64");
  EXPECT_EQ(forward(ids, {}), "[embedding] table: expected shape (any, any), got no tensor");
  EXPECT_EQ(forward(ids, table.to(DType::kI32)), "[embedding] dtype of table: expected f32, f64, bf16 or f16, got i32");
  EXPECT_EQ(forward(ids, table, DType::kBF16), "[embedding] dtype of the result: expected f32 or f64, got bf16");
  auto backward = [&](const Tensor& grad_y, const Tensor& grad_table, const Tensor& i) {
    return refusal([&] { embedding_backward(ctx, i, grad_y, grad_table); });
  };
  const Tensor grad_y = Tensor::zeros({2, 3, 4}, DType::kF32);
  EXPECT_EQ(backward(grad_y, table, ids), "");
  EXPECT_EQ(backward(grad_y, table.slice(0, 0, 9), ids),
            "[embedding] id at position 5: expected 0 to 8, got 9 (the table has 9 rows)");
  EXPECT_EQ(backward(Tensor::zeros({6, 4}, DType::kF32), table, ids),
            "[embedding] grad_y: expected shape (2, 3, 4), got (6, 4)");
  EXPECT_EQ(backward({}, table, ids), "[embedding] grad_y: expected shape (2, 3, 4), got no tensor");
  EXPECT_EQ(backward(grad_y, table.to(DType::kF64), ids), "[embedding] dtype of grad_y: expected f64, got f32");
  EXPECT_EQ(backward(grad_y, table.to(DType::kBF16), ids),
            "[embedding] dtype of grad_table: expected f32 or f64, got bf16");
  EXPECT_EQ(backward(grad_y, Tensor::zeros({4, 10}, DType::kF32).transpose(0, 1), ids),
            "[embedding] grad_table: expected contiguous rows, got strides (1, 10)");
}

}  // namespace
}  // namespace coluber::ops
