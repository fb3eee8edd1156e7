// selective_scan against numbers of other people's code.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "coluber/ops.h"
#include "tests/support/golden_file.h"
#include "tests/support/selective_scan_bounds.h"
#include "tests/support/tensors.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

// Golden files keep tokens last: (b,d,l), B and C (b,n,l) or (b,g,n,l); complex B and C interleave re, im along l.
Tensor coefficients_of(const Tensor& t, bool is_complex) {
  const int constant_rank = is_complex ? 3 : 2;
  const bool is_constant = is_complex ? t.rank() == constant_rank && t.size(-1) == 2 : t.rank() == constant_rank;
  if (is_constant) return t;
  if (!is_complex) return t.rank() == 3 ? t.permute({0, 2, 1}) : t.permute({0, 3, 1, 2});
  const Tensor c = t.contiguous();
  if (t.rank() == 3) return c.reshape({t.size(0), t.size(1), t.size(2) / 2, 2}).permute({0, 2, 1, 3});
  return c.reshape({t.size(0), t.size(1), t.size(2), t.size(3) / 2, 2}).permute({0, 3, 1, 2, 4});
}

Tensor tokens_first(const Tensor& t) {
  return t.defined() ? t.permute({0, 2, 1}) : t;
}

struct GoldenNames {
  const char *u, *dt, *state, *y, *last_state;
};

// The two files name the same things differently.
GoldenNames names_in(const GoldenCase& golden) {
  if (golden.has("u")) return {"u", "delta", "initial_state", "out", "last_state"};
  return {"x", "dt", "state", "y", "state"};
}

SelectiveScanArgs golden_args(const GoldenCase& golden, DType dtype) {
  const GoldenNames names = names_in(golden);
  SelectiveScanArgs args;
  args.u = tokens_first(golden.get(names.u, dtype));
  args.dt = tokens_first(golden.get(names.dt, dtype));
  args.z = tokens_first(golden.get("z", dtype));
  args.A = golden.get("A", dtype);
  args.B = coefficients_of(golden.get("B", dtype), args.A.rank() == 3);
  args.C = coefficients_of(golden.get("C", dtype), args.A.rank() == 3);
  args.D = golden.get("D", dtype);
  args.dt_bias = golden.get("delta_bias", dtype);
  args.dt_softplus = golden.options.value("delta_softplus", false);
  args.reverse = golden.options.value("reverse", false);
  args.state_in = golden.get(names.state, dtype);
  args.cu_seqlens = golden.get("cu_seqlens", dtype);
  args.resets = golden.get("resets", dtype);
  return args;
}

// One call, and the golden tensor that each of its outputs should equal, as the op lays it out.
struct Comparison {
  std::string name;
  Tensor got;
  Tensor expected;
  BoundedTensor bound;
};

std::vector<Comparison> compare(Context& ctx, const GoldenCase& golden, DType dtype) {
  const GoldenNames names = names_in(golden);
  const SelectiveScanArgs args = golden_args(golden, dtype);
  const bool is_complex = args.A.rank() == 3;
  const std::string out = "out/", cot = "cot/", grad = "grad/";
  const Tensor grad_y = tokens_first(golden.get(cot + names.y, dtype));
  const Tensor grad_state = golden.get(cot + names.last_state, dtype);
  Tensor state_out;
  SelectiveScanSaved saved;
  const Tensor y = selective_scan_forward(ctx, args, &state_out, &saved);
  const SelectiveScanGrads g = selective_scan_backward(ctx, args, saved, grad_y, grad_state);
  const BoundedScan b = bounded_scan(args, grad_y, grad_state);
  auto plain = [&](const std::string& name) { return golden.get(name, DType::kF64); };
  auto tokens = [&](const std::string& name) { return tokens_first(plain(name)); };
  auto coefficients = [&](const std::string& name) { return coefficients_of(plain(name), is_complex); };
  return {{out + names.y, y, tokens(out + names.y), b.y},
          {out + names.last_state, state_out, plain(out + names.last_state), b.state_out},
          {grad + names.u, g.u, tokens(grad + names.u), b.u},
          {grad + names.dt, g.dt, tokens(grad + names.dt), b.dt},
          {grad + "z", g.z, tokens(grad + "z"), b.z},
          {grad + "A", g.A, plain(grad + "A"), b.A},
          {grad + "B", g.B, coefficients(grad + "B"), b.B},
          {grad + "C", g.C, coefficients(grad + "C"), b.C},
          {grad + "D", g.D, plain(grad + "D"), b.D},
          {grad + "delta_bias", g.dt_bias, plain(grad + "delta_bias"), b.dt_bias},
          {grad + names.state, g.state_in, plain(grad + names.state), b.state_in}};
}

// Long golden tensors are stored in float32.
double stored_error(const GoldenCase& golden, const std::string& name) {
  return golden.tensors.at(name).dtype() == DType::kF32 ? kUnitF32 : 0;
}

class SelectiveScanGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(SelectiveScanGolden, Float64) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  for (const GoldenCase& golden : golden_cases(GetParam())) {
    for (const Comparison& c : compare(ctx, golden, DType::kF64)) {
      EXPECT_EQ(golden.has(c.name), c.got.defined()) << golden.name << " " << c.name;
      if (!c.got.defined() || !golden.has(c.name)) continue;
      EXPECT_LE(max_error(c.got, c.expected), 1e-12 + stored_error(golden, c.name)) << golden.name << " " << c.name;
    }
  }
}

// The same in float32, against the derived bound of every element. What is exact there is also checked against the
// file, so that the bound's own loops are.
TEST_P(SelectiveScanGolden, Float32) {
  Context ctx(ContextOptions{2, Algorithm::kAuto});
  double worst = 0;
  for (const GoldenCase& golden : golden_cases(GetParam())) {
    for (const Comparison& c : compare(ctx, golden, DType::kF32)) {
      if (!c.got.defined()) continue;
      ASSERT_TRUE(golden.has(c.name)) << golden.name << " " << c.name;
      const double share = worst_share(c.got, c.bound);
      EXPECT_LE(share, 1) << golden.name << " " << c.name;
      EXPECT_LE(max_error(values_of(c.bound), c.expected), 1e-12 + stored_error(golden, c.name))
          << golden.name << " " << c.name;
      worst = std::max(worst, share);
    }
  }
  RecordProperty("worst_share_of_bound", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(Files, SelectiveScanGolden,
                         ::testing::Values("selective_scan.safetensors", "laws_fp64/selective_scan.safetensors"),
                         [](const auto& test) { return test.index == 0 ? "published" : "laws"; });

}  // namespace
}  // namespace coluber::ops
