// What the tape promises: sums of gradients, nothing kept too long, and sentences for its misuse.
#include <gtest/gtest.h>

#include "tests/support/gradients.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

class TapeTest : public ::testing::Test {
 protected:
  Context ctx_{ContextOptions{2, Algorithm::kAuto}};
  Tape tape_;
  Graph graph_{ctx_, &tape_};

  static Tensor ones(const Shape& shape) { return Tensor::full(shape, 1, DType::kF64); }
};

TEST_F(TapeTest, GradientsAddToWhatWasThere) {
  const Var x(ones({2}), true);
  for (int pass = 1; pass <= 3; ++pass) {
    Tape tape;
    Graph graph{ctx_, &tape};
    tape.backward(ctx_, autograd::dot(graph, x, Tensor::of<double>({2}, {2, 5})));
    EXPECT_EQ(x.grad().at({0}), 2 * pass);
    EXPECT_EQ(x.grad().at({1}), 5 * pass);
  }
}

TEST_F(TapeTest, AnInputUsedTwiceGetsBothGradients) {
  const Var x(Tensor::of<double>({2}, {0, 1}), true);
  const Var sum = autograd::add(graph_, autograd::neg_exp(graph_, x), autograd::add(graph_, x, x));
  tape_.backward(ctx_, autograd::dot(graph_, sum, ones({2})));
  EXPECT_DOUBLE_EQ(x.grad().at({0}), 2 - 1);
  EXPECT_DOUBLE_EQ(x.grad().at({1}), 2 - std::exp(1.0));
}

// Both terms of a sum get one tensor. What one of them then adds must not reach the other.
TEST_F(TapeTest, TermsOfASumDoNotShareAGradient) {
  const Var a(ones({3}), true), b(ones({3}), true);
  const Var sum = autograd::add(graph_, a, b);
  const Var twice = autograd::add(graph_, autograd::add(graph_, sum, a), b);
  const Var more = autograd::add(graph_, twice, a);
  tape_.backward(ctx_, autograd::dot(graph_, more, ones({3})));
  EXPECT_EQ(a.grad().at({0}), 3);
  EXPECT_EQ(b.grad().at({0}), 2);
  tape_.clear();
  Graph again{ctx_, &tape_};
  tape_.backward(ctx_, autograd::dot(again, a, ones({3})));
  EXPECT_EQ(a.grad().at({0}), 4);
  EXPECT_EQ(b.grad().at({0}), 2);
}

// A gradient that somebody holds is his: later passes do not change it under him.
TEST_F(TapeTest, AGradientThatWasHandedOutStays) {
  const Var x(ones({2}), true);
  tape_.backward(ctx_, autograd::dot(graph_, x, ones({2})));
  const Tensor held = x.grad();
  tape_.backward(ctx_, autograd::dot(graph_, x, ones({2})));
  EXPECT_EQ(held.at({0}), 1);
  EXPECT_EQ(x.grad().at({0}), 2);
}

TEST_F(TapeTest, AHeldGradientOfAWeightStays) {
  const Var x(ones({2, 3})), weight(ones({4, 3}), true), bias(ones({4}), true);
  const auto pass = [&] {
    tape_.backward(ctx_, autograd::dot(graph_, autograd::linear(graph_, x, weight, bias), ones({2, 4})));
  };
  pass();
  const Tensor held = weight.grad(), held_bias = bias.grad();
  pass();
  EXPECT_EQ(held.at({0, 0}), 2);
  EXPECT_EQ(held_bias.at({0}), 2);
  EXPECT_EQ(weight.grad().at({0, 0}), 4);
  EXPECT_EQ(bias.grad().at({0}), 4);
}

TEST_F(TapeTest, ASeedScalesEverything) {
  const Var x(ones({2}), true);
  tape_.backward(ctx_, autograd::dot(graph_, x, ones({2})), Tensor::full({}, -3, DType::kF64));
  EXPECT_EQ(x.grad().at({1}), -3);
}

TEST_F(TapeTest, SeveralRootsAtOnce) {
  const Var x(Tensor::of<double>({2}, {0, 0}), true);
  const Var y = autograd::neg_exp(graph_, x), z = autograd::add(graph_, y, x);
  y.set_grad(Tensor::of<double>({2}, {10, 20}));
  z.set_grad(Tensor::of<double>({2}, {1, 2}));
  tape_.backward_from_grads(ctx_);
  EXPECT_DOUBLE_EQ(x.grad().at({0}), 1 - 11);  // d z / d x = 1 - e^0, d y / d x = -1
  EXPECT_DOUBLE_EQ(x.grad().at({1}), 2 - 22);
  EXPECT_EQ(tape_.size(), 0u);
}

