// norm against numbers of other people's code.
#include <gtest/gtest.h>

#include "coluber/ops.h"
#include "tests/support/golden_file.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

// The bounds of norm_test.cc: sums over m channels enter v_hat; a gradient multiplies by 1/sigma and by weights, a sum
// over rows adds them up. One channel: v_hat is the sign of r, and 1/sigma amplifies what is left of it.
void check(Context& ctx, const GoldenCase& golden, DType dtype) {
  SCOPED_TRACE(golden.name);
  NormArgs args;
  args.x = golden.get("x", dtype);
  args.weight = golden.get("weight", dtype);
  args.bias = golden.get("bias", dtype);
  args.residual = golden.get("residual", dtype);
  args.kind = golden.options.at("kind") == "layer" ? NormKind::kLayer : NormKind::kRms;
  args.eps = golden.options.at("eps");
  const double unit = dtype == DType::kF32 ? kUnitF32 : kUnitF64;
  const double m = static_cast<double>(args.x.size(-1)), rows = static_cast<double>(args.x.numel()) / m;
  const double forward = 10 * 6 * (m + 8) * unit, amplify = m == 1 ? 400 : 30;
  auto expect = [&](const std::string& name, const Tensor& got, double tolerance) {
    ASSERT_TRUE(got.defined()) << name;
    const bool rounded = golden.tensors.at(name).dtype() == DType::kF32;
    EXPECT_LE(max_error(got, golden.get(name, DType::kF64)), tolerance + (rounded ? kUnitF32 : 0)) << name;
  };
  Tensor sum;
  expect("out/out", norm_forward(ctx, args, &sum), forward);
  if (golden.has("out/residual_out")) expect("out/residual_out", sum, unit);
  const NormGrads grads = norm_backward(ctx, args, golden.get("cot/out", dtype), golden.get("cot/residual_out", dtype));
  expect("grad/x", grads.x, amplify * forward);
  if (golden.has("residual")) expect("grad/residual", grads.x, amplify * forward);
  if (golden.has("weight")) expect("grad/weight", grads.weight, rows * 6 * (forward + 34 * unit));
  if (golden.has("bias")) expect("grad/bias", grads.bias, rows * 6 * (forward + 34 * unit));
}

void check_all(Algorithm algorithm, DType dtype) {
  Context ctx(ContextOptions{2, algorithm});
  const std::vector<GoldenCase> cases = golden_cases("norm.safetensors");
  EXPECT_EQ(cases.size(), 6u);
  for (const GoldenCase& golden : cases) check(ctx, golden, dtype);
}

TEST(NormGolden, Float64) {
  check_all(Algorithm::kAuto, DType::kF64);
}
TEST(NormGolden, Float32) {
  check_all(Algorithm::kAuto, DType::kF32);
}
TEST(NormGolden, Float32Reference) {
  check_all(Algorithm::kReference, DType::kF32);
}

}  // namespace
}  // namespace coluber::ops
