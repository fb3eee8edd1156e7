// The ops on torch tensors, in the layouts of the published packages: channels (b,d,l) where ops.h has (b,l,d).
// Arguments are positional, so that a call on small tensors costs little. `resets` (b,l) u8 marks first tokens.
#include <string>
#include <string_view>
#include <vector>

#include "coluber/ops.h"
#include "src/torch_tensors.h"

namespace coluber::python {
namespace {

[[noreturn]] void refuse_shape(std::string_view op, std::string_view name, std::string_view expected,
                               const Shape& got) {
  throw Error(ErrorCode::kInvalidArgument, std::string(op),
              std::string(name) + ": expected " + std::string(expected) + ", got " + got.to_string());
}

Tensor zeros_like(const Tensor& tensor) {
  return Tensor::zeros(tensor.shape(), tensor.dtype(), tensor.device());
}

// (b,d,l) <-> (b,l,d), a view.
Tensor swapped(const Tensor& tensor) {
  return tensor.defined() ? tensor.transpose(1, 2) : tensor;
}

// A result like (b,l,d), as torch gets it: (b,d,l), with channels as neighbours in memory.
ExpectedResult channels_first(const Tensor& like) {
  const std::int64_t b = like.size(0), l = like.size(1), d = like.size(2);
  return {like, {b, d, l}, {l * d, 1, d}};
}

Tensor channels_last(std::string_view op, const Tensor& tensor, std::string_view name) {
  if (tensor.defined() && tensor.rank() != 3) refuse_shape(op, name, "(b,d,l)", tensor.shape());
  return swapped(tensor);
}

// DLPack says nothing of torch's lazy conjugation.
nb::object resolved(nb::handle tensor) {
  return is_complex(tensor) ? nb::object(tensor.attr("resolve_conj")()) : nb::borrow(tensor);
}

// The forms of B and C: constant (d,n), variable (b,n,l), grouped (b,g,n,l). For a complex A a constant one is complex
// and the others interleave re and im along l.
struct Matrix {
  nb::handle given;
  bool complex = false;  // A is complex
  bool constant = false;

  Matrix(nb::handle matrix, bool complex_A) : given(matrix), complex(complex_A) {}

  Tensor to_op(const Borrower& from, std::string_view name) {
    Tensor t = from(complex ? resolved(given) : nb::borrow(given), name);
    if (!t.defined()) return t;
    constant = complex ? is_complex(given) : t.rank() == 2;
    if (constant) return t;
    if (t.rank() != 3 && t.rank() != 4) refuse_shape("selective_scan", name, "(d,n), (b,n,l) or (b,g,n,l)", t.shape());
    if (complex) {
      Shape shape = t.shape(), steps = t.strides();
      const int last = t.rank() - 1;
      if (shape[last] % 2 != 0)
        refuse_shape("selective_scan", name, "re and im interleaved along l (2l of them)", t.shape());
      std::vector<std::int64_t> extents(shape.begin(), shape.end()), strides(steps.begin(), steps.end());
      extents.back() /= 2;
      extents.push_back(2);
      strides.push_back(strides.back());
      strides[static_cast<std::size_t>(last)] *= 2;
      t = t.with_strides(Shape(std::span<const std::int64_t>(extents)), Shape(std::span<const std::int64_t>(strides)));
      return last == 2 ? t.permute({0, 2, 1, 3}) : t.permute({0, 3, 1, 2, 4});
    }
    return t.rank() == 3 ? swapped(t) : t.permute({0, 3, 1, 2});
  }

  nb::object to_torch(const Tensor& grad) const {
    if (!grad.defined()) return nb::none();
    if (constant) return complex ? give_complex(grad) : give(grad);
    if (!complex) return give(grad.rank() == 3 ? swapped(grad) : grad.permute({0, 2, 3, 1}));
    const Tensor t = (grad.rank() == 4 ? grad.permute({0, 2, 1, 3}) : grad.permute({0, 2, 3, 1, 4})).contiguous();
    std::vector<std::int64_t> extents(t.shape().begin(), t.shape().end() - 1);
    extents.back() *= 2;
    return give(t.reshape(Shape(std::span<const std::int64_t>(extents))));
  }
};

constexpr std::string_view kScan = "selective_scan", kConv = "causal_conv1d";

struct Scan {
  bool complex;
  Matrix B, C;
  Borrower from;
  TorchScope scope;
  ops::SelectiveScanArgs args;

