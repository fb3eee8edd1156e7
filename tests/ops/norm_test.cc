#include <gtest/gtest.h>

#include <vector>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

enum class Gate { kNone, kFirst, kLast };

struct Case {
  const char* name;
  std::int64_t rows = 37, m = 150;
  NormKind kind = NormKind::kRms;
  bool weight = true, bias = false, residual = true;
  Gate gate = Gate::kNone;
  std::int64_t group_size = 0;
  bool grad_residual_out = true;
  double shift = 0;  // of x: a mean much larger than the spread is hard for layer norm
};

// A base case and rows that change one thing.
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.name = "base"},
      {.name = "no weight", .weight = false},
      {.name = "bias", .bias = true},
      {.name = "bias alone", .weight = false, .bias = true},
      {.name = "no residual", .residual = false},
      {.name = "no gradient of the sum", .grad_residual_out = false},
      {.name = "layer", .kind = NormKind::kLayer, .bias = true},
      {.name = "layer, nothing else", .kind = NormKind::kLayer, .weight = false, .residual = false},
      {.name = "layer, mean 30", .kind = NormKind::kLayer, .residual = false, .shift = 30},
      {.name = "gate first", .gate = Gate::kFirst},
      {.name = "gate last", .gate = Gate::kLast},
      {.name = "gate last, bias", .bias = true, .gate = Gate::kLast},
      {.name = "gate first, no residual", .residual = false, .gate = Gate::kFirst},
      {.name = "gate first, layer, bias", .kind = NormKind::kLayer, .bias = true, .gate = Gate::kFirst},
      {.name = "groups", .group_size = 50},
      {.name = "groups, gate first", .gate = Gate::kFirst, .group_size = 30},
      {.name = "groups, gate last, layer, bias",
       .kind = NormKind::kLayer,
       .bias = true,
       .gate = Gate::kLast,
       .group_size = 75},
      {.name = "groups of one", .m = 5, .group_size = 1},
      {.name = "one channel", .m = 1},
      {.name = "one row", .rows = 1},
      {.name = "no row", .rows = 0},
      {.name = "no channel", .m = 0},
      {.name = "64 channels: whole vectors", .m = 64},
      {.name = "many short rows", .rows = 3000, .m = 24},
      {.name = "many parts", .rows = 700, .m = 300},
      {.name = "long rows", .rows = 3, .m = 5120},
  };
  return all;
}

struct Problem {
  NormArgs args;
  Tensor grad_y, grad_residual_out;
};

Problem make(const Case& c, DType dtype = DType::kF32) {
  auto tensor = [&](const Shape& shape, std::uint64_t seed) {
    return random_tensor(shape, DType::kF32, seed).to(dtype);
  };
  Problem p;
  p.args.x = tensor({c.rows, c.m}, 1);
  if (c.shift != 0) {
    for (std::int64_t i = 0; i < c.rows; ++i)
      for (std::int64_t j = 0; j < c.m; ++j) p.args.x.set({i, j}, p.args.x.at({i, j}) + c.shift);
    p.args.x.copy_from(p.args.x.to(DType::kF32));  // the same numbers in both dtypes
  }
  if (c.weight) p.args.weight = tensor({c.m}, 2);
  if (c.bias) p.args.bias = tensor({c.m}, 3);
  if (c.residual) p.args.residual = tensor({c.rows, c.m}, 4);
  if (c.gate != Gate::kNone) p.args.z = tensor({c.rows, c.m}, 5);
  p.args.norm_before_gate = c.gate == Gate::kLast;
  p.args.kind = c.kind;
  p.args.group_size = c.group_size;
  p.grad_y = tensor({c.rows, c.m}, 6);
  if (c.grad_residual_out) p.grad_residual_out = tensor({c.rows, c.m}, 7);
  return p;
}

struct Result {
  Tensor y, residual_out;
  NormGrads grads;
};

Result run(Context& ctx, const Problem& p) {
  Result r;
  r.y = norm_forward(ctx, p.args, &r.residual_out);
  r.grads = norm_backward(ctx, p.args, p.grad_y, p.grad_residual_out);
  return r;
}

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

void expect_same_bits(const Result& a, const Result& b) {
  EXPECT_TRUE(same_bits(a.y, b.y));
  EXPECT_TRUE(same_bits(a.residual_out, b.residual_out));
  EXPECT_TRUE(same_bits(a.grads.x, b.grads.x));
  EXPECT_TRUE(same_bits(a.grads.z, b.grads.z));
  EXPECT_TRUE(same_bits(a.grads.weight, b.grads.weight));
  EXPECT_TRUE(same_bits(a.grads.bias, b.grads.bias));
}

