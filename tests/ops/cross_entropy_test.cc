#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "coluber/ops.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

// Exponentials, their sum and the last rounding of a row (tests/kernels/loss_test.cc).
constexpr double kRowError = 1e-6;

Tensor some_targets(std::int64_t tokens, std::int64_t v) {
  const Tensor targets = Tensor::empty({tokens}, DType::kI32);
  for (std::int64_t i = 0; i < tokens; ++i)
    targets.data<std::int32_t>()[i] = i % 5 == 3 ? -1 : static_cast<std::int32_t>((i * 7919) % v);
  return targets;
}

LinearCrossEntropyArgs make(std::int64_t tokens, std::int64_t m, std::int64_t v, bool bias = true,
                            DType weight = DType::kF32, DType compute = DType::kF32) {
  return {random_tensor({tokens, m}, DType::kF32, 1), random_tensor({v, m}, DType::kF32, 2, 0.3).to(weight),
          bias ? random_tensor({v}, DType::kF32, 3) : Tensor(), some_targets(tokens, v), compute};
}

LinearCrossEntropyArgs in_double(const LinearCrossEntropyArgs& args) {
  return {args.x.to(DType::kF64), args.weight.to(DType::kF64),
          args.bias.defined() ? args.bias.to(DType::kF64) : Tensor(), args.targets, args.compute};
}

TEST(CrossEntropy, IsTheMeanOverTargetsThatCount) {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    Context ctx = context(2);
    const Tensor logits = random_tensor({37, 11}, DType::kF32, 1, 2).to(dtype), targets = some_targets(37, 11);
    double sum = 0;
    std::int64_t counted = 0;
    for (std::int64_t i = 0; i < 37; ++i) {
      const auto target = static_cast<std::int64_t>(targets.at({i}));
      if (target < 0) continue;
      double total = 0;
      for (std::int64_t j = 0; j < 11; ++j) total += std::exp(logits.at({i, j}));
      sum += std::log(total) - logits.at({i, target});
      ++counted;
    }
    const double tolerance = dtype == DType::kF32 ? 10 * kRowError : 1e-13;
    EXPECT_NEAR(cross_entropy_forward(ctx, logits, targets), sum / static_cast<double>(counted), tolerance);
  }
}

TEST(CrossEntropy, BackwardIsTheDerivative) {
  Context ctx = context();
  const Tensor logits = random_tensor({6, 9}, DType::kF64, 1, 2), targets = some_targets(6, 9);
  const Tensor grad = cross_entropy_backward(ctx, logits, targets, 3);
  constexpr double kStep = 1e-5;  // error of the difference: 1e-10 of the third derivative, and 1e-11 of rounding
  for (std::int64_t i = 0; i < 6; ++i) {
    for (std::int64_t j = 0; j < 9; ++j) {
      const double value = logits.at({i, j});
      logits.set({i, j}, value + kStep);
      const double above = cross_entropy_forward(ctx, logits, targets);
      logits.set({i, j}, value - kStep);
      const double below = cross_entropy_forward(ctx, logits, targets);
      logits.set({i, j}, value);
      EXPECT_NEAR(grad.at({i, j}), 3 * (above - below) / (2 * kStep), 1e-9) << i << "," << j;
    }
  }
}

TEST(CrossEntropy, FastMatchesDoubleAndStrides) {
  Context ctx = context(2);
  const Tensor logits = random_tensor({50, 300}, DType::kF32, 1, 3), targets = some_targets(50, 300);
  const double truth = cross_entropy_forward(ctx, logits.to(DType::kF64), targets);
  EXPECT_NEAR(cross_entropy_forward(ctx, logits, targets), truth, kRowError * truth);
  const Tensor strided = random_tensor({300, 50}, DType::kF32, 4).transpose(0, 1);
  EXPECT_EQ(cross_entropy_forward(ctx, strided, targets), cross_entropy_forward(ctx, strided.clone(), targets));
  EXPECT_TRUE(same_bits(cross_entropy_backward(ctx, strided, targets, 1),
                        cross_entropy_backward(ctx, strided.clone(), targets, 1)));
}