  Scan(nb::handle u, nb::handle delta, nb::handle A, nb::handle B_given, nb::handle C_given, nb::handle D, nb::handle z,
       nb::handle delta_bias, bool softplus, nb::handle state_in, nb::handle cu_seqlens, nb::handle resets)
      : complex(is_complex(A)),
        B(B_given, complex),
        C(C_given, complex),
        from(kScan, u, "u", {delta, B_given, C_given, z}),
        scope(from.first()) {
    args.u = channels_last(kScan, from.first(), "u");
    args.dt = channels_last(kScan, from(delta, "delta"), "delta");
    args.A = from.parameter(complex ? resolved(A) : nb::borrow(A), "A");
    args.B = B.to_op(from, "B");
    args.C = C.to_op(from, "C");
    args.D = from.parameter(D, "D");
    args.z = channels_last(kScan, from(z, "z"), "z");
    args.dt_bias = from.parameter(delta_bias, "delta_bias");
    args.dt_softplus = softplus;
    args.state_in = from.parameter(complex ? resolved(state_in) : nb::borrow(state_in), "initial_state");
    args.cu_seqlens = borrow_indices(cu_seqlens, "cu_seqlens");
    args.resets = borrow(resets, "resets");
  }
  nb::object give_state(const Tensor& state) const { return complex ? give_complex(state) : give(state); }
};

// (out in the dtype of u, last state or None, what backward wants or None)
nb::tuple scan_forward(nb::handle u, nb::handle delta, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                       nb::handle z, nb::handle delta_bias, bool softplus, nb::handle state_in, nb::handle cu_seqlens,
                       nb::handle resets, bool want_state, bool want_saved) {
  const Scan scan(u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets);
  const ExpectedResult result = channels_first(scan.args.u);
  Tensor y, state;
  ops::SelectiveScanSaved saved;
  run_on(scan.args.u.device(), [&](Context& ctx) {
    y = ops::selective_scan_forward(ctx, scan.args, want_state ? &state : nullptr, want_saved ? &saved : nullptr);
  });
  return nb::make_tuple(scan.from.give_as_first(swapped(y)), scan.give_state(state), give(saved.checkpoints));
}

// Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, None where there was no input.
nb::tuple scan_backward(nb::handle grad_out, nb::handle grad_state, nb::handle checkpoints, nb::handle u,
                        nb::handle delta, nb::handle A, nb::handle B, nb::handle C, nb::handle D, nb::handle z,
                        nb::handle delta_bias, bool softplus, nb::handle state_in, nb::handle cu_seqlens,
                        nb::handle resets) {
  const Scan scan(u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets);
  const Tensor gy = grad_out.is_none() ? zeros_like(scan.args.u)
                                       : channels_last(kScan, scan.from(grad_out, "grad of out"), "grad of out");
  const Tensor gs =
      scan.from.parameter(scan.complex ? resolved(grad_state) : nb::borrow(grad_state), "grad of the last state");
  ops::SelectiveScanSaved saved{borrow(checkpoints, "checkpoints")};
  ops::SelectiveScanGrads g;
  run_on(gy.device(), [&](Context& ctx) { g = ops::selective_scan_backward(ctx, scan.args, saved, gy, gs); });
  return nb::make_tuple(give(swapped(g.u)), give(swapped(g.dt)), scan.complex ? give_complex(g.A) : give(g.A),
                        scan.B.to_torch(g.B), scan.C.to_torch(g.C), give(g.D), give(swapped(g.z)), give(g.dt_bias),
                        scan.give_state(g.state_in));
}

// One token: u, delta, z, out (b,d), B and C (b,n), (b,g,n) or constant (d,n), which `constant_B` and `constant_C`
// tell.
nb::object scan_step(nb::handle state, nb::handle u, nb::handle delta, nb::handle A, nb::handle B, nb::handle C,
                     nb::handle D, nb::handle z, nb::handle delta_bias, bool softplus) {
  const Borrower from("selective_state_update", u, "x", {delta, B, C, z});
  const TorchScope scope(from.first());
  auto token = [&](const Tensor& tensor) { return tensor.defined() ? tensor.unsqueeze(1) : tensor; };
  ops::SelectiveScanArgs args;
  args.u = token(from.first());
  args.dt = token(from(delta, "dt"));
  args.A = from.parameter(A, "A");
  args.B = token(from(B, "B"));
  args.C = token(from(C, "C"));
  args.D = from.parameter(D, "D");
  args.z = token(from(z, "z"));
  args.dt_bias = from.parameter(delta_bias, "dt_bias");
  args.dt_softplus = softplus;
  const Tensor h = borrow_writable(state, "state");
  Tensor y;
  run_on(h.device(), [&](Context& ctx) { y = ops::selective_scan_step(ctx, args, h); });
  return give_as(y.select(1, 0), u);
}

struct Conv {
  Borrower from;
  TorchScope scope;
  ops::CausalConv1dArgs args;