// Float against double. v_hat = (v - mean) / sigma: v is off by 2 u |v| (sum, and 1e-6 with a gate), the mean by
// n u mean|v| at most, sigma by (n/2 + 4) u relative; all against the spread sigma, which is about 1 for these inputs
// and at least 0.3. A mean of `shift` adds its own roundoff.
double forward_bound(const Case& c) {
  const double n = static_cast<double>(c.group_size > 0 ? c.group_size : c.m);
  const double largest = 6 + c.shift;
  return 10 * largest * ((n + 8) * kUnitF32 + (c.gate == Gate::kNone ? 0 : 1e-6) + c.shift * 2 * kUnitF32);
}

void expect_close(const Case& c, const Result& got, const Result& expected) {
  const double forward = forward_bound(c), rows = static_cast<double>(c.rows);
  // A gradient multiplies by 1/sigma (up to sqrt(1e5) where a whole group is near 0: groups of one) and by weights.
  const double n = static_cast<double>(c.group_size > 0 ? c.group_size : c.m), amplify = n == 1 ? 400 : 30;
  EXPECT_LE(max_error(got.y, expected.y), forward);
  EXPECT_LE(max_error(got.residual_out, expected.residual_out), kUnitF32);
  EXPECT_LE(max_error(got.grads.x, expected.grads.x), amplify * forward);
  EXPECT_LE(max_error(got.grads.z, expected.grads.z), amplify * forward);
  const double sum = std::max(rows, 1.0) * 6 * (forward + 34 * kUnitF32);
  EXPECT_LE(max_error(got.grads.weight, expected.grads.weight), sum);
  EXPECT_LE(max_error(got.grads.bias, expected.grads.bias), sum);
}

TEST(Norm, FloatKernelsGiveWhatDoubleGives) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Context fast = context(), plain = context(1, Algorithm::kReference);
    const Problem p = make(c);
    const Result expected = run(fast, make(c, DType::kF64));  // f64: always the plain loops
    expect_close(c, run(fast, p), expected);
    expect_close(c, run(plain, p), expected);
  }
}

TEST(Norm, SameBitsOnAnyNumberOfThreadsAndOnARerun) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Context one = context(1), two = context(2), three = context(3);
    const Problem p = make(c);
    const Result expected = run(one, p);
    expect_same_bits(run(one, p), expected);
    expect_same_bits(run(two, p), expected);
    expect_same_bits(run(three, p), expected);
  }
}

// Central differences in double with a step of 1e-5: rounding 1e-16 30 / 1e-5, curvature 1e-10 times the third
// derivative, which is up to 1 / sigma^3.
TEST(Norm, GradientsAreThoseOfTheForwardPass) {
  for (const Case& c : cases()) {
    if (c.m == 1 || c.group_size == 1) continue;  // y is the sign of x there
    SCOPED_TRACE(c.name);
    Case small = c;
    small.rows = std::min<std::int64_t>(c.rows, 2);
    small.m = std::min<std::int64_t>(c.m, 12);
    small.group_size = c.group_size == 0 ? 0 : 4;
    Context ctx = context();
    const Problem p = make(small, DType::kF64);
    auto loss = [&] {
      Tensor sum;
      const Tensor y = norm_forward(ctx, p.args, &sum);
      double total = 0;
      for (std::int64_t i = 0; i < y.numel(); ++i) total += y.data<double>()[i] * p.grad_y.data<double>()[i];
      for (std::int64_t i = 0; p.grad_residual_out.defined() && i < y.numel(); ++i)
        total += sum.data<double>()[i] * p.grad_residual_out.data<double>()[i];
      return total;
    };
    const NormGrads grads = norm_backward(ctx, p.args, p.grad_y, p.grad_residual_out);
    auto check = [&](const char* name, const Tensor& input, const Tensor& grad) {
      ASSERT_EQ(input.defined(), grad.defined()) << name;
      for (std::int64_t i = 0; i < input.numel(); ++i) {
        constexpr double kStep = 1e-5;
        double& at = input.data<double>()[i];
        const double before = at;
        at = before + kStep;
        const double high = loss();
        at = before - kStep;
        const double low = loss();
        at = before;
        EXPECT_NEAR(grad.data<double>()[i], (high - low) / (2 * kStep), 1e-7) << name << " " << i;
      }
    };
    check("x", p.args.x, grads.x);
    if (c.residual) check("residual", p.args.residual, grads.x);
    check("z", p.args.z, grads.z);
    check("weight", p.args.weight, grads.weight);
    check("bias", p.args.bias, grads.bias);
  }
}

