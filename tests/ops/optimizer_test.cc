#include <gtest/gtest.h>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

struct Problem {
  Tensor param, grad, exp_avg, exp_avg_sq;

  Problem(const Shape& shape, DType dtype) {
    param = random_tensor(shape, DType::kF32, 1).to(dtype);
    grad = random_tensor(shape, DType::kF32, 2).to(dtype);
    exp_avg = Tensor::zeros(shape, dtype);
    exp_avg_sq = Tensor::zeros(shape, dtype);
  }
};

void step(Context& ctx, const AdamWArgs& args, const Problem& p) {
  adamw_step(ctx, args, p.param, p.grad, p.exp_avg, p.exp_avg_sq);
}

// The first step by hand: m / (1 - beta1) = g and v / (1 - beta2) = g^2, so p moves by lr (sign(g) + decay p).
TEST(AdamW, FirstStepMovesByTheSignOfTheGradient) {
  Context ctx = context();
  for (DType dtype : {DType::kF32, DType::kF64}) {
    const Problem p({100}, dtype);
    const Tensor before = p.param.clone();
    step(ctx, {.lr = 0.01, .eps = 0, .weight_decay = 0.1, .grad_scale = 0.5, .step = 1}, p);
    for (std::int64_t i = 0; i < 100; ++i) {
      const double x = before.at({i}), g = 0.5 * p.grad.at({i});
      EXPECT_NEAR(p.param.at({i}), x - 0.01 * ((g > 0 ? 1 : -1) + 0.1 * x), dtype == DType::kF32 ? 4e-7 : 1e-15);
      EXPECT_NEAR(p.exp_avg.at({i}), 0.1 * g, 1e-7);
      EXPECT_NEAR(p.exp_avg_sq.at({i}), 0.05 * g * g, 1e-7 * (1 + g * g));
    }
  }
}

// Float against double over 50 steps with a new gradient each: a step adds at most u (|p| + a few lr) of roundoff, and
// m and v forget theirs.
TEST(AdamW, FloatKernelsGiveWhatDoubleGives) {
  for (Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    for (std::int64_t n : {1, 15, 16, 1000, 16385}) {
      Context ctx = context(2, algorithm);
      Problem got({n}, DType::kF32), expected({n}, DType::kF64);
      AdamWArgs args{.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.1, .grad_scale = 0.7};
      for (args.step = 1; args.step <= 50; ++args.step) {
        got.grad = random_tensor({n}, DType::kF32, static_cast<std::uint64_t>(10 + args.step));
        expected.grad = got.grad.to(DType::kF64);
        step(ctx, args, got);
        step(ctx, args, expected);
      }
      EXPECT_LE(max_error(got.param, expected.param), 50 * kUnitF32 * (6 + 10 * args.lr));
      EXPECT_LE(max_error(got.exp_avg, expected.exp_avg), 10 * 4 * kUnitF32 * 6);
      EXPECT_LE(max_error(got.exp_avg_sq, expected.exp_avg_sq), 50 * 4 * kUnitF32);
    }
  }
}

TEST(AdamW, SameBitsOnAnyNumberOfThreads) {
  const Problem expected({40001}, DType::kF32);
  Context one = context(1);
  step(one, {.weight_decay = 0.1, .step = 3}, expected);
  for (int threads : {1, 2, 3}) {
    Context ctx = context(threads);
    const Problem p({40001}, DType::kF32);
    step(ctx, {.weight_decay = 0.1, .step = 3}, p);
    EXPECT_TRUE(same_bits(p.param, expected.param)) << threads;
    EXPECT_TRUE(same_bits(p.exp_avg, expected.exp_avg)) << threads;
    EXPECT_TRUE(same_bits(p.exp_avg_sq, expected.exp_avg_sq)) << threads;
  }
}

TEST(AdamW, TakesAGradientOfAnyLayoutAndNoElements) {
  Context ctx = context();
  const Problem expected({20, 30}, DType::kF32);
  step(ctx, {}, expected);
  Problem p({20, 30}, DType::kF32);
  p.grad = p.grad.transpose(0, 1).clone().transpose(0, 1);
  step(ctx, {}, p);
  EXPECT_TRUE(same_bits(p.param, expected.param));
  step(ctx, {}, Problem({0}, DType::kF32));
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Problem good({2, 3}, DType::kF32);
  auto said = [&](auto&& change) {
    Problem p = good;
    AdamWArgs args;
    change(p, args);
    return refusal([&] { step(ctx, args, p); });
  };
  using P = Problem&;
  using A = AdamWArgs&;
  const Tensor other = Tensor::zeros({3, 2}, DType::kF32);
  EXPECT_EQ(said([](P, A) {}), "");
  EXPECT_EQ(said([](P p, A) { p.param = {}; }), "[adamw] param: expected a tensor, got no tensor");
  EXPECT_EQ(said([](P p, A) { p.param = p.param.to(DType::kBF16); }),
            "[adamw] dtype of param: expected f32 or f64, got bf16");
  EXPECT_EQ(said([&](P p, A) { p.grad = other; }), "[adamw] grad: expected shape (2, 3), got (3, 2)");
  EXPECT_EQ(said([](P p, A) { p.grad = {}; }), "[adamw] grad: expected shape (2, 3), got no tensor");
  EXPECT_EQ(said([](P p, A) { p.exp_avg = p.exp_avg.to(DType::kF64); }),
            "[adamw] dtype of exp_avg: expected f32, got f64");
  EXPECT_EQ(said([&](P p, A) { p.exp_avg_sq = other.transpose(0, 1); }),
            "[adamw] exp_avg_sq: expected a contiguous tensor, got strides (1, 2)");
  EXPECT_EQ(said([](P, A a) { a.step = 0; }), "[adamw] step: expected 1 or more, got 0");
  EXPECT_EQ(said([](P, A a) { a.lr = -1; }), "[adamw] lr: expected 0 or more, got -1");
  EXPECT_EQ(said([](P, A a) { a.lr = std::nan(""); }), "[adamw] lr: expected 0 or more, got nan");
  EXPECT_EQ(said([](P, A a) { a.beta1 = 1; }), "[adamw] beta1: expected 0 up to but not 1, got 1");
  EXPECT_EQ(said([](P, A a) { a.beta2 = -0.5; }), "[adamw] beta2: expected 0 up to but not 1, got -0.5");
  EXPECT_EQ(said([](P, A a) { a.eps = -1; }), "[adamw] eps: expected 0 or more, got -1");
  EXPECT_EQ(said([](P, A a) { a.weight_decay = -1; }), "[adamw] weight_decay: expected 0 or more, got -1");
}

}  // namespace
}  // namespace coluber::ops
