// selective_scan against numbers of other people's code, and what it refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coluber/ops.h"
#include "tests/support/golden_file.h"
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

// `unit`: what one rounding of the kernel costs. Long golden tensors are stored in float32.
void expect_golden(const GoldenCase& golden, const char* name, const Tensor& got, const Tensor& expected,
                   double bound) {
  const double stored = golden.tensors.at(name).dtype() == DType::kF32 ? kUnitF32 : 0;
  EXPECT_LE(max_error(got, expected), bound + stored) << golden.name << " " << name;
}

void check_golden(Context& ctx, const GoldenCase& golden, DType dtype, double bound) {
  const GoldenNames names = names_in(golden);
  const SelectiveScanArgs args = golden_args(golden, dtype);
  const bool is_complex = args.A.rank() == 3;
  auto expected = [&](const char* name) { return golden.get(name, DType::kF64); };
  Tensor state_out;
  SelectiveScanSaved saved;
  const Tensor y = selective_scan_forward(ctx, args, &state_out, &saved);
  const std::string out = "out/", cot = "cot/", grad = "grad/";
  const std::string y_name = out + names.y, state_name = out + names.last_state;
  expect_golden(golden, y_name.c_str(), y, tokens_first(expected(y_name.c_str())), bound);
  expect_golden(golden, state_name.c_str(), state_out, expected(state_name.c_str()), bound);

  const SelectiveScanGrads g = selective_scan_backward(ctx, args, saved, tokens_first(golden.get(cot + names.y, dtype)),
                                                       golden.get(cot + names.last_state, dtype));
  auto check = [&](const std::string& name, const Tensor& got, const Tensor& wanted) {
    if (golden.has(name)) expect_golden(golden, name.c_str(), got, wanted, bound);
    EXPECT_EQ(golden.has(name), got.defined()) << golden.name << " " << name;
  };
  auto check_plain = [&](const std::string& name, const Tensor& got) { check(name, got, expected(name.c_str())); };
  auto check_tokens = [&](const std::string& name, const Tensor& got) {
    check(name, got, tokens_first(expected(name.c_str())));
  };
  check_tokens(grad + names.u, g.u);
  check_tokens(grad + names.dt, g.dt);
  check_tokens(grad + "z", g.z);
  check_plain(grad + "A", g.A);
  check(grad + "B", g.B, coefficients_of(expected("grad/B"), is_complex));
  check(grad + "C", g.C, coefficients_of(expected("grad/C"), is_complex));
  check_plain(grad + "D", g.D);
  check_plain(grad + "delta_bias", g.dt_bias);
  check_plain(grad + names.state, g.state_in);
}

class SelectiveScanGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(SelectiveScanGolden, Float64) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  for (const GoldenCase& golden : golden_cases(GetParam())) check_golden(ctx, golden, DType::kF64, 1e-12);
}

TEST_P(SelectiveScanGolden, Float32) {
  Context ctx(ContextOptions{2, Algorithm::kAuto});
  for (const GoldenCase& golden : golden_cases(GetParam())) check_golden(ctx, golden, DType::kF32, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Files, SelectiveScanGolden,
                         ::testing::Values("selective_scan.safetensors", "laws_fp64/selective_scan.safetensors"),
                         [](const auto& test) { return test.index == 0 ? "published" : "laws"; });

}  // namespace
}  // namespace coluber::ops
