// Problems for tests of causal_conv1d.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::ops {

using namespace coluber::testing;

struct Case {
  const char* name;
  std::int64_t b = 2, l = 37, d = 19, k = 4;
  bool bias = true, silu = true, reverse = false, state = true;
  std::vector<std::int32_t> borders = {};  // cu_seqlens
  std::vector<std::int64_t> resets = {};   // tokens of row 0, and one more in every further row
};

struct Problem {
  CausalConv1dArgs args;
  Tensor grad_y, grad_state_out;
};

inline Problem make(const Case& c, DType dtype = DType::kF32) {
  const std::int64_t slots = c.borders.empty() ? c.b : static_cast<std::int64_t>(c.borders.size()) - 1;
  auto tensor = [&](const Shape& shape, std::uint64_t seed, double scale) {
    return random_tensor(shape, DType::kF32, seed, scale).to(dtype);
  };
  Problem p;
  p.args.x = tensor({c.b, c.l, c.d}, 1, 1);
  p.args.weight = tensor({c.d, c.k}, 2, 0.5);
  if (c.bias) p.args.bias = tensor({c.d}, 3, 0.5);
  if (c.state) p.args.state_in = tensor({slots, c.d, c.k - 1}, 4, 1);
  p.args.silu = c.silu;
  p.args.reverse = c.reverse;
  if (!c.borders.empty()) p.args.cu_seqlens = Tensor::of<std::int32_t>({slots + 1}, c.borders);
  if (!c.resets.empty()) {
    p.args.resets = Tensor::zeros({c.b, c.l}, DType::kU8);
    for (std::int64_t token : c.resets) p.args.resets.set({0, token}, 1);
    for (std::int64_t row = 1; row < c.b; ++row) p.args.resets.set({row, row % c.l}, 1);
  }
  p.grad_y = tensor({c.b, c.l, c.d}, 5, 1);
  p.grad_state_out = tensor({slots, c.d, c.k - 1}, 6, 1);
  return p;
}

struct Result {
  Tensor y, state_out;
  CausalConv1dGrads grads;
};

inline Result run(Context& ctx, const Problem& p) {
  Result r;
  r.y = causal_conv1d_forward(ctx, p.args, &r.state_out);
  r.grads = causal_conv1d_backward(ctx, p.args, p.grad_y, p.grad_state_out);
  return r;
}

inline Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

inline void expect_same_bits(const Result& a, const Result& b) {
  EXPECT_TRUE(same_bits(a.y, b.y));
  EXPECT_TRUE(same_bits(a.state_out, b.state_out));
  EXPECT_TRUE(same_bits(a.grads.x, b.grads.x));
  EXPECT_TRUE(same_bits(a.grads.weight, b.grads.weight));
  EXPECT_TRUE(same_bits(a.grads.bias, b.grads.bias));
  EXPECT_TRUE(same_bits(a.grads.state_in, b.grads.state_in));
}

}  // namespace coluber::ops
