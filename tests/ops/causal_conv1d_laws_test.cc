// step = chunks = whole, packed = separate, reverse = flipped, by the fast kernels and by the plain loops.
#include "tests/ops/causal_conv1d_cases.h"

namespace coluber::ops {
namespace {

class Laws : public ::testing::TestWithParam<Algorithm> {
 protected:
  Context ctx_ = context(2, GetParam());
};
INSTANTIATE_TEST_SUITE_P(CausalConv1d, Laws, ::testing::Values(Algorithm::kAuto, Algorithm::kReference),
                         [](const auto& row) { return std::string(algorithm_name(row.param)); });

TEST_P(Laws, AnySplitGivesTheWhole) {
  for (std::int64_t k : {1, 2, 4, 8, 9}) {
    const Problem p = make({.name = "", .k = k, .resets = {0, 9, 20}});
    const Result whole = run(ctx_, p);
    for (std::int64_t split : {0, 1, 2, 3, 5, 10, 20, 36, 37}) {
      Tensor state = p.args.state_in.clone();
      const Tensor y = Tensor::empty(p.args.x.shape(), DType::kF32);
      for (const auto& [begin, end] : {std::pair(std::int64_t{0}, split), std::pair(split, std::int64_t{37})}) {
        CausalConv1dArgs part = p.args;
        part.x = p.args.x.slice(1, begin, end);
        part.resets = p.args.resets.slice(1, begin, end);
        part.state_in = state;
        y.slice(1, begin, end).copy_from(causal_conv1d_forward(ctx_, part, &state));
      }
      EXPECT_TRUE(same_bits(y, whole.y)) << k << " taps, " << split;
      EXPECT_TRUE(same_bits(state, whole.state_out)) << k << " taps, " << split;
    }
  }
}

TEST_P(Laws, StepsGiveTheWhole) {
  for (std::int64_t k : {1, 2, 4, 8, 9}) {
    for (bool has_resets : {false, true}) {
      const Problem p =
          make({.name = "",
                .d = 150,
                .k = k,
                .resets = has_resets ? std::vector<std::int64_t>{0, 9, 20} : std::vector<std::int64_t>{}});
      const Result whole = run(ctx_, p);
      const Tensor state = p.args.state_in.clone(), y = Tensor::empty(p.args.x.shape(), DType::kF32);
      for (std::int64_t t = 0; t < 37; ++t) {
        CausalConv1dArgs one = p.args;
        one.x = p.args.x.slice(1, t, t + 1);
        if (has_resets) one.resets = p.args.resets.slice(1, t, t + 1);
        y.slice(1, t, t + 1).copy_from(causal_conv1d_step(ctx_, one, state));
      }
      EXPECT_TRUE(same_bits(y, whole.y)) << k;
      EXPECT_TRUE(same_bits(state, whole.state_out)) << k;
    }
  }
}

TEST_P(Laws, PackedSequencesAreSeparateOnes) {
  for (bool reverse : {false, true}) {
    const Problem p = make({.name = "", .b = 1, .l = 90, .reverse = reverse, .borders = {0, 1, 3, 3, 70, 90}});
    const Result packed = run(ctx_, p);
    for (std::int64_t i = 0; i < 5; ++i) {
      const auto begin = static_cast<std::int64_t>(p.args.cu_seqlens.at({i}));
      const auto end = static_cast<std::int64_t>(p.args.cu_seqlens.at({i + 1}));
      Problem one = p;
      one.args.cu_seqlens = {};
      one.args.x = p.args.x.slice(1, begin, end);
      one.args.state_in = p.args.state_in.slice(0, i, i + 1);
      one.grad_y = p.grad_y.slice(1, begin, end);
      one.grad_state_out = p.grad_state_out.slice(0, i, i + 1);
      const Result separate = run(ctx_, one);
      EXPECT_TRUE(same_bits(packed.y.slice(1, begin, end), separate.y)) << i;
      EXPECT_TRUE(same_bits(packed.state_out.slice(0, i, i + 1), separate.state_out)) << i;
      EXPECT_TRUE(same_bits(packed.grads.x.slice(1, begin, end), separate.grads.x)) << i;
      EXPECT_TRUE(same_bits(packed.grads.state_in.slice(0, i, i + 1), separate.grads.state_in)) << i;
    }
  }
}

TEST_P(Laws, AResetBeginsAnew) {
  const Problem p = make({.name = "", .b = 1, .l = 40, .resets = {11}});
  const Result whole = run(ctx_, p);
  CausalConv1dArgs tail = p.args;
  tail.x = p.args.x.slice(1, 11, 40);
  tail.resets = {};
  tail.state_in = {};
  EXPECT_TRUE(same_bits(whole.y.slice(1, 11, 40), causal_conv1d_forward(ctx_, tail)));
}

TEST_P(Laws, TheStateHoldsNothingFromBeforeAReset) {
  const Problem p = make({.name = "", .b = 1, .l = 40, .k = 5, .resets = {38}});
  const Result r = run(ctx_, p);
  for (std::int64_t c = 0; c < p.args.x.size(2); ++c) {
    EXPECT_EQ(r.state_out.at({0, c, 0}), 0);
    EXPECT_EQ(r.state_out.at({0, c, 1}), 0);
    EXPECT_EQ(r.state_out.at({0, c, 2}), p.args.x.at({0, 38, c}));
    EXPECT_EQ(r.state_out.at({0, c, 3}), p.args.x.at({0, 39, c}));
  }
}

TEST_P(Laws, AResetHidesWhatIsNotANumber) {
  const Problem p = make({.name = "", .b = 1, .l = 10, .resets = {5}});
  p.args.x.slice(1, 0, 5).fill(std::nan(""));
  const Result r = run(ctx_, p);
  for (std::int64_t t = 0; t < 10; ++t) EXPECT_EQ(std::isnan(r.y.at({0, t, 0})), t < 5) << t;
}

Tensor flipped(const Tensor& t, int axis) {
  const Tensor out = Tensor::empty(t.shape(), t.dtype());
  for (std::int64_t i = 0; i < t.size(axis); ++i)
    out.slice(axis, i, i + 1).copy_from(t.slice(axis, t.size(axis) - 1 - i, t.size(axis) - i));
  return out;
}

TEST_P(Laws, ReverseIsForwardOnTheFlippedSequence) {
  Problem p = make({.name = "", .l = 150, .resets = {3, 64, 70}});
  const Result forward = run(ctx_, p);
  p.args.reverse = true;
  p.args.x = flipped(p.args.x, 1);
  p.args.resets = flipped(p.args.resets, 1);
  p.grad_y = flipped(p.grad_y, 1);
  Result reverse = run(ctx_, p);
  reverse.y = flipped(reverse.y, 1);
  reverse.grads.x = flipped(reverse.grads.x, 1);
  expect_same_bits(reverse, forward);
}

TEST_P(Laws, StridesDoNotMatter) {
  const Problem p = make({.name = ""});
  const Result expected = run(ctx_, p);
  auto channels_of_wider = [](const Tensor& t) {  // as in_proj hands over its first half
    const Tensor wide = Tensor::empty({t.size(0), t.size(1), 2 * t.size(2)}, t.dtype());
    const Tensor half = wide.slice(2, 3, 3 + t.size(2));
    half.copy_from(t);
    return half;
  };
  auto transposed = [](const Tensor& t) {  // channels before tokens
    const Tensor other = t.transpose(-1, -2).clone();
    return other.transpose(-1, -2);
  };
  Problem wide = p;
  wide.args.x = channels_of_wider(p.args.x);
  wide.grad_y = channels_of_wider(p.grad_y);
  expect_same_bits(run(ctx_, wide), expected);
  const Tensor into = channels_of_wider(Tensor::full(p.args.x.shape(), std::nan(""), p.args.x.dtype()));
  const CausalConv1dGrads grads = causal_conv1d_backward(ctx_, p.args, p.grad_y, p.grad_state_out, into);
  EXPECT_EQ(grads.x.raw(), into.raw());
  EXPECT_TRUE(same_bits(into.contiguous(), expected.grads.x));
  Problem other = p;
  other.args.x = transposed(p.args.x);
  other.grad_y = transposed(p.grad_y);
  other.args.weight = transposed(p.args.weight);
  other.args.state_in = transposed(p.args.state_in);
  other.grad_state_out = transposed(p.grad_state_out);
  expect_same_bits(run(ctx_, other), expected);
}

TEST_P(Laws, StateOutMayBeStateIn) {
  for (std::int64_t l : {1, 2, 3, 20}) {
    const Problem p = make({.name = "", .l = l, .k = 5});
    const Result expected = run(ctx_, p);
    Problem same = p;
    same.args.state_in = p.args.state_in.clone();
    Tensor state = same.args.state_in;
    EXPECT_TRUE(same_bits(causal_conv1d_forward(ctx_, same.args, &state), expected.y)) << l;
    EXPECT_TRUE(same_bits(state, expected.state_out)) << l;
    // Slots of one bigger tensor, the outgoing one row further.
    const Tensor slots = Tensor::zeros({3, p.args.x.size(2), 4}, DType::kF32);
    same.args.state_in = slots.slice(0, 0, 2);
    same.args.state_in.copy_from(p.args.state_in);
    state = slots.slice(0, 1, 3);
    EXPECT_TRUE(same_bits(causal_conv1d_forward(ctx_, same.args, &state), expected.y)) << l;
    EXPECT_TRUE(same_bits(state, expected.state_out)) << l;
  }
}

TEST_P(Laws, EmptySequencesPassTheStateOn) {
  const Problem p = make({.name = "", .l = 0});
  const Result r = run(ctx_, p);
  EXPECT_TRUE(same_bits(r.state_out, p.args.state_in));
  EXPECT_TRUE(same_bits(r.grads.state_in, p.grad_state_out));
  EXPECT_EQ(max_abs(r.grads.weight), 0);
}

}  // namespace
}  // namespace coluber::ops
