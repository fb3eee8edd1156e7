// The counts behind the floors of benchmarks, against numbers worked out by hand.
#include "ops/work.h"

#include <gtest/gtest.h>

namespace coluber::ops {
namespace {

Tensor tensor(const Shape& shape, DType dtype = DType::kF32) {
  return Tensor::zeros(shape, dtype);
}

SelectiveScanArgs scan() {  // b 2, l 3, d 4, n 5
  SelectiveScanArgs args;
  args.u = args.dt = args.z = tensor({2, 3, 4});
  args.A = tensor({4, 5});
  args.B = args.C = tensor({2, 3, 5});
  args.D = args.dt_bias = tensor({4});
  args.dt_softplus = true;
  return args;
}

constexpr double kRows = 2 * 3 * 4, kStates = kRows * 5, kCoefficients = 2 * 3 * 5;

TEST(Work, SelectiveScan) {
  SelectiveScanArgs args = scan();
  const SelectiveScanSaved saved{tensor({7})};
  const double parameters = 4 * 5 + 4 + 4;
  Work work = selective_scan_forward_work(args, saved);  // u, dt, z and y
  EXPECT_EQ(work.bytes, 4 * (4 * kRows + 2 * kCoefficients + parameters + 7));
  EXPECT_EQ(work.exponentials, kStates + 4 * kRows);
  EXPECT_EQ(work.flop, 6 * kStates);
  EXPECT_EQ(work.products, 0);
  work = selective_scan_backward_work(args, saved);  // grad_y and three gradients too
  EXPECT_EQ(work.bytes, 4 * (7 * kRows + 4 * kCoefficients + 2 * parameters + 7));
  EXPECT_EQ(work.exponentials, kStates + 5 * kRows);
  EXPECT_EQ(work.flop, 22 * kStates);
  args.z = {};
  args.dt_softplus = false;
  EXPECT_EQ(selective_scan_forward_work(args).exponentials, kStates);
  args.A = tensor({4, 5, 2});
  EXPECT_EQ(selective_scan_forward_work(args).exponentials, 3 * kStates);
}

TEST(Work, StepsReadAndWriteTheirStates) {
  const SelectiveScanArgs args = scan();
  const double forward = selective_scan_forward_work(args).bytes;
  EXPECT_EQ(selective_scan_step_work(args, tensor({2, 4, 5})).bytes, forward + 2 * 4 * 40);
  CausalConv1dArgs conv;
  conv.x = tensor({2, 1, 4});
  conv.weight = tensor({4, 3});
  EXPECT_EQ(causal_conv1d_step_work(conv, tensor({2, 4, 2})).bytes, 4 * (2 * 8 + 12 + 2 * 16));
}

TEST(Work, CausalConv1d) {
  CausalConv1dArgs args;
  args.x = tensor({2, 3, 4});
  args.weight = tensor({4, 3});
  args.bias = tensor({4});
  EXPECT_EQ(causal_conv1d_forward_work(args).bytes, 4 * (2 * kRows + 16));
  EXPECT_EQ(causal_conv1d_forward_work(args).exponentials, 0);
  args.silu = true;
  EXPECT_EQ(causal_conv1d_forward_work(args).exponentials, 2 * kRows);
  EXPECT_EQ(causal_conv1d_forward_work(args).flop, 6 * kRows);
  EXPECT_EQ(causal_conv1d_backward_work(args).bytes, 4 * (3 * kRows + 2 * 16));
}

TEST(Work, Products) {
  const LinearArgs linear{tensor({6, 5}), tensor({7, 5}), {}, DType::kF32, {}};
  EXPECT_EQ(linear_forward_work(linear).products, 2 * 6 * 5 * 7);
  EXPECT_EQ(linear_forward_work(linear).bytes, 4 * (30 + 35 + 42));
  EXPECT_EQ(linear_backward_work(linear).products, 4 * 6 * 5 * 7);
  EXPECT_EQ(linear_backward_work(linear).bytes, 4 * (2 * 30 + 2 * 35 + 42));
  const LinearCrossEntropyArgs head{tensor({6, 5}), tensor({7, 5}), {}, tensor({6}, DType::kI32), DType::kF32};
  EXPECT_EQ(linear_cross_entropy_work(head, true).products, 6 * 6 * 5 * 7);
  EXPECT_EQ(linear_cross_entropy_work(head, false).products, 2 * 6 * 5 * 7);
  EXPECT_EQ(linear_cross_entropy_work(head, true).exponentials, 6 * 7);
}

TEST(Work, Norm) {
  NormArgs args;
  args.x = tensor({6, 8});
  args.weight = tensor({8});
  EXPECT_EQ(norm_forward_work(args, false).bytes, 4 * (2 * 48 + 8));
  args.residual = tensor({6, 8});
  EXPECT_EQ(norm_forward_work(args, true).bytes, 4 * (4 * 48 + 8));
  args.residual = {};
  EXPECT_EQ(norm_backward_work(args, true).bytes, 4 * (4 * 48 + 2 * 8));
  EXPECT_EQ(norm_backward_work(args, true).exponentials, 0);
  args.z = tensor({6, 8});
  EXPECT_EQ(norm_forward_work(args, false).exponentials, 2 * 48);
}

TEST(Work, RowsOfAnEmbeddingCountOnce) {
  const Tensor ids = Tensor::of<std::int32_t>({4}, {3, 1, 3, 3}), table = tensor({10, 6}, DType::kBF16);
  EXPECT_EQ(embedding_forward_work(ids, table, DType::kF32).bytes, 4 * 4 + 2 * 6 * 2 + 4 * 6 * 4);
  EXPECT_EQ(embedding_backward_work(ids, tensor({4, 6}), tensor({10, 6})).bytes, 4 * 4 + 4 * 6 * 4 + 2 * 2 * 6 * 4);
}

TEST(Work, Others) {
  EXPECT_EQ(elementwise_work(tensor({3, 5}), 2, 1).bytes, 2 * 15 * 4);
  EXPECT_EQ(elementwise_work(tensor({3, 5}), 2, 1).exponentials, 15);
  EXPECT_EQ(cross_entropy_work(tensor({3, 5}), true).bytes, 2 * 15 * 4);
  EXPECT_EQ(adamw_work(10).bytes, 280);
}

}  // namespace
}  // namespace coluber::ops
