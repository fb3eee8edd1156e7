// The operators as explicit pairs: <op>_forward, <op>_backward and <op>_step, over any arrays. python/coluber/ops.py
// gives results back in the caller's kind of array; coluber.torch makes differentiable functions of them.
#include "src/ops.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "coluber/ops.h"
#include "src/arrays.h"
#include "src/token_ids.h"

namespace coluber::python {
namespace {

// Runs f(ctx) without the GIL.
template <class F>
auto run(std::string_view algorithm, F&& f) {
  const Algorithm chosen = algorithm_from(algorithm);
  const nb::gil_scoped_release released;
  const ContextLease lease(chosen);
  return f(*lease);
}

NormKind norm_kind(std::string_view name) {
  if (name == "rms") return NormKind::kRms;
  if (name == "layer") return NormKind::kLayer;
  throw Error(ErrorCode::kInvalidArgument, "norm", "kind: expected rms or layer, got " + std::string(name));
}

DType compute_dtype(std::string_view name) {
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  throw Error(ErrorCode::kInvalidArgument, "linear", "compute: expected f32 or bf16, got " + std::string(name));
}

// Whether the memory between the first and the last element of one reaches into that of the other.
bool spans_meet(const Tensor& one, const Tensor& other) {
  const auto span_of = [](const Tensor& t) {
    const auto* begin = static_cast<const char*>(t.raw());
    const char* end = begin + dtype_size(t.dtype());
    for (int axis = 0; axis < t.rank(); ++axis) {
      const std::int64_t reach = (t.size(axis) - 1) * t.stride(axis) * dtype_size(t.dtype());
      (reach < 0 ? begin : end) += reach;
    }
    return std::pair(begin, end);
  };
  if (one.numel() == 0 || other.numel() == 0) return false;
  const auto [a, a_end] = span_of(one);
  const auto [b, b_end] = span_of(other);
  return std::less<>()(a, b_end) && std::less<>()(b, a_end);
}

// The gradient counterpart of a list of inputs: a tuple with None where the input was None.
template <class... Tensors>
nb::tuple arrays_of(const Tensors&... tensors) {
  return nb::make_tuple(array_of(tensors)...);
}

// cu_seqlens of any integers; undefined for None.
Tensor borders_from(nb::handle cu_seqlens) {
  return cu_seqlens.is_none() ? Tensor{} : ids_from(cu_seqlens, "cu_seqlens");
}

// A step reads its inputs while it writes the state.
void check_apart(std::string_view op, const Tensor& state, std::initializer_list<const Tensor*> inputs) {
  for (const Tensor* input : inputs) {
    if (state.defined() && input->defined() && spans_meet(state, *input)) {
      throw Error(ErrorCode::kInvalidArgument, std::string(op),
                  "state: expected memory of its own, got some that an input of the step lies in, too (copy it)");
    }
  }
}

ops::SelectiveScanArgs scan_args(nb::handle u, nb::handle dt, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                                 nb::handle z, nb::handle dt_bias, bool dt_softplus, bool reverse, nb::handle state_in,
                                 nb::handle cu_seqlens, nb::handle resets) {
  return {.u = tensor_from(u, "u"),
          .dt = tensor_from(dt, "dt"),
          .A = tensor_from(A, "A"),
          .B = tensor_from(B, "B"),
          .C = tensor_from(C, "C"),
          .D = tensor_from(D, "D"),
          .z = tensor_from(z, "z"),
          .dt_bias = tensor_from(dt_bias, "dt_bias"),
          .dt_softplus = dt_softplus,
          .reverse = reverse,
          .state_in = tensor_from(state_in, "state_in"),
          .cu_seqlens = borders_from(cu_seqlens),
          .resets = tensor_from(resets, "resets")};
}

nb::tuple scan_forward(nb::handle u, nb::handle dt, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                       nb::handle z, nb::handle dt_bias, bool dt_softplus, bool reverse, nb::handle state_in,
                       nb::handle cu_seqlens, nb::handle resets, bool want_state, bool want_saved,
                       std::string_view algorithm) {
  const ops::SelectiveScanArgs args =
      scan_args(u, dt, A, B, C, D, z, dt_bias, dt_softplus, reverse, state_in, cu_seqlens, resets);
  Tensor state_out, y;
  ops::SelectiveScanSaved saved;
  run(algorithm, [&](Context& ctx) {
    y = ops::selective_scan_forward(ctx, args, want_state ? &state_out : nullptr, want_saved ? &saved : nullptr);
  });
  return arrays_of(y, state_out, saved.checkpoints);
}

nb::tuple scan_backward(nb::handle grad_y, nb::handle u, nb::handle dt, nb::handle A, nb::handle B, nb::handle C,
                        nb::handle D, nb::handle z, nb::handle dt_bias, bool dt_softplus, bool reverse,
                        nb::handle state_in, nb::handle cu_seqlens, nb::handle resets, nb::handle grad_state_out,
                        nb::handle checkpoints, std::string_view algorithm) {
  const ops::SelectiveScanArgs args =
      scan_args(u, dt, A, B, C, D, z, dt_bias, dt_softplus, reverse, state_in, cu_seqlens, resets);
  const Tensor gy = tensor_from(grad_y, "grad_y"), gs = tensor_from(grad_state_out, "grad_state_out");
  ops::SelectiveScanSaved saved{tensor_from(checkpoints, "checkpoints")};
  ops::SelectiveScanGrads g;
  run(algorithm, [&](Context& ctx) {
    if (!saved.checkpoints.defined()) ops::selective_scan_forward(ctx, args, nullptr, &saved);
    g = ops::selective_scan_backward(ctx, args, saved, gy, gs);
  });
  return arrays_of(g.u, g.dt, g.A, g.B, g.C, g.D, g.z, g.dt_bias, g.state_in);
}

nb::object scan_step(nb::handle state, nb::handle u, nb::handle dt, nb::handle A, nb::handle B, nb::handle C,
                     nb::handle D, nb::handle z, nb::handle dt_bias, bool dt_softplus, std::string_view algorithm) {
  const ops::SelectiveScanArgs args =
      scan_args(u, dt, A, B, C, D, z, dt_bias, dt_softplus, false, nb::none(), nb::none(), nb::none());
  const Tensor h = writable_from(state, "state");
  check_apart("selective_scan", h, {&args.u, &args.dt, &args.A, &args.B, &args.C, &args.D, &args.z, &args.dt_bias});
  return array_of(run(algorithm, [&](Context& ctx) { return ops::selective_scan_step(ctx, args, h); }));
}

ops::CausalConv1dArgs conv_args(nb::handle x, nb::handle weight, nb::handle bias, bool silu, bool reverse,
                                nb::handle state_in, nb::handle cu_seqlens, nb::handle resets) {
  return {.x = tensor_from(x, "x"),
          .weight = tensor_from(weight, "weight"),
          .bias = tensor_from(bias, "bias"),
          .silu = silu,
          .reverse = reverse,
          .state_in = tensor_from(state_in, "state_in"),
          .cu_seqlens = borders_from(cu_seqlens),
          .resets = tensor_from(resets, "resets")};
}

nb::tuple conv_forward(nb::handle x, nb::handle weight, nb::handle bias, bool silu, bool reverse, nb::handle state_in,
                       nb::handle cu_seqlens, nb::handle resets, bool want_state, std::string_view algorithm) {
  const ops::CausalConv1dArgs args = conv_args(x, weight, bias, silu, reverse, state_in, cu_seqlens, resets);
  Tensor state_out, y;
  run(algorithm, [&](Context& ctx) { y = ops::causal_conv1d_forward(ctx, args, want_state ? &state_out : nullptr); });
  return arrays_of(y, state_out);
}

nb::tuple conv_backward(nb::handle grad_y, nb::handle x, nb::handle weight, nb::handle bias, bool silu, bool reverse,
                        nb::handle state_in, nb::handle cu_seqlens, nb::handle resets, nb::handle grad_state_out,
                        std::string_view algorithm) {
  const ops::CausalConv1dArgs args = conv_args(x, weight, bias, silu, reverse, state_in, cu_seqlens, resets);
  const Tensor gy = tensor_from(grad_y, "grad_y"), gs = tensor_from(grad_state_out, "grad_state_out");
  const ops::CausalConv1dGrads g =
      run(algorithm, [&](Context& ctx) { return ops::causal_conv1d_backward(ctx, args, gy, gs); });
  return arrays_of(g.x, g.weight, g.bias, g.state_in);
}

nb::object conv_step(nb::handle state, nb::handle x, nb::handle weight, nb::handle bias, bool silu,
                     std::string_view algorithm) {
  const ops::CausalConv1dArgs args = conv_args(x, weight, bias, silu, false, nb::none(), nb::none(), nb::none());
  const Tensor window = writable_from(state, "state");
  check_apart("causal_conv1d", window, {&args.x, &args.weight, &args.bias});
  return array_of(run(algorithm, [&](Context& ctx) { return ops::causal_conv1d_step(ctx, args, window); }));
}

ops::NormArgs norm_args(nb::handle x, nb::handle weight, nb::handle bias, nb::handle residual, nb::handle z,
                        std::string_view kind, double eps, bool norm_before_gate, std::int64_t group_size) {
  return {.x = tensor_from(x, "x"),
          .weight = tensor_from(weight, "weight"),
          .bias = tensor_from(bias, "bias"),
          .residual = tensor_from(residual, "residual"),
          .z = tensor_from(z, "z"),
          .kind = norm_kind(kind),
          .eps = eps,
          .norm_before_gate = norm_before_gate,
          .group_size = group_size};
}

nb::tuple norm_forward(nb::handle x, nb::handle weight, nb::handle bias, nb::handle residual, nb::handle z,
                       std::string_view kind, double eps, bool norm_before_gate, std::int64_t group_size,
                       bool want_residual, std::string_view algorithm) {
  const ops::NormArgs args = norm_args(x, weight, bias, residual, z, kind, eps, norm_before_gate, group_size);
  Tensor residual_out, y;
  run(algorithm, [&](Context& ctx) { y = ops::norm_forward(ctx, args, want_residual ? &residual_out : nullptr); });
  return arrays_of(y, residual_out);
}

nb::tuple norm_backward(nb::handle grad_y, nb::handle x, nb::handle weight, nb::handle bias, nb::handle residual,
                        nb::handle z, std::string_view kind, double eps, bool norm_before_gate, std::int64_t group_size,
                        nb::handle grad_residual_out, std::string_view algorithm) {
  const ops::NormArgs args = norm_args(x, weight, bias, residual, z, kind, eps, norm_before_gate, group_size);
  const Tensor gy = tensor_from(grad_y, "grad_y"), gr = tensor_from(grad_residual_out, "grad_residual_out");
  const ops::NormGrads g = run(algorithm, [&](Context& ctx) { return ops::norm_backward(ctx, args, gy, gr); });
  return arrays_of(g.x, g.weight, g.bias, g.z);
}

nb::object linear_forward(nb::handle x, nb::handle weight, nb::handle bias, std::string_view compute,
                          std::string_view algorithm) {
  const ops::LinearArgs args{tensor_from(x, "x"), tensor_from(weight, "weight"), tensor_from(bias, "bias"),
                             compute_dtype(compute)};
  return array_of(run(algorithm, [&](Context& ctx) { return ops::linear_forward(ctx, args); }));
}

nb::tuple linear_backward(nb::handle grad_y, nb::handle x, nb::handle weight, nb::handle bias, std::string_view compute,
                          std::string_view algorithm) {
  const ops::LinearArgs args{tensor_from(x, "x"), tensor_from(weight, "weight"), tensor_from(bias, "bias"),
                             compute_dtype(compute)};
  const Tensor gy = tensor_from(grad_y, "grad_y");
  const ops::LinearGrads g = run(algorithm, [&](Context& ctx) { return ops::linear_backward(ctx, args, gy); });
  return arrays_of(g.x, g.weight, g.bias);
}

nb::object embedding_forward(nb::handle ids, nb::handle table, std::string_view algorithm) {
  const Tensor rows = ids_from(ids, "ids"), t = tensor_from(table, "table");
  const DType out = t.dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  return array_of(run(algorithm, [&](Context& ctx) { return ops::embedding_forward(ctx, rows, t, out); }));
}

nb::object embedding_backward(nb::handle grad_y, nb::handle ids, std::int64_t num_rows, std::string_view algorithm) {
  const Tensor gy = tensor_from(grad_y, "grad_y"), rows = ids_from(ids, "ids");
  if (gy.rank() < 1)
    throw Error(ErrorCode::kInvalidArgument, "embedding", "grad_y: expected (...,m), got " + gy.shape().to_string());
  const Tensor grad_table =
      Tensor::zeros({num_rows, gy.size(-1)}, gy.device().is_cpu() ? gy.dtype() : DType::kF32, gy.device());
  run(algorithm, [&](Context& ctx) { ops::embedding_backward(ctx, rows, gy, grad_table); });
  return array_of(grad_table);
}

nb::tuple linear_cross_entropy(nb::handle x, nb::handle weight, nb::handle targets, nb::handle bias,
                               std::string_view compute, bool want_grad, std::string_view algorithm) {
  const ops::LinearCrossEntropyArgs args{tensor_from(x, "x"), tensor_from(weight, "weight"), tensor_from(bias, "bias"),
                                         ids_from(targets, "targets"), compute_dtype(compute)};
  const ops::LinearCrossEntropyOut out =
      run(algorithm, [&](Context& ctx) { return ops::linear_cross_entropy(ctx, args, want_grad); });
  return nb::make_tuple(out.loss, out.num_tokens, array_of(out.grad_x), array_of(out.grad_weight),
                        array_of(out.grad_bias));
}

}  // namespace

void bind_ops(nb::module_& m) {
  using nb::arg;
  const nb::object none = nb::none();
  m.def("selective_scan_forward", &scan_forward, arg("u").none(), arg("dt").none(), arg("A").none(), arg("B").none(),
        arg("C").none(), arg("D").none() = none, arg("z").none() = none, arg("dt_bias").none() = none,
        arg("dt_softplus") = false, arg("reverse") = false, arg("state_in").none() = none,
        arg("cu_seqlens").none() = none, arg("resets").none() = none, arg("want_state") = false,
        arg("want_saved") = false, arg("algorithm") = "auto");
  m.def("selective_scan_backward", &scan_backward, arg("grad_y").none(), arg("u").none(), arg("dt").none(),
        arg("A").none(), arg("B").none(), arg("C").none(), arg("D").none() = none, arg("z").none() = none,
        arg("dt_bias").none() = none, arg("dt_softplus") = false, arg("reverse") = false, arg("state_in").none() = none,
        arg("cu_seqlens").none() = none, arg("resets").none() = none, arg("grad_state_out").none() = none,
        arg("checkpoints").none() = none, arg("algorithm") = "auto");
  m.def("selective_scan_step", &scan_step, arg("state").none(), arg("u").none(), arg("dt").none(), arg("A").none(),
        arg("B").none(), arg("C").none(), arg("D").none() = none, arg("z").none() = none, arg("dt_bias").none() = none,
        arg("dt_softplus") = false, arg("algorithm") = "auto");
  m.def("causal_conv1d_forward", &conv_forward, arg("x").none(), arg("weight").none(), arg("bias").none() = none,
        arg("silu") = false, arg("reverse") = false, arg("state_in").none() = none, arg("cu_seqlens").none() = none,
        arg("resets").none() = none, arg("want_state") = false, arg("algorithm") = "auto");
  m.def("causal_conv1d_backward", &conv_backward, arg("grad_y").none(), arg("x").none(), arg("weight").none(),
        arg("bias").none() = none, arg("silu") = false, arg("reverse") = false, arg("state_in").none() = none,
        arg("cu_seqlens").none() = none, arg("resets").none() = none, arg("grad_state_out").none() = none,
        arg("algorithm") = "auto");
  m.def("causal_conv1d_step", &conv_step, arg("state").none(), arg("x").none(), arg("weight").none(),
        arg("bias").none() = none, arg("silu") = false, arg("algorithm") = "auto");
  m.def("norm_forward", &norm_forward, arg("x").none(), arg("weight").none() = none, arg("bias").none() = none,
        arg("residual").none() = none, arg("z").none() = none, arg("kind") = "rms", arg("eps") = 1e-5,
        arg("norm_before_gate") = false, arg("group_size") = 0, arg("want_residual") = false,
        arg("algorithm") = "auto");
  m.def("norm_backward", &norm_backward, arg("grad_y").none(), arg("x").none(), arg("weight").none() = none,
        arg("bias").none() = none, arg("residual").none() = none, arg("z").none() = none, arg("kind") = "rms",
        arg("eps") = 1e-5, arg("norm_before_gate") = false, arg("group_size") = 0,
        arg("grad_residual_out").none() = none, arg("algorithm") = "auto");
  m.def("linear_forward", &linear_forward, arg("x").none(), arg("weight").none(), arg("bias").none() = none,
        arg("compute") = "f32", arg("algorithm") = "auto");
  m.def("linear_backward", &linear_backward, arg("grad_y").none(), arg("x").none(), arg("weight").none(),
        arg("bias").none() = none, arg("compute") = "f32", arg("algorithm") = "auto");
  m.def("embedding_forward", &embedding_forward, arg("ids").none(), arg("table").none(), arg("algorithm") = "auto");
  m.def("embedding_backward", &embedding_backward, arg("grad_y").none(), arg("ids").none(), arg("num_rows"),
        arg("algorithm") = "auto");
  m.def("linear_cross_entropy", &linear_cross_entropy, arg("x").none(), arg("weight").none(), arg("targets").none(),
        arg("bias").none() = none, arg("compute") = "f32", arg("want_grad") = false, arg("algorithm") = "auto");
}

}  // namespace coluber::python
