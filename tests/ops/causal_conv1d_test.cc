#include "tests/ops/causal_conv1d_cases.h"

namespace coluber::ops {
namespace {

// A base case and rows that change one thing.
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.name = "base"},
      {.name = "no bias", .bias = false},
      {.name = "no silu", .silu = false},
      {.name = "reverse", .reverse = true},
      {.name = "no state", .state = false},
      {.name = "one tap", .k = 1},
      {.name = "two taps", .k = 2},
      {.name = "three taps", .k = 3},
      {.name = "five taps", .k = 5},
      {.name = "six taps", .k = 6},
      {.name = "seven taps", .k = 7},
      {.name = "eight taps", .k = 8},
      {.name = "nine taps: the general loop", .k = 9},
      {.name = "33 taps", .b = 1, .l = 50, .k = 33},
      {.name = "more taps than tokens", .l = 3, .k = 7},
      {.name = "one token", .l = 1},
      {.name = "one token, one tap", .l = 1, .k = 1},
      {.name = "no token", .l = 0},
      {.name = "no sequence", .b = 0},
      {.name = "no channel", .d = 0},
      {.name = "one channel", .d = 1},
      {.name = "several pieces and blocks", .b = 1, .l = 200, .d = 530},
      {.name = "stored past the caches, where rows are aligned", .b = 1, .l = 2200, .d = 500},
      {.name = "packed", .b = 1, .l = 90, .borders = {0, 1, 3, 3, 70, 90}},
      {.name = "packed, reverse", .b = 1, .l = 90, .reverse = true, .borders = {0, 1, 3, 3, 70, 90}},
      {.name = "packed, more taps than tokens", .b = 1, .l = 12, .k = 6, .borders = {0, 2, 4, 9, 12}},
      {.name = "resets", .l = 150, .resets = {0, 5, 6, 63, 64, 66, 148}},
      {.name = "resets, reverse", .l = 150, .reverse = true, .resets = {1, 5, 6, 63, 64, 149}},
      {.name = "reset of the only token", .l = 1, .resets = {0}},
      {.name = "resets, eight taps", .l = 70, .k = 8, .resets = {3, 63, 69}},
      {.name = "resets, eleven taps", .l = 70, .k = 11, .resets = {3, 63, 69}},
      {.name = "packed, resets, reverse",
       .b = 1,
       .l = 90,
       .reverse = true,
       .borders = {0, 30, 90},
       .resets = {2, 29, 31, 89}},
  };
  return all;
}

// Float against double. With S = max|bias| + k max|weight| max|input|: a pre-activation is off by at most (k+1) u S,
// and silu and its slope add 1e-6 of max(1, S) (simd.h: 4e-7 for a sigmoid, which enters twice in the slope).
void expect_close(const Problem& p, const Result& got, const Result& expected) {
  const auto k = static_cast<double>(p.args.weight.size(1));
  const double weight = max_abs(p.args.weight), input = std::max(max_abs(p.args.x), max_abs(p.args.state_in));
  const double sum = std::max(1.0, max_abs(p.args.bias) + k * weight * input);
  const double pre = (k + 1) * kUnitF32 * sum + 1e-6 * sum;
  const double grad = std::max(max_abs(p.grad_y), max_abs(p.grad_state_out)), grad_pre = grad * (pre + 1e-6 * sum);
  const double grad_input = (k + 1) * weight * (grad_pre + (k + 2) * kUnitF32 * 1.1 * grad);
  const auto tokens = static_cast<double>(p.args.x.size(0) * p.args.x.size(1));
  const double grad_weight = tokens * std::max(input, 1.0) * (grad_pre + 66 * kUnitF32 * 1.1 * grad);
  EXPECT_LE(max_error(got.y, expected.y), pre);
  EXPECT_EQ(max_error(got.state_out, expected.state_out), 0);
  EXPECT_LE(max_error(got.grads.x, expected.grads.x), grad_input);
  EXPECT_LE(max_error(got.grads.state_in, expected.grads.state_in), grad_input);
  EXPECT_LE(max_error(got.grads.weight, expected.grads.weight), grad_weight);
  EXPECT_LE(max_error(got.grads.bias, expected.grads.bias), grad_weight);
}

TEST(CausalConv1d, FloatKernelsGiveWhatDoubleGives) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Context fast = context(), plain = context(1, Algorithm::kReference);
    const Problem p = make(c);
    const Result expected = run(fast, make(c, DType::kF64));  // f64: always the plain loops
    expect_close(p, run(fast, p), expected);
    expect_close(p, run(plain, p), expected);
  }
}

