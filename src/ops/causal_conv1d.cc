// causal_conv1d: checks, layouts and the choice of kernel.
#include "kernels/causal_conv1d.h"

#include <functional>
#include <utility>
#include <vector>

#include "coluber/ops.h"
#include "kernels/reference/causal_conv1d.h"
#include "ops/op_check.h"
#include "ops/sequences.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "causal_conv1d";

// Everything that a call needs, kept alive while the kernel runs.
struct Prepared {
  std::int64_t b = 0, l = 0, d = 0, k = 0, slots = 0;
  Tensor x, bias, resets;
  std::vector<SequenceRange> sequences;
};

// Fast kernels read channels as vectors.
Tensor with_unit_stride(const Tensor& t) {
  return !t.defined() || t.size(-1) <= 1 || t.stride(-1) == 1 ? t : t.clone();
}

bool use_reference(const Context& ctx, DType dtype) {
  return dtype == DType::kF64 || ctx.algorithm() == Algorithm::kReference;
}

void check_float(std::string_view name, const Tensor& t, DType dtype) {
  if (t.defined()) check_dtype(kOp, name, t, dtype);
}

Prepared prepare(const Context& ctx, const CausalConv1dArgs& args) {
  check_shape(kOp, "x", args.x, {-1, -1, -1});
  const DType dtype = args.x.dtype();
  if (dtype != DType::kF32 && dtype != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of x", "f32 or f64", dtype_name(dtype));
  }
  Prepared p;
  p.b = args.x.size(0);
  p.l = args.x.size(1);
  p.d = args.x.size(2);
  check_shape(kOp, "weight", args.weight, {p.d, -1});
  p.k = args.weight.size(1);
  if (p.k < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "taps (second axis of weight)", "1 or more", std::to_string(p.k));
  }
  check_float("weight", args.weight, dtype);
  if (args.bias.defined()) check_shape(kOp, "bias", args.bias, {p.d});
  check_float("bias", args.bias, dtype);
  p.sequences = sequence_ranges(kOp, p.b, p.l, args.cu_seqlens);
  p.slots = static_cast<std::int64_t>(p.sequences.size());
  if (args.state_in.defined()) check_shape(kOp, "state_in", args.state_in, {p.slots, p.d, p.k - 1});
  check_float("state_in", args.state_in, dtype);
  p.resets = checked_resets(kOp, args.resets, p.b, p.l);
  p.x = use_reference(ctx, dtype) ? args.x : with_unit_stride(args.x);
  p.bias = args.bias.defined() ? args.bias.contiguous() : args.bias;
  return p;
}

template <class T>
CausalConv1dParams<T> to_params(const CausalConv1dArgs& args, const Prepared& p) {
  CausalConv1dParams<T> k;
  k.d = p.d;
  k.k = p.k;
  k.silu = args.silu;
  k.reverse = args.reverse;
  k.x = view_of<const T, 3>(p.x);
  k.weight = view_of<const T, 2>(args.weight);
  k.bias = p.bias.defined() ? p.bias.data<T>() : nullptr;
  k.resets = view_of<const std::uint8_t, 2>(p.resets);
  k.sequences = p.sequences.data();
  k.num_sequences = p.slots;
  k.state_in = view_of<const T, 3>(args.state_in);
  return k;
}

// Kernels may write over their input only when both are the same view.
bool overlaps_partly(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.numel() == 0) return false;
  if (a.raw() == b.raw() && a.strides() == b.strides()) return false;
  auto bounds = [](const Tensor& t) {
    std::int64_t low = 0, high = dtype_size(t.dtype());
    for (int axis = 0; axis < t.rank(); ++axis) {
      const std::int64_t reach = (t.size(axis) - 1) * t.stride(axis) * dtype_size(t.dtype());
      (reach < 0 ? low : high) += reach;
    }
    const auto* base = static_cast<const std::byte*>(t.raw());
    return std::pair(base + low, base + high);
  };
  const auto [a_low, a_high] = bounds(a);
  const auto [b_low, b_high] = bounds(b);
  return std::less<>{}(a_low, b_high) && std::less<>{}(b_low, a_high);
}

