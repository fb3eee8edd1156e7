// Goldens keep channels before tokens, (b,d,l), and tokens last in B and C; ops take (b,l,...), so tensors go in as
// permuted views and gradients come back through the inverse.
#include <algorithm>

#include "coluber/ops.h"
#include "core/check.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

enum class Kind { kConstant, kVariable, kGrouped };  // of B and C

struct Layout {
  bool complex_A = false;
  Kind B = Kind::kVariable, C = Kind::kVariable;
  std::string u, dt, out, state, last_state;  // names, which differ between the two kinds of file
};

Tensor swap_tokens(const Tensor& t) {
  return t.defined() ? t.transpose(1, 2) : t;
}

Kind kind_of(const std::string& word) {
  if (word.rfind("const", 0) == 0) return Kind::kConstant;
  if (word.rfind("var", 0) == 0) return Kind::kVariable;
  if (word.rfind("group", 0) == 0) return Kind::kGrouped;
  refuse(ErrorCode::kUnsupported, "selective_scan", join("B or C of kind ", word));
}

Layout layout_of(const GoldenCase& golden) {
  Layout layout;
  if (golden.has("u")) {
    layout.B = kind_of(golden.options.at("B_kind").get<std::string>());
    layout.C = kind_of(golden.options.at("C_kind").get<std::string>());
    layout.u = "u", layout.dt = "delta", layout.out = "out";
    layout.state = "initial_state", layout.last_state = "last_state";
  } else {
    layout.B = layout.C = kind_of(golden.options.at("bc").get<std::string>());
    layout.u = "x", layout.dt = "dt", layout.out = "y", layout.state = layout.last_state = "state";
  }
  layout.complex_A = required(golden.tensors, "A").rank() == 3;
  return layout;
}

// (b,n,l) -> (b,l,n), (b,g,n,l) -> (b,l,g,n); complex values interleave re, im along l: (b,n,2l) -> (b,l,n,2).
Tensor to_op(const Tensor& x, Kind kind, bool complex) {
  if (kind == Kind::kConstant) return x;
  if (!complex) return kind == Kind::kVariable ? x.transpose(1, 2) : x.permute({0, 3, 1, 2});
  const Tensor c = x.contiguous();
  if (kind == Kind::kVariable) return c.reshape({c.size(0), c.size(1), c.size(2) / 2, 2}).permute({0, 2, 1, 3});
  return c.reshape({c.size(0), c.size(1), c.size(2), c.size(3) / 2, 2}).permute({0, 3, 1, 2, 4});
}

Tensor from_op(const Tensor& x, Kind kind, bool complex) {
  if (kind == Kind::kConstant) return x;
  if (!complex) return kind == Kind::kVariable ? x.transpose(1, 2) : x.permute({0, 2, 3, 1});
  return (kind == Kind::kVariable ? x.permute({0, 2, 1, 3}) : x.permute({0, 2, 3, 1, 4})).contiguous();
}

ops::SelectiveScanArgs arguments(const GoldenCase& golden, const Layout& layout, const Tensors& in) {
  ops::SelectiveScanArgs args;
  args.u = swap_tokens(required(in, layout.u));
  args.dt = swap_tokens(required(in, layout.dt));
  args.A = required(in, "A");
  args.B = to_op(required(in, "B"), layout.B, layout.complex_A);
  args.C = to_op(required(in, "C"), layout.C, layout.complex_A);
  args.D = optional_tensor(in, "D");
  args.z = swap_tokens(optional_tensor(in, "z"));
  args.dt_bias = optional_tensor(in, "delta_bias");
  args.dt_softplus = golden.flag("delta_softplus");
  args.reverse = golden.flag("reverse");
  args.state_in = optional_tensor(in, layout.state);
  args.cu_seqlens = optional_tensor(in, "cu_seqlens");
  args.resets = optional_tensor(in, "resets");
  return args;
}

Tensor token(const Tensor& x, std::int64_t t, Kind kind) {
  return kind == Kind::kConstant ? x : x.slice(1, t, t + 1);
}