  Conv(nb::handle x, nb::handle weight, nb::handle bias, bool silu, nb::handle state_in, nb::handle cu_seqlens,
       nb::handle resets)
      : from(kConv, x, "x"), scope(from.first()) {
    args.x = channels_last(kConv, from.first(), "x");
    args.weight = from.parameter(weight, "weight");
    args.bias = from.parameter(bias, "bias");
    args.silu = silu;
    args.state_in = from.parameter(state_in, "initial_states");
    args.cu_seqlens = borrow_indices(cu_seqlens, "cu_seqlens");
    args.resets = borrow(resets, "resets");
  }
};

// (out, final states or None), both in the dtype of x
nb::tuple conv_forward(nb::handle x, nb::handle weight, nb::handle bias, bool silu, nb::handle state_in,
                       nb::handle cu_seqlens, nb::handle resets, bool want_state) {
  const Conv conv(x, weight, bias, silu, state_in, cu_seqlens, resets);
  const ExpectedResult result = channels_first(conv.args.x);
  Tensor y, state;
  run_on(conv.args.x.device(),
         [&](Context& ctx) { y = ops::causal_conv1d_forward(ctx, conv.args, want_state ? &state : nullptr); });
  return nb::make_tuple(conv.from.give_as_first(swapped(y)), give_as(state, x));
}

// Gradients of x, weight, bias and the initial states.
nb::tuple conv_backward(nb::handle grad_out, nb::handle grad_state, nb::handle x, nb::handle weight, nb::handle bias,
                        bool silu, nb::handle state_in, nb::handle cu_seqlens, nb::handle resets) {
  const Conv conv(x, weight, bias, silu, state_in, cu_seqlens, resets);
  const Tensor gy = grad_out.is_none() ? zeros_like(conv.args.x)
                                       : channels_last(kConv, conv.from(grad_out, "grad of out"), "grad of out");
  const Tensor gs = conv.from.parameter(grad_state, "grad of the final states");
  ops::CausalConv1dGrads g;
  run_on(gy.device(), [&](Context& ctx) { g = ops::causal_conv1d_backward(ctx, conv.args, gy, gs); });
  return nb::make_tuple(give(swapped(g.x)), give(g.weight), give(g.bias), give(g.state_in));
}

struct Normed {
  Borrower from;
  TorchScope scope;
  ops::NormArgs args;

  Normed(nb::handle x, nb::handle weight, nb::handle bias, nb::handle residual, bool rms, double eps)
      : from("norm", x, "x"), scope(from.first()) {
    args.x = from.first();
    args.weight = from.parameter(weight, "weight");
    args.bias = from.parameter(bias, "bias");
    args.residual = from.parameter(residual, "residual");
    args.kind = rms ? NormKind::kRms : NormKind::kLayer;
    args.eps = eps;
  }
};

// (y in the dtype of x, x + residual in the dtype of residual, or None without one)
nb::tuple norm_forward(nb::handle x, nb::handle weight, nb::handle bias, nb::handle residual, bool rms, double eps) {
  const Normed norm(x, weight, bias, residual, rms, eps);
  Tensor y, sum;
  run_on(norm.args.x.device(),
         [&](Context& ctx) { y = ops::norm_forward(ctx, norm.args, norm.args.residual.defined() ? &sum : nullptr); });
  return nb::make_tuple(give_as(y, x), residual.is_none() ? nb::none() : give_as(sum, residual));
}

// Gradients of x (and of the residual, which is the same), weight and bias; `x` is what was normalised, on a GPU also
// an f32 sum beside a y of 16 bits.
nb::tuple norm_backward(nb::handle grad_y, nb::handle grad_sum, nb::handle x, nb::handle weight, nb::handle bias,
                        bool rms, double eps) {
  Normed norm(x, weight, bias, nb::none(), rms, eps);
  const bool narrow = !norm.args.x.device().is_cpu() && norm.args.x.dtype() == DType::kF32;
  Tensor gy = narrow ? borrow(grad_y, "grad of y") : norm.from(grad_y, "grad of y");
  if (!gy.defined()) gy = zeros_like(norm.args.x);
  norm.args.out = gy.dtype();
  const Tensor gs = norm.from.parameter(grad_sum, "grad of the residual");
  ops::NormGrads g;
  run_on(gy.device(), [&](Context& ctx) { g = ops::norm_backward(ctx, norm.args, gy, gs); });
  return nb::make_tuple(give(g.x), give(g.weight), give(g.bias));
}

}  // namespace

void bind_torch_ops(nb::module_& m) {
  def_positional(m, "scan_forward", &scan_forward);
  def_positional(m, "scan_backward", &scan_backward);
  def_positional(m, "scan_step", &scan_step);
  def_positional(m, "conv_forward", &conv_forward);
  def_positional(m, "conv_backward", &conv_backward);
  def_positional(m, "norm_forward", &norm_forward);
  def_positional(m, "norm_backward", &norm_backward);
}

}  // namespace coluber::python