void check_grad(std::string_view name, const Tensor& grad, const Shape& shape, DType dtype) {
  if (!(grad.defined() && grad.shape() == shape)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + shape.to_string(),
                 grad.defined() ? grad.shape().to_string() : "no tensor");
  }
  check_dtype(kOp, name, grad, dtype);
}

}  // namespace

Tensor causal_conv1d_forward(Context& ctx, const CausalConv1dArgs& args, Tensor* state_out) {
  CausalConv1dArgs call = args;
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype();
  const Tensor y = Tensor::empty(args.x.shape(), dtype);
  if (state_out != nullptr) {
    const Shape shape{p.slots, p.d, p.k - 1};
    if (!state_out->defined()) *state_out = Tensor::empty(shape, dtype);
    check_grad("state_out", *state_out, shape, dtype);
    if (overlaps_partly(*state_out, args.state_in)) call.state_in = args.state_in.clone();
  }
  auto run = [&](auto zero, auto&& kernel) {
    using T = decltype(zero);
    CausalConv1dParams<T> k = to_params<T>(call, p);
    k.y = view_of<T, 3>(y);
    if (state_out != nullptr) k.state_out = view_of<T, 3>(*state_out);
    kernel(k);
  };
  if (dtype == DType::kF64) {
    run(0.0, [](const auto& k) { reference::causal_conv1d_forward(k); });
  } else if (use_reference(ctx, dtype)) {
    run(0.0f, [](const auto& k) { reference::causal_conv1d_forward(k); });
  } else {
    run(0.0f, [&](const auto& k) { cpu::causal_conv1d_forward(ctx.threads(), ctx.scratch(), k); });
  }
  return y;
}

CausalConv1dGrads causal_conv1d_backward(Context& ctx, const CausalConv1dArgs& args, const Tensor& grad_y,
                                         const Tensor& grad_state_out) {
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype();
  check_grad("grad_y", grad_y, args.x.shape(), dtype);
  if (grad_state_out.defined()) check_grad("grad_state_out", grad_state_out, {p.slots, p.d, p.k - 1}, dtype);
  CausalConv1dGrads grads;
  grads.x = Tensor::empty(args.x.shape(), dtype);
  grads.weight = Tensor::empty(args.weight.shape(), dtype);
  if (args.bias.defined()) grads.bias = Tensor::empty(args.bias.shape(), dtype);
  if (args.state_in.defined()) grads.state_in = Tensor::empty(args.state_in.shape(), dtype);
  const Tensor gy = use_reference(ctx, dtype) ? grad_y : with_unit_stride(grad_y);
  auto run = [&](auto zero, auto&& kernel) {
    using T = decltype(zero);
    CausalConv1dGradParams<T> g;
    g.grad_y = view_of<const T, 3>(gy);
    g.grad_state_out = view_of<const T, 3>(grad_state_out);
    g.grad_x = view_of<T, 3>(grads.x);
    g.grad_weight = view_of<T, 2>(grads.weight);
    g.grad_bias = grads.bias.defined() ? grads.bias.data<T>() : nullptr;
    g.grad_state_in = view_of<T, 3>(grads.state_in);
    kernel(to_params<T>(args, p), g);
  };
  if (dtype == DType::kF64) {
    run(0.0, [](const auto& k, const auto& g) { reference::causal_conv1d_backward(k, g); });
  } else if (use_reference(ctx, dtype)) {
    run(0.0f, [](const auto& k, const auto& g) { reference::causal_conv1d_backward(k, g); });
  } else {
    run(0.0f, [&](const auto& k, const auto& g) { cpu::causal_conv1d_backward(ctx.threads(), ctx.scratch(), k, g); });
  }
  return grads;
}

Tensor causal_conv1d_step(Context& ctx, const CausalConv1dArgs& args, const Tensor& state) {
  check_shape(kOp, "x of a step", args.x, {-1, 1, -1});
  if (args.cu_seqlens.defined()) {
    refuse(ErrorCode::kInvalidArgument, kOp,
           "cu_seqlens of a step: expected none, got a tensor (rows are the sequences)");
  }
  if (!state.defined())
    refuse(ErrorCode::kInvalidArgument, kOp, "state of a step: expected shape (b, d, k-1), got no tensor");
  CausalConv1dArgs one = args;
  one.state_in = state;
  Tensor state_out = state;
  return causal_conv1d_forward(ctx, one, &state_out);
}

}  // namespace coluber::ops