// Token by token through the step kernel.
void append_steps(Context& ctx, const Layout& layout, const ops::SelectiveScanArgs& args, const Shape& state_shape,
                  double terms, std::vector<Output>& outputs) {
  const std::int64_t l = args.u.size(1);
  const Tensor state =
      args.state_in.defined() ? args.state_in.clone() : Tensor::zeros(state_shape, args.u.dtype(), args.u.device());
  const Tensor y = Tensor::empty(args.u.shape(), args.u.dtype(), args.u.device());
  for (std::int64_t t = 0; t < l; ++t) {
    ops::SelectiveScanArgs one = args;
    one.u = args.u.slice(1, t, t + 1);
    one.dt = args.dt.slice(1, t, t + 1);
    one.B = token(args.B, t, layout.B);
    one.C = token(args.C, t, layout.C);
    if (args.z.defined()) one.z = args.z.slice(1, t, t + 1);
    one.state_in = {};
    y.slice(1, t, t + 1).copy_from(ops::selective_scan_step(ctx, one, state));
  }
  outputs.push_back({"step/" + layout.out, "out/" + layout.out, swap_tokens(y), terms});
  outputs.push_back({"step/" + layout.last_state, "out/" + layout.last_state, state, terms});
}

std::vector<Output> run(Context& ctx, const GoldenCase& golden, const Layout& layout, const Tensors& in) {
  const ops::SelectiveScanArgs args = arguments(golden, layout, in);
  const bool complex = layout.complex_A;
  const double b = static_cast<double>(args.u.size(0)), l = static_cast<double>(args.u.size(1));
  const double d = static_cast<double>(args.u.size(2)), n = static_cast<double>(args.A.size(1));
  const double forward = l + n + 8;     // the recurrence, the sum over n, softplus and gate
  const double backward = 2 * forward;  // and the same back again
  Tensor state_out;
  ops::SelectiveScanSaved saved;
  const Tensor y = ops::selective_scan_forward(ctx, args, &state_out, &saved);
  std::vector<Output> outputs = {
      {"out/" + layout.out, "out/" + layout.out, swap_tokens(y), forward},
      {"out/" + layout.last_state, "out/" + layout.last_state, state_out, forward},
  };
  const ops::SelectiveScanGrads grads =
      ops::selective_scan_backward(ctx, args, saved, swap_tokens(required(in, "cot/" + layout.out)),
                                   optional_tensor(in, "cot/" + layout.last_state));
  const auto add = [&](const std::string& name, const Tensor& grad, double terms) {
    outputs.push_back({"grad/" + name, "grad/" + name, grad, terms});
  };
  add(layout.u, swap_tokens(grads.u), backward);
  add(layout.dt, swap_tokens(grads.dt), backward);
  add("A", grads.A, backward + b * l);
  add("B", from_op(grads.B, layout.B, complex), backward + (layout.B == Kind::kConstant ? b * l : d));
  add("C", from_op(grads.C, layout.C, complex), backward + (layout.C == Kind::kConstant ? b * l : d));
  if (args.D.defined()) add("D", grads.D, backward + b * l);
  if (args.z.defined()) add("z", swap_tokens(grads.z), backward);
  if (args.dt_bias.defined()) add("delta_bias", grads.dt_bias, backward + b * l);
  if (args.state_in.defined()) add(layout.state, grads.state_in, backward);
  if (!args.reverse && !args.cu_seqlens.defined() && !args.resets.defined()) {
    append_steps(ctx, layout, args, state_out.shape(), forward, outputs);
  }
  return outputs;
}

}  // namespace

Experiment selective_scan_experiment(const GoldenCase& golden) {
  check_inputs_known(golden, {"u", "delta", "x", "dt", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "state",
                              "cu_seqlens", "resets"});
  const Layout layout = layout_of(golden);
  Experiment experiment;
  experiment.run = [golden, layout](Context& ctx, const Tensors& in) { return run(ctx, golden, layout, in); };
  return experiment;
}

}  // namespace coluber::selftest