// The fused op against f64, each gradient with a bound: logits are off by delta = gamma_m (|x| |W| + |b|), so a
// probability is off by p (e^(2 delta) - 1 + kRowError), and the products of the gradients add their own gamma.
void check_fused(Context& ctx, const LinearCrossEntropyArgs& args) {
  const std::int64_t tokens = args.x.size(0), m = args.x.size(1), v = args.weight.size(0);
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, m " << m << ", v " << v << " "
                                    << dtype_name(args.weight.dtype()));
  const LinearCrossEntropyOut got = linear_cross_entropy(ctx, args, true, true);
  const LinearCrossEntropyOut truth = linear_cross_entropy(ctx, in_double(args), true, true);
  EXPECT_EQ(got.num_tokens, truth.num_tokens);

  const Tensor logits = product_f64(args.x, args.weight.transpose(0, 1));
  const Tensor size = product_f64(absolute(args.x), absolute(args.weight).transpose(0, 1));
  double delta = 0;
  for (std::int64_t i = 0; i < tokens; ++i) {
    for (std::int64_t j = 0; j < v; ++j) {
      const double bias = args.bias.defined() ? args.bias.at({j}) : 0;
      logits.set({i, j}, logits.at({i, j}) + bias);
      delta = std::max(delta, gamma_f32(m + 2) * (size.at({i, j}) + std::abs(bias)));
    }
  }
  const double row_error = std::expm1(2 * delta) + kRowError;
  EXPECT_NEAR(got.loss, truth.loss, row_error * std::max(1.0, truth.loss));
  for (std::int64_t i = 0; i < tokens; ++i)
    EXPECT_NEAR(got.token_loss.at({i}), truth.token_loss.at({i}), row_error * std::max(1.0, truth.token_loss.at({i})));

  const Tensor g = cross_entropy_backward(ctx, logits, args.targets, 1), wrong = absolute(g);
  const double scale = truth.num_tokens == 0 ? 0 : 1 / static_cast<double>(truth.num_tokens);
  for (std::int64_t i = 0; i < tokens; ++i) {
    for (std::int64_t j = 0; j < v; ++j) {
      const bool counts = args.targets.at({i}) >= 0;
      const double p =
          counts ? std::abs(g.at({i, j}) + (args.targets.at({i}) == static_cast<double>(j) ? scale : 0)) : 0;
      wrong.set({i, j}, row_error * p + 2 * gamma_f32(v + tokens) * std::abs(g.at({i, j})) + 1e-36);
    }
  }
  EXPECT_LE(worst_share(got.grad_x, truth.grad_x, product_f64(wrong, absolute(args.weight))), 1);
  EXPECT_LE(worst_share(got.grad_weight, truth.grad_weight, product_f64(wrong.transpose(0, 1), absolute(args.x))), 1);
  EXPECT_EQ(got.grad_bias.defined(), args.bias.defined());
  if (!args.bias.defined()) return;
  const Tensor ones = Tensor::full({1, tokens}, 1, DType::kF64);
  EXPECT_LE(worst_share(got.grad_bias, truth.grad_bias, product_f64(ones, wrong)), 1);
}

TEST(LinearCrossEntropy, MatchesDouble) {
  Context ctx = context(2);
  check_fused(ctx, make(1, 1, 1));
  check_fused(ctx, make(3, 17, 5, false));
  check_fused(ctx, make(17, 33, 257));
  check_fused(ctx, make(300, 8, 31, false, DType::kBF16));
  check_fused(ctx, make(70, 20, 100, true, DType::kF16));
  check_fused(ctx, make(1100, 5, 19));  // more than one tile of tokens
  Context plain = context(1, Algorithm::kReference);
  check_fused(plain, make(17, 33, 27));
}

// bf16 rounds logits' gradients, too, so a number may fall to the other side of a tie than in f64: errors are of the
// size of bf16's own, 2^-9 relative to the terms.
TEST(LinearCrossEntropy, Bf16StaysCloseToDouble) {
  Context ctx = context(2);
  const LinearCrossEntropyArgs args = make(40, 64, 96, false, DType::kF32, DType::kBF16);
  const LinearCrossEntropyOut got = linear_cross_entropy(ctx, args, true),
                              truth = linear_cross_entropy(ctx, in_double(args), true);
  EXPECT_NEAR(got.loss, truth.loss, 2e-5);
  EXPECT_LE(max_error(got.grad_x, truth.grad_x), max_abs(truth.grad_x) * 0x1p-8);
  EXPECT_LE(max_error(got.grad_weight, truth.grad_weight), max_abs(truth.grad_weight) * 0x1p-8);
}

TEST(LinearCrossEntropy, EqualsLinearThenCrossEntropy) {
  Context ctx = context(2);
  const LinearCrossEntropyArgs args = make(64, 48, 130);
  const Tensor logits = linear_forward(ctx, {args.x, args.weight, args.bias});
  const LinearCrossEntropyOut out = linear_cross_entropy(ctx, args, true);
  EXPECT_EQ(out.loss, cross_entropy_forward(ctx, logits, args.targets));
  const Tensor grad_logits = cross_entropy_backward(ctx, logits, args.targets, 1);
  const LinearGrads grads = linear_backward(ctx, {args.x, args.weight, args.bias}, grad_logits);
  EXPECT_TRUE(same_bits(out.grad_x, grads.x));
  EXPECT_TRUE(same_bits(out.grad_weight, grads.weight));
  EXPECT_TRUE(same_bits(out.grad_bias, grads.bias));
}