TEST(CausalConv1d, SameBitsOnAnyNumberOfThreadsAndOnARerun) {
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

// Central differences of the loss sum(y grad_y) + sum(state_out grad_state_out) in double. With a step of 1e-5 they are
// good to about 1e-10 / 1e-5 of rounding and 1e-10 of curvature.
TEST(CausalConv1d, GradientsAreThoseOfTheForwardPass) {
  for (const Case& c : cases()) {
    if (c.l > 100 || c.k > 11) continue;
    SCOPED_TRACE(c.name);
    Case small = c;
    small.d = std::min<std::int64_t>(c.d, 2);
    Context ctx = context();
    const Problem p = make(small, DType::kF64);
    auto loss = [&] {
      Tensor state;
      const Tensor y = causal_conv1d_forward(ctx, p.args, &state);
      double sum = 0;
      for (std::int64_t i = 0; i < y.numel(); ++i) sum += y.data<double>()[i] * p.grad_y.data<double>()[i];
      for (std::int64_t i = 0; i < state.numel(); ++i)
        sum += state.data<double>()[i] * p.grad_state_out.data<double>()[i];
      return sum;
    };
    const CausalConv1dGrads grads = causal_conv1d_backward(ctx, p.args, p.grad_y, p.grad_state_out);
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
    check("weight", p.args.weight, grads.weight);
    check("bias", p.args.bias, grads.bias);
    check("state_in", p.args.state_in, grads.state_in);
  }
}

TEST(CausalConv1d, GradientsAreMadeForWhatIsThere) {
  Context ctx = context();
  const Problem p = make({.name = "", .bias = false, .state = false});
  const CausalConv1dGrads grads = causal_conv1d_backward(ctx, p.args, p.grad_y);
  EXPECT_TRUE(grads.x.defined());
  EXPECT_TRUE(grads.weight.defined());
  EXPECT_FALSE(grads.bias.defined());
  EXPECT_FALSE(grads.state_in.defined());
}

TEST(CausalConv1d, RefusesWhatDoesNotFit) {
  Context ctx = context();
  const Problem p = make({.name = "", .b = 1, .l = 6, .d = 3, .borders = {0, 2, 6}});
  auto said = [&](auto&& change) {
    Problem q = p;
    Tensor state_out;
    change(q, state_out);
    return refusal([&] {
      causal_conv1d_forward(ctx, q.args, &state_out);
      causal_conv1d_backward(ctx, q.args, q.grad_y, q.grad_state_out);
    });
  };
  using S = Problem&;
  using T = Tensor&;
  const Tensor f64 = Tensor::zeros({3}, DType::kF64);
  EXPECT_EQ(said([](S, T) {}), "");
  EXPECT_EQ(said([](S q, T) { q.args.x = {}; }), "[causal_conv1d] x: expected shape (any, any, any), got no tensor");
  EXPECT_EQ(said([](S q, T) {
              q.args.x = Tensor::zeros({1, 6, 3}, DType::kI32);
            }),
            "[causal_conv1d] dtype of x: expected f32 or f64, got i32");
  EXPECT_EQ(said([](S q, T) {
              q.args.weight = Tensor::zeros({4, 4}, DType::kF32);
            }),
            "[causal_conv1d] weight: expected shape (3, any), got (4, 4)");
  EXPECT_EQ(said([](S q, T) {
              q.args.weight = Tensor::zeros({3, 0}, DType::kF32);
            }),
            "[causal_conv1d] taps (second axis of weight): expected 1 or more, got 0");
  EXPECT_EQ(said([](S q, T) { q.args.weight = q.args.weight.to(DType::kBF16); }),
            "[causal_conv1d] dtype of weight: expected f32, got bf16");
  EXPECT_EQ(said([&](S q, T) { q.args.bias = f64; }), "[causal_conv1d] dtype of bias: expected f32, got f64");
  EXPECT_EQ(said([](S q, T) { q.args.bias = Tensor::zeros({2}, DType::kF32); }),
            "[causal_conv1d] bias: expected shape (3), got (2)");
  EXPECT_EQ(said([](S q, T) {
              q.args.state_in = Tensor::zeros({1, 3, 3}, DType::kF32);
            }),
            "[causal_conv1d] state_in: expected shape (2, 3, 3), got (1, 3, 3)");
  EXPECT_EQ(said([](S q, T) {
              q.args.cu_seqlens = Tensor::of<std::int32_t>({2}, {0, 7});
            }),
            "[causal_conv1d] cu_seqlens: expected 0 first and 6 last, got 0 first and 7 last");
  EXPECT_EQ(said([](S q, T) {
              q.args.resets = Tensor::zeros({1, 5}, DType::kU8);
            }),
            "[causal_conv1d] resets: expected shape (1, 6), got (1, 5)");
  EXPECT_EQ(said([](S, T state) {
              state = Tensor::zeros({2, 3, 4}, DType::kF32);
            }),
            "[causal_conv1d] state_out: expected shape (2, 3, 3), got (2, 3, 4)");
  EXPECT_EQ(said([](S q, T) {
              q.grad_y = Tensor::zeros({1, 6, 4}, DType::kF32);
            }),
            "[causal_conv1d] grad_y: expected shape (1, 6, 3), got (1, 6, 4)");
  EXPECT_EQ(said([](S q, T) { q.grad_y = q.grad_y.to(DType::kF64); }),
            "[causal_conv1d] dtype of grad_y: expected f32, got f64");
  EXPECT_EQ(said([](S q, T) {
              q.grad_state_out = Tensor::zeros({3, 3, 3}, DType::kF32);
            }),
            "[causal_conv1d] grad_state_out: expected shape (2, 3, 3), got (3, 3, 3)");
  auto step_said = [&](const CausalConv1dArgs& args, const Tensor& state) {
    return refusal([&] { causal_conv1d_step(ctx, args, state); });
  };
  EXPECT_EQ(step_said(p.args, p.args.state_in),
            "[causal_conv1d] x of a step: expected shape (any, 1, any), got (1, 6, 3)");
  CausalConv1dArgs one = make({.name = "", .b = 1, .l = 1, .d = 3}).args;
  EXPECT_EQ(step_said(one, {}), "[causal_conv1d] state of a step: expected shape (b, d, k-1), got no tensor");
  one.cu_seqlens = Tensor::of<std::int32_t>({2}, {0, 1});
  EXPECT_EQ(step_said(one, one.state_in),
            "[causal_conv1d] cu_seqlens of a step: expected none, got a tensor (rows are the sequences)");
}

}  // namespace
}  // namespace coluber::ops
