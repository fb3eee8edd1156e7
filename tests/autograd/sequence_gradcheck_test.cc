// causal_conv1d and selective_scan with every option, in double against central differences.
#include <gtest/gtest.h>

#include "tests/ops/selective_scan_cases.h"
#include "tests/support/gradients.h"

namespace coluber::testing {
namespace {

struct ConvCase {
  const char* name = "base";
  std::int64_t k = 4;
  bool bias = true, silu = true, reverse = false, state_in = true, state_out = true, output = true;
  std::vector<std::int32_t> borders = {};
  bool resets = false;
};

void check_conv(const ConvCase& c) {
  const std::int64_t b = c.borders.empty() ? 2 : 1, l = 9, d = 3;
  const std::int64_t slots = c.borders.empty() ? b : static_cast<std::int64_t>(c.borders.size()) - 1;
  const Var x = random_parameter({b, l, d}, 1), weight = random_parameter({d, c.k}, 2);
  const Var bias = c.bias ? random_parameter({d}, 3) : Var{};
  const Var state_in = c.state_in ? random_parameter({slots, d, c.k - 1}, 4) : Var{};
  Sequences sequences;
  if (!c.borders.empty()) sequences.cu_seqlens = Tensor::of<std::int32_t>({slots + 1}, c.borders);
  if (c.resets) {
    sequences.resets = Tensor::zeros({b, l}, DType::kU8);
    sequences.resets.set({0, 4}, 1);
    sequences.resets.set({0, 5}, 1);
  }
  std::vector<Var> inputs = {x};
  if (c.output) inputs.push_back(weight);
  if (c.output && c.bias) inputs.push_back(bias);
  if (c.state_in && c.output && c.k > 1) inputs.push_back(state_in);
  expect_gradients(c.name, inputs, [&](Graph& g) {
    Var state;
    const Var y = autograd::causal_conv1d(g, x, weight, bias, c.silu, c.reverse, sequences, state_in,
                                          c.state_out ? &state : nullptr);
    return scalar_of_both(g, c.output ? y : Var{}, c.k > 1 ? state : Var{});
  });
}

TEST(Gradcheck, CausalConv1d) {
  check_conv({});
  check_conv({.name = "width 1", .k = 1, .state_in = false, .state_out = false});
  check_conv({.name = "width 2", .k = 2});
  check_conv({.name = "width 5", .k = 5});
  check_conv({.name = "wider than the sequence", .k = 12});
  check_conv({.name = "no bias", .bias = false});
  check_conv({.name = "no silu", .silu = false});
  check_conv({.name = "reverse", .reverse = true});
  check_conv({.name = "no states", .state_in = false, .state_out = false});
  check_conv({.name = "state out only", .state_in = false});
  check_conv({.name = "output not used", .output = false});
  check_conv({.name = "resets", .resets = true});
  check_conv({.name = "resets in reverse", .reverse = true, .resets = true});
  check_conv({.name = "packed, one shorter than the kernel, one empty", .borders = {0, 2, 2, 9}});
  check_conv({.name = "packed in reverse with resets", .reverse = true, .borders = {0, 6, 9}, .resets = true});
}

// Gradients of all inputs that the case has.
void check_scan(ScanCase c, bool output = true) {
  c.b = c.borders.empty() ? 2 : 1;
  c.l = 7;
  c.d = 4;
  c.n = 3;
  c.dt_mean = c.dt_softplus ? -0.5 : 1;  // dt > 0 without softplus too, or the state grows
  const ScanProblem p = make_scan(c, DType::kF64);
  autograd::SelectiveScanVars vars;
  std::vector<Var> inputs;
  const auto parameter = [&](const Tensor& value, bool used = true) {
    if (!value.defined()) return Var{};
    Var var(value.clone(), true);
    if (used) inputs.push_back(var);
    return var;
  };
  vars.u = parameter(p.args.u);
  vars.dt = parameter(p.args.dt);
  vars.A = parameter(p.args.A);
  vars.B = parameter(p.args.B);
  vars.C = parameter(p.args.C, output);
  vars.D = parameter(p.args.D, output);
  vars.z = parameter(p.args.z, output);
  vars.dt_bias = parameter(p.args.dt_bias);
  vars.state_in = parameter(p.args.state_in);
  const Sequences sequences{p.args.cu_seqlens, p.args.resets};
  expect_gradients(c.name, inputs, [&](Graph& g) {
    Var state;
    const Var y =
        autograd::selective_scan(g, vars, c.dt_softplus, c.reverse, sequences, c.grad_state ? &state : nullptr);
    return scalar_of_both(g, output ? y : Var{}, state);
  });
}

TEST(Gradcheck, SelectiveScanReal) {
  check_scan({});
  check_scan({.name = "plain", .D = false, .z = false, .dt_bias = false, .state = false, .grad_state = false});
  check_scan({.name = "no softplus", .dt_softplus = false, .dt_scale = 0.1});
  check_scan({.name = "no z", .z = false});
  check_scan({.name = "no D", .D = false});
  check_scan({.name = "no bias", .dt_bias = false});
  check_scan({.name = "no states", .state = false, .grad_state = false});
  check_scan({.name = "B constant", .B_groups = 0});
  check_scan({.name = "C constant", .C_groups = 0});
  check_scan({.name = "both constant", .B_groups = 0, .C_groups = 0});
  check_scan({.name = "B grouped", .B_groups = 2});
  check_scan({.name = "C grouped, B constant", .B_groups = 0, .C_groups = 4});
  check_scan({.name = "one group of rank 4", .grouped_rank = true});
  check_scan({.name = "state only"}, false);
}

TEST(Gradcheck, SelectiveScanComplex) {
  check_scan({.name = "complex", .is_complex = true});
  check_scan({.name = "complex constant", .B_groups = 0, .C_groups = 0, .is_complex = true});
  check_scan({.name = "complex grouped", .B_groups = 2, .C_groups = 2, .is_complex = true});
  check_scan({.name = "complex mixed", .B_groups = 0, .C_groups = 2, .is_complex = true});
  check_scan({.name = "complex reverse", .is_complex = true, .reverse = true});
  check_scan({.name = "complex packed", .is_complex = true, .borders = {0, 3, 3, 7}});
}

TEST(Gradcheck, SelectiveScanSequences) {
  check_scan({.name = "reverse", .reverse = true});
  check_scan({.name = "resets", .resets = {2, 3}});
  check_scan({.name = "resets in reverse", .reverse = true, .resets = {5}});
  check_scan({.name = "packed", .borders = {0, 4, 7}});
  check_scan({.name = "packed, grouped, reverse, resets",
              .B_groups = 2,
              .reverse = true,
              .borders = {0, 1, 5, 7},
              .resets = {3}});
}

}  // namespace
}  // namespace coluber::testing