TEST(LinearCrossEntropy, SameBitsOnAnyNumberOfThreads) {
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const LinearCrossEntropyArgs args = make(1500, 40, 260, true, DType::kF32, compute);
    Context one = context(1);
    const LinearCrossEntropyOut first = linear_cross_entropy(one, args, true, true);
    for (int threads : {1, 2, 3}) {
      Context ctx = context(threads);
      const LinearCrossEntropyOut out = linear_cross_entropy(ctx, args, true, true);
      EXPECT_EQ(out.loss, first.loss);
      EXPECT_TRUE(same_bits(out.token_loss, first.token_loss));
      EXPECT_TRUE(same_bits(out.grad_x, first.grad_x));
      EXPECT_TRUE(same_bits(out.grad_weight, first.grad_weight));
      EXPECT_TRUE(same_bits(out.grad_bias, first.grad_bias));
    }
  }
}

TEST(LinearCrossEntropy, LossAloneIsTheSame) {
  Context ctx = context(2);
  const LinearCrossEntropyArgs args = make(90, 24, 70);
  const LinearCrossEntropyOut with = linear_cross_entropy(ctx, args, true),
                              without = linear_cross_entropy(ctx, args, false);
  EXPECT_EQ(with.loss, without.loss);
  EXPECT_EQ(without.num_tokens, 72);
  EXPECT_FALSE(without.grad_x.defined() || without.grad_weight.defined() || without.grad_bias.defined());
  EXPECT_FALSE(without.token_loss.defined());
}

// A batch in two parts, each token counting one of all that count: losses and gradients of the parts add up to the
// whole.
TEST(LinearCrossEntropy, PartsWeightedAlikeAddUpToTheWhole) {
  Context ctx = context();
  const LinearCrossEntropyArgs all = make(40, 24, 70);
  const LinearCrossEntropyOut whole = linear_cross_entropy(ctx, all, true);
  double loss = 0;
  Tensor grad_weight;
  for (const auto& [begin, end] : {std::pair{0, 13}, std::pair{13, 40}}) {
    LinearCrossEntropyArgs part = all;
    part.x = all.x.slice(0, begin, end);
    part.targets = all.targets.slice(0, begin, end);
    part.token_weight = Tensor::full({}, 1 / static_cast<double>(whole.num_tokens), DType::kF64);
    const LinearCrossEntropyOut out = linear_cross_entropy(ctx, part, true);
    loss += out.loss;
    EXPECT_FALSE(out.device_loss.defined());
    EXPECT_LE(max_error(out.grad_x, whole.grad_x.slice(0, begin, end).contiguous()), 1e-7);
    if (grad_weight.defined())
      add_inplace(ctx, grad_weight, out.grad_weight);
    else
      grad_weight = out.grad_weight;
  }
  EXPECT_NEAR(loss, whole.loss, 1e-7 * whole.loss);  // the library's products depend on the number of rows
  EXPECT_LE(max_error(grad_weight, whole.grad_weight), 1e-6);
  LinearCrossEntropyArgs wrong = all;
  wrong.token_weight = Tensor::full({}, 1, DType::kF32);
  EXPECT_NE(refusal([&] { linear_cross_entropy(ctx, wrong, true); }).find("token_weight"), std::string::npos);
}

TEST(LinearCrossEntropy, NothingCounts) {
  for (Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    Context ctx = context(2, algorithm);
    for (std::int64_t tokens : {0, 12}) {
      LinearCrossEntropyArgs args = make(tokens, 8, 10);
      args.targets = Tensor::full({tokens}, -1, DType::kI32);
      const LinearCrossEntropyOut out = linear_cross_entropy(ctx, args, true, true);
      EXPECT_EQ(out.loss, 0);
      EXPECT_EQ(out.num_tokens, 0);
      EXPECT_EQ(max_abs(out.token_loss), 0);
      EXPECT_TRUE(same_bits(out.grad_x, Tensor::zeros({tokens, 8}, DType::kF32)));
      EXPECT_EQ(max_abs(out.grad_weight), 0);
      EXPECT_EQ(max_abs(out.grad_bias), 0);
      const Tensor logits = random_tensor({tokens, 10}, DType::kF32, 1);
      EXPECT_EQ(cross_entropy_forward(ctx, logits, args.targets), 0);
      EXPECT_EQ(max_abs(cross_entropy_backward(ctx, logits, args.targets, 1)), 0);
    }
  }
}