TEST(Norm, StridesAndLeadingAxesDoNotMatter) {
  const Problem p = make({.name = "", .rows = 12, .bias = true, .gate = Gate::kFirst});
  Context ctx = context(2);
  const Result expected = run(ctx, p);
  auto in_wider = [](const Tensor& t) {
    const Tensor half = Tensor::empty({t.size(0), 2 * t.size(1)}, t.dtype()).slice(1, 1, 1 + t.size(1));
    half.copy_from(t);
    return half;
  };
  auto transposed = [](const Tensor& t) { return t.transpose(0, 1).clone().transpose(0, 1); };
  auto folded = [](const Tensor& t) { return t.reshape({2, 3, 2, t.size(1)}); };
  auto change = [&](auto&& f) {
    Problem q = p;
    for (Tensor* t : {&q.args.x, &q.args.residual, &q.args.z, &q.grad_y, &q.grad_residual_out}) *t = f(*t);
    return q;
  };
  expect_same_bits(run(ctx, change(in_wider)), expected);
  expect_same_bits(run(ctx, change(transposed)), expected);
  Result result = run(ctx, change(folded));
  EXPECT_EQ(result.y.rank(), 4);
  for (Tensor* t : {&result.y, &result.residual_out, &result.grads.x, &result.grads.z}) *t = t->reshape({12, 150});
  expect_same_bits(result, expected);
}

TEST(Norm, ResidualOutWithoutResidualIsX) {
  const Problem p = make({.name = "", .residual = false});
  Context ctx = context();
  EXPECT_EQ(run(ctx, p).residual_out.raw(), p.args.x.raw());
}

TEST(Norm, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Problem p = make({.name = "", .rows = 4, .m = 6, .bias = true, .gate = Gate::kLast});
  auto said = [&](auto&& change) {
    Problem q = p;
    change(q);
    return refusal([&] {
      norm_forward(ctx, q.args);
      norm_backward(ctx, q.args, q.grad_y, q.grad_residual_out);
    });
  };
  using P = Problem&;
  EXPECT_EQ(said([](P) {}), "");
  EXPECT_EQ(said([](P q) { q.args.x = {}; }), "[norm] x: expected shape (..., m), got no tensor");
  EXPECT_EQ(said([](P q) { q.args.x = q.args.x.to(DType::kBF16); }),
            "[norm] dtype of x: expected f32 or f64, got bf16");
  EXPECT_EQ(said([](P q) { q.args.weight = Tensor::zeros({5}, DType::kF32); }),
            "[norm] weight: expected shape (6), got (5)");
  EXPECT_EQ(said([](P q) { q.args.bias = Tensor::zeros({6}, DType::kF64); }),
            "[norm] dtype of bias: expected f32, got f64");
  EXPECT_EQ(said([](P q) {
              q.args.residual = Tensor::zeros({4, 5}, DType::kF32);
            }),
            "[norm] residual: expected shape (4, 6), got (4, 5)");
  EXPECT_EQ(said([](P q) {
              q.args.z = Tensor::zeros({3, 6}, DType::kF32);
            }),
            "[norm] z: expected shape (4, 6), got (3, 6)");
  EXPECT_EQ(said([](P q) { q.args.group_size = 4; }),
            "[norm] group_size: expected a divisor of 6 channels, or 0 for all, got 4");
  EXPECT_EQ(said([](P q) { q.args.group_size = -1; }),
            "[norm] group_size: expected a divisor of 6 channels, or 0 for all, got -1");
  EXPECT_EQ(said([](P q) { q.args.eps = -1; }), "[norm] eps: expected 0 or more, got -1");
  EXPECT_EQ(said([](P q) { q.args.eps = std::nan(""); }), "[norm] eps: expected 0 or more, got nan");
  EXPECT_EQ(said([](P q) { q.grad_y = {}; }), "[norm] grad_y: expected shape (4, 6), got no tensor");
  EXPECT_EQ(said([](P q) {
              q.grad_y = Tensor::zeros({4, 6}, DType::kF64);
            }),
            "[norm] dtype of grad_y: expected f32, got f64");
  EXPECT_EQ(said([](P q) {
              q.grad_residual_out = Tensor::zeros({6, 4}, DType::kF32);
            }),
            "[norm] grad_residual_out: expected shape (4, 6), got (6, 4)");
}

}  // namespace
}  // namespace coluber::ops