TEST_F(TapeTest, ConstantsNeedNoGradient) {
  const Var x(ones({2})), y(ones({2}), true);
  const Var constant = autograd::neg_exp(graph_, autograd::add(graph_, x, x));
  EXPECT_FALSE(constant.requires_grad());
  EXPECT_EQ(tape_.size(), 0u);
  const Var sum = autograd::add(graph_, constant, y);
  EXPECT_TRUE(sum.requires_grad());
  tape_.backward(ctx_, autograd::dot(graph_, sum, ones({2})));
  EXPECT_TRUE(y.grad().defined());
  EXPECT_FALSE(constant.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST_F(TapeTest, WithoutATapeNothingIsRecorded) {
  Graph inference{ctx_};
  const Var x(ones({2}), true);
  EXPECT_FALSE(autograd::neg_exp(inference, x).requires_grad());
}

TEST_F(TapeTest, MisuseIsRefused) {
  Graph inference{ctx_};
  const Var x(ones({2}), true);
  const Var without_tape = autograd::dot(inference, x, ones({2}));
  EXPECT_NE(refusal([&] { tape_.backward(ctx_, without_tape); }).find("was the tape attached"), std::string::npos);
  EXPECT_NE(refusal([&] { tape_.backward(ctx_, Var{}); }).find("constant"), std::string::npos);
  const Var loss = autograd::dot(graph_, x, ones({2}));
  EXPECT_NE(refusal([&] { tape_.backward(ctx_, loss, ones({2})); }).find("() f64, as the root is, got (2) f64"),
            std::string::npos);
  EXPECT_NE(refusal([&] { tape_.backward(ctx_, loss, Tensor::full({}, 1, DType::kF32)); }).find("got () f32"),
            std::string::npos);
  tape_.backward(ctx_, loss);
  EXPECT_NE(refusal([&] { tape_.backward(ctx_, loss); }).find("empty tape"), std::string::npos);
  EXPECT_EQ(x.grad().at({0}), 1);
  EXPECT_NE(refusal([&] { autograd::split(graph_, x, {1, 2}); }).find("expected 2, got 3"), std::string::npos);
  EXPECT_NE(refusal([&] { autograd::split(graph_, x, {1}); }).find("expected 2, got 1"), std::string::npos);
}

TEST_F(TapeTest, ASeedThatDoesNotFitIsTheCallersMistake) {
  const Var loss = autograd::dot(graph_, Var(ones({2}), true), ones({2}));
  try {
    tape_.backward(ctx_, loss, ones({2}));
    ADD_FAILURE() << "was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
  }
}

TEST_F(TapeTest, AnUndefinedVarHasNeitherValueNorGradient) {
  const Var nothing;
  EXPECT_FALSE(nothing.defined() || nothing.value().defined() || nothing.requires_grad() || nothing.grad().defined());
}

// Parts of a split write their gradients where the whole one is: the same numbers as by copies, whoever comes first.
TEST_F(TapeTest, PartsOfASplitWriteTheWholeGradient) {
  const Var whole(random_tensor({2, 9, 10}, DType::kF64, 1), true), weight(random_tensor({3, 4}, DType::kF64, 2));
  const std::vector<Var> parts = autograd::split(graph_, whole, {4, 1, 5});
  const Var y = autograd::linear(graph_, parts[0], weight), again = autograd::linear(graph_, parts[0], weight);
  const Tensor g = random_tensor({2, 9, 3}, DType::kF64, 3), h = random_tensor({2, 9, 5}, DType::kF64, 4);
  y.set_grad(g);
  again.set_grad(g);
  parts[2].set_grad(h);
  tape_.backward_from_grads(ctx_);
  const Tensor once = ops::linear_backward(ctx_, {parts[0].value(), weight.value(), {}, DType::kF32, {}}, g).x;
  ops::scale_inplace(ctx_, once, 2);
  EXPECT_LE(max_error(whole.grad().slice(-1, 0, 4), once), 1e-15);
  EXPECT_TRUE(same_bits(whole.grad().slice(-1, 4, 5).contiguous(), Tensor::zeros({2, 9, 1}, DType::kF64)));
  EXPECT_TRUE(same_bits(whole.grad().slice(-1, 5, 10).contiguous(), h));
  EXPECT_FALSE(parts[0].grad().defined());
}

// --- memory ----------------------------------------------------------------------------------------------------------
// 64 sums of 1 MiB: no sum's value is needed to reverse it, so none is kept once the next stands.
TEST_F(TapeTest, OutputsThatBackwardDoesNotReadAreNotKept) {
  const std::int64_t n = kMiB / 8;
  const Var x(ones({n}), true);
  const std::int64_t before = memory_stats().live_bytes;
  reset_memory_peak();
  Var sum = x;
  for (int i = 0; i < 64; ++i) sum = autograd::add(graph_, sum, x);
  EXPECT_LE(memory_stats().live_bytes - before, 2 * kMiB);
  tape_.backward(ctx_, autograd::dot(graph_, sum, Tensor::full({n}, 1, DType::kF64)));
  EXPECT_EQ(x.grad().at({0}), 65);
  EXPECT_LE(memory_stats().peak_bytes - before, 7 * kMiB);
}

// What an entry saved goes when it has been played: the peak of a deep chain is that of forward and a few tensors.
TEST_F(TapeTest, BackwardFreesAsItGoes) {
  const std::int64_t n = kMiB / 8;
  const Var x(Tensor::full({n}, -1, DType::kF64), true);
  const std::int64_t before = memory_stats().live_bytes;
  Var y = x;
  for (int i = 0; i < 16; ++i) y = autograd::neg_exp(graph_, y);
  const Var loss = autograd::dot(graph_, y, ones({n}));
  y = {};
  const std::int64_t forward = memory_stats().live_bytes - before;
  EXPECT_GE(forward, 16 * kMiB);
  reset_memory_peak();
  tape_.backward(ctx_, loss);
  EXPECT_LE(memory_stats().peak_bytes - before, forward + 4 * kMiB);
  EXPECT_LE(memory_stats().live_bytes - before, kMiB + 4096);  // the gradient of x
}

// The gradient of a frozen weight is never made: here it alone would be 8 MiB beside vectors of 8 KiB.
TEST_F(TapeTest, AFrozenWeightCostsNoGradient) {
  const Tensor values = Tensor::full({kMiB / 1024, kMiB / 1024}, 0.5, DType::kF64);
  const Var x(ones({1, kMiB / 1024}), true), frozen(values), learned(values, true);
  const auto peak_of = [&](const Var& weight, const Var& bias) {
    tape_.clear();
    const Var y = autograd::linear(graph_, x, weight, bias);
    const Var loss = autograd::dot(graph_, y, ones(y.value().shape()));
    const std::int64_t before = memory_stats().live_bytes;
    reset_memory_peak();
    tape_.backward(ctx_, loss);
    return memory_stats().peak_bytes - before;
  };
  EXPECT_LT(peak_of(frozen, {}), kMiB);
  const Tensor alone = x.grad().clone();
  EXPECT_FALSE(frozen.grad().defined());
  x.set_grad({});
  EXPECT_GE(peak_of(learned, {}), 8 * kMiB);
  EXPECT_TRUE(same_bits(x.grad(), alone));
  const Var bias(ones({kMiB / 1024}), true);
  EXPECT_LT(peak_of(frozen, bias), kMiB);
  EXPECT_EQ(bias.grad().at({3}), 1);
  learned.set_grad({});
  learned.set_requires_grad(false);
  EXPECT_LT(peak_of(learned, {}), kMiB);
  EXPECT_FALSE(learned.grad().defined());
  learned.set_requires_grad(true);
  EXPECT_GE(peak_of(learned, {}), 8 * kMiB);
}

TEST_F(TapeTest, ClearFreesWithoutPlaying) {
  const Var x(ones({kMiB / 8}), true);
  const std::int64_t before = memory_stats().live_bytes;
  autograd::neg_exp(graph_, x);
  EXPECT_GE(memory_stats().live_bytes - before, kMiB);
  tape_.clear();
  EXPECT_LE(memory_stats().live_bytes - before, 0);
  EXPECT_FALSE(x.grad().defined());
}

}  // namespace
}  // namespace coluber::testing