TEST(LinearCrossEntropy, OfNoVocabularyIsZero) {
  Context ctx = context();
  constexpr std::int64_t kTokens = 10000;  // from 64 KiB on memory is used again, with what was in it
  Tensor::full({kTokens, 8}, 7, DType::kF32);
  Tensor::full({kTokens}, 7, DType::kF64);
  const LinearCrossEntropyOut out = linear_cross_entropy(ctx,
                                                         {Tensor::zeros({kTokens, 8}, DType::kF32),
                                                          Tensor::zeros({0, 8}, DType::kF32),
                                                          {},
                                                          Tensor::full({kTokens}, -1, DType::kI32)},
                                                         true, true);
  EXPECT_EQ(out.loss, 0);
  EXPECT_EQ(max_abs(out.token_loss), 0);
  EXPECT_EQ(max_abs(out.grad_x), 0);
}

// All logits of 4096 tokens would take 80 MiB; a tile of 1024 takes 20.
TEST(LinearCrossEntropy, NeverHoldsAllLogits) {
  Context ctx = context(2);
  const LinearCrossEntropyArgs args = make(4096, 4, 5120, false);
  linear_cross_entropy(ctx, args, true);  // places that threads keep for products are there now
  reset_memory_peak();
  const std::int64_t before = memory_stats().peak_bytes;
  linear_cross_entropy(ctx, args, true);
  EXPECT_LT(memory_stats().peak_bytes - before, 24 << 20);
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Tensor logits = Tensor::zeros({3, 256}, DType::kF32);
  auto targets = [](std::vector<std::int32_t> ids) {
    return Tensor::of<std::int32_t>({static_cast<std::int64_t>(ids.size())}, ids);
  };
  auto forward = [&](const Tensor& l, const Tensor& t) { return refusal([&] { cross_entropy_forward(ctx, l, t); }); };
  EXPECT_EQ(forward(logits, targets({0, 256, 1})),
            "[cross_entropy] targets[1]: expected -1 (ignored) or 0 to 255 for a vocabulary of 256, got 256");
  EXPECT_EQ(forward(logits, targets({0, 1, -2})),
            "[cross_entropy] targets[2]: expected -1 (ignored) or 0 to 255 for a vocabulary of 256, got -2");
  EXPECT_EQ(forward(logits, targets({0, 1})), "[cross_entropy] targets: expected shape (3), got (2)");
  EXPECT_EQ(forward(logits, Tensor::zeros({3}, DType::kI64)),
            "[cross_entropy] dtype of targets: expected i32, got i64");
  EXPECT_EQ(forward(logits.to(DType::kBF16), targets({0, 1, 2})),
            "[cross_entropy] dtype of logits: expected f32 or f64, got bf16");
  EXPECT_EQ(forward(Tensor::zeros({3}, DType::kF32), targets({0, 1, 2})),
            "[cross_entropy] logits: expected shape (any, any), got (3)");

  const LinearCrossEntropyArgs good = make(3, 8, 16);
  auto fused = [&](auto&& change) {
    LinearCrossEntropyArgs args = good;
    change(args);
    return refusal([&] { linear_cross_entropy(ctx, args, true); });
  };
  EXPECT_EQ(fused([&](auto& args) {
              args.targets = targets({0, 1, 16});
            }),
            "[linear_cross_entropy] targets[2]: expected -1 (ignored) or 0 to 15 for a vocabulary of 16, got 16");
  EXPECT_EQ(fused([&](auto& args) {
              args.weight = Tensor::zeros({16, 9}, DType::kF32);
            }),
            "[linear_cross_entropy] weight: expected shape (any, 8), got (16, 9)");
  EXPECT_EQ(fused([&](auto& args) {
              args.weight = Tensor::zeros({16, 8}, DType::kF64);
            }),
            "[linear_cross_entropy] dtype of weight: expected f32, bf16 or f16 since x is f32, got f64");
  EXPECT_EQ(fused([&](auto& args) { args.bias = Tensor::zeros({15}, DType::kF32); }),
            "[linear_cross_entropy] bias: expected shape (16), got (15)");
  EXPECT_EQ(fused([&](auto& args) {
              args.x = Tensor::zeros({1, 3, 8}, DType::kF32);
            }),
            "[linear_cross_entropy] x: expected shape (any, any), got (1, 3, 8)");
}

}  // namespace
}  // namespace coluber::ops
