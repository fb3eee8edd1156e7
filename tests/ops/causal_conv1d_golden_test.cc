// causal_conv1d against numbers of other people's code.
#include <gtest/gtest.h>

#include "coluber/ops.h"
#include "tests/support/golden_file.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

// Golden files keep tokens last.
Tensor tokens_first(const Tensor& t) {
  return t.defined() ? t.permute({0, 2, 1}) : t;
}

struct Names {
  std::string y, state_in, state_out;
};

// The two files, and their packed cases, name the same things differently.
Names names_in(const GoldenCase& golden) {
  if (golden.has("out/y")) return {"y", "state", "state"};
  return {"out", "initial_state", golden.options.value("packed", false) ? "varlen_states" : "final_state"};
}

// Where seq_idx changes a new sequence begins: what cu_seqlens says, said by resets.
Tensor resets_of(const Tensor& seq_idx) {
  const Tensor resets = Tensor::zeros(seq_idx.shape(), DType::kU8);
  for (std::int64_t t = 1; t < seq_idx.size(1); ++t)
    resets.set({0, t}, seq_idx.at({0, t}) == seq_idx.at({0, t - 1}) ? 0 : 1);
  return resets;
}

// Float bounds as in causal_conv1d_test.cc, with the largest input 5, weight 2 and cotangent 5 (checked): sums of k
// products, 1e-6 for silu, and T tokens in a weight gradient. Double: the same with its unit and no polynomial.
struct Bounds {
  double y, grad_x, grad_weight;
};

Bounds bounds(const CausalConv1dArgs& args, const Tensor& cotangent, DType dtype) {
  const double unit = dtype == DType::kF32 ? kUnitF32 : kUnitF64, silu = dtype == DType::kF32 ? 1e-6 : 4 * kUnitF64;
  const double k = static_cast<double>(args.weight.size(1)), weight = max_abs(args.weight), grad = max_abs(cotangent);
  const double input = std::max({1.0, max_abs(args.x), max_abs(args.state_in)});
  const double sum = std::max(1.0, max_abs(args.bias) + k * weight * input), pre = (k + 2) * unit * sum + silu * sum;
  const double grad_pre = grad * (pre + silu * sum), tokens = static_cast<double>(args.x.size(0) * args.x.size(1));
  return {pre, (k + 1) * std::max(weight, 1.0) * (grad_pre + (k + 2) * unit * grad),
          tokens * input * (grad_pre + 66 * unit * grad)};
}

void check(Context& ctx, const GoldenCase& golden, DType dtype) {
  SCOPED_TRACE(golden.name);
  const Names names = names_in(golden);
  CausalConv1dArgs args;
  args.x = tokens_first(golden.get("x", dtype));
  args.weight = golden.get("weight", dtype);
  args.bias = golden.get("bias", dtype);
  args.silu = golden.options.value("silu", false);
  args.reverse = golden.options.value("reverse", false);
  args.state_in = golden.get(names.state_in, dtype);
  args.cu_seqlens = golden.get("cu_seqlens", dtype);
  args.resets = golden.get("resets", dtype);
  const Tensor cotangent = tokens_first(golden.get("cot/" + names.y, dtype));
  const Bounds bound = bounds(args, cotangent, dtype);
  auto expect = [&](const std::string& name, const Tensor& got, double tolerance, bool has_tokens) {
    if (got.numel() == 0 && !golden.has(name)) return;  // a state of one tap is empty
    ASSERT_EQ(golden.has(name), got.defined()) << name;
    if (!got.defined()) return;
    const bool rounded = golden.tensors.at(name).dtype() == DType::kF32;
    const Tensor expected = golden.get(name, DType::kF64);
    EXPECT_LE(max_error(got, has_tokens ? tokens_first(expected) : expected), tolerance + (rounded ? kUnitF32 : 0))
        << name;
  };
  Tensor state_out;
  expect("out/" + names.y, causal_conv1d_forward(ctx, args, &state_out), bound.y, true);
  if (golden.has("out/" + names.state_out)) expect("out/" + names.state_out, state_out, 0, false);
  const CausalConv1dGrads grads =
      causal_conv1d_backward(ctx, args, cotangent, golden.get("cot/" + names.state_out, dtype));
  expect("grad/x", grads.x, bound.grad_x, true);
  expect("grad/weight", grads.weight, bound.grad_weight, false);
  expect("grad/bias", grads.bias, bound.grad_weight, false);
  expect("grad/" + names.state_in, grads.state_in, bound.grad_x, false);
  if (!golden.has("seq_idx")) return;
  const Tensor packed_grad = causal_conv1d_backward(ctx, args, cotangent).x;  // nothing through the states
  args.cu_seqlens = {};
  args.resets = resets_of(golden.get("seq_idx", dtype));
  expect("out/" + names.y, causal_conv1d_forward(ctx, args), bound.y, true);
  EXPECT_LE(max_error(causal_conv1d_backward(ctx, args, cotangent).x, packed_grad), bound.grad_x);
}

class CausalConv1dGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void check_all(Algorithm algorithm, DType dtype) {
    Context ctx(ContextOptions{2, algorithm});
    const std::vector<GoldenCase> cases = golden_cases(GetParam());
    EXPECT_GE(cases.size(), 15u);
    for (const GoldenCase& golden : cases) check(ctx, golden, dtype);
  }
};

TEST_P(CausalConv1dGolden, Float64) {
  check_all(Algorithm::kAuto, DType::kF64);
}
TEST_P(CausalConv1dGolden, Float32) {
  check_all(Algorithm::kAuto, DType::kF32);
}
TEST_P(CausalConv1dGolden, Float32Reference) {
  check_all(Algorithm::kReference, DType::kF32);
}

INSTANTIATE_TEST_SUITE_P(Files, CausalConv1dGolden,
                         ::testing::Values("causal_conv1d.safetensors", "laws_fp64/causal_conv1d.safetensors"),
                         [](const auto& file) { return file.index == 0 ? "published" : "laws"; });

}  // namespace
}  // namespace coluber::ops
