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
  DeviceSequences device_sequences;
};

// Fast kernels read channels as vectors.
Tensor with_unit_stride(const Tensor& t) {
  return !t.defined() || t.size(-1) <= 1 || t.stride(-1) == 1 ? t : t.clone();
}

bool use_reference(const Context& ctx, DType dtype) {
  return dtype == DType::kF64 || ctx.algorithm() == Algorithm::kReference;
}

// A parameter or state beside x.
void check_parameter(std::string_view name, const Tensor& t, const Tensor& x) {
  if (t.defined()) check_dtype(kOp, name, t, parameter_dtype(x));
  check_device(kOp, name, t, x.device());
}

Prepared prepare(const Context& ctx, const CausalConv1dArgs& args) {
  check_shape(kOp, "x", args.x, {-1, -1, -1});
  check_storage(kOp, "x", args.x);
  check_algorithm(kOp, ctx, args.x.device());
  Prepared p;
  p.b = args.x.size(0);
  p.l = args.x.size(1);
  p.d = args.x.size(2);
  check_shape(kOp, "weight", args.weight, {p.d, -1});
  p.k = args.weight.size(1);
  if (p.k < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "taps (second axis of weight)", "1 or more", std::to_string(p.k));
  }
  check_parameter("weight", args.weight, args.x);
  if (args.bias.defined()) check_shape(kOp, "bias", args.bias, {p.d});
  check_parameter("bias", args.bias, args.x);
  p.sequences = sequence_ranges(kOp, p.b, p.l, args.cu_seqlens);
  p.slots = static_cast<std::int64_t>(p.sequences.size());
  if (args.state_in.defined()) check_shape(kOp, "state_in", args.state_in, {p.slots, p.d, p.k - 1});
  check_parameter("state_in", args.state_in, args.x);
  p.device_sequences = DeviceSequences(p.sequences, args.cu_seqlens.defined(), args.x.device());
  p.resets = checked_resets(kOp, args.resets, p.b, p.l, args.x.device());
  p.x = use_reference(ctx, args.x.dtype()) ? args.x : with_unit_stride(args.x);
  p.bias = args.bias.defined() ? args.bias.contiguous() : args.bias;
  return p;
}

template <class T, class P>
CausalConv1dParams<T, P> to_params(const CausalConv1dArgs& args, const Prepared& p) {
  CausalConv1dParams<T, P> k;
  k.d = p.d;
  k.k = p.k;
  k.silu = args.silu;
  k.reverse = args.reverse;
  k.x = view_of<const T, 3>(p.x);
  k.weight = view_of<const P, 2>(args.weight);
  k.bias = p.bias.defined() ? p.bias.data<P>() : nullptr;
  k.resets = view_of<const std::uint8_t, 2>(p.resets);
  k.sequences = p.device_sequences.ranges;
  k.num_sequences = p.slots;
  k.state_in = view_of<const P, 3>(args.state_in);
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

void check_grad(std::string_view name, const Tensor& grad, const Shape& shape, DType dtype, Device device) {
  if (!(grad.defined() && grad.shape() == shape)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + shape.to_string(),
                 grad.defined() ? grad.shape().to_string() : "no tensor");
  }
  check_dtype(kOp, name, grad, dtype);
  check_device(kOp, name, grad, device);
}

}  // namespace

Tensor causal_conv1d_forward(Context& ctx, const CausalConv1dArgs& args, Tensor* state_out) {
  CausalConv1dArgs call = args;
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  const Tensor y = Tensor::empty(args.x.shape(), dtype, device);
  if (state_out != nullptr) {
    const Shape shape{p.slots, p.d, p.k - 1};
    if (!state_out->defined()) *state_out = Tensor::empty(shape, parameter, device);
    check_grad("state_out", *state_out, shape, parameter, device);
    if (overlaps_partly(*state_out, args.state_in)) call.state_in = args.state_in.clone();
  }
  auto run = [&](auto storage, auto parameter_type, auto&& kernel) {
    using T = decltype(storage);
    using P = decltype(parameter_type);
    CausalConv1dParams<T, P> k = to_params<T, P>(call, p);
    k.y = view_of<T, 3>(y);
    if (state_out != nullptr) k.state_out = view_of<P, 3>(*state_out);
    kernel(k);
  };
  if (!device.is_cpu()) {
    with_storage(dtype, [&](auto storage) {
      run(storage, 0.0f, [&](const auto& k) { cuda::causal_conv1d_forward(cuda::current_stream(device.index), k); });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, [](const auto& k) { reference::causal_conv1d_forward(k); });
  } else if (use_reference(ctx, dtype)) {
    run(0.0f, 0.0f, [](const auto& k) { reference::causal_conv1d_forward(k); });
  } else {
    run(0.0f, 0.0f, [&](const auto& k) { cpu::causal_conv1d_forward(ctx.threads(), ctx.scratch(), k); });
  }
  return y;
}

CausalConv1dGrads causal_conv1d_backward(Context& ctx, const CausalConv1dArgs& args, const Tensor& grad_y,
                                         const Tensor& grad_state_out, const Tensor& grad_x_into) {
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  check_grad("grad_y", grad_y, args.x.shape(), dtype, device);
  if (grad_state_out.defined()) {
    check_grad("grad_state_out", grad_state_out, {p.slots, p.d, p.k - 1}, parameter, device);
  }
  auto make = [&](const Tensor& like) {
    return like.defined() ? Tensor::empty(like.shape(), like.dtype(), device) : Tensor{};
  };
  if (grad_x_into.defined()) check_target(kOp, "grad_x_into", grad_x_into, args.x);
  CausalConv1dGrads grads{grad_x_into.defined() ? grad_x_into : make(args.x), make(args.weight), make(args.bias),
                          make(args.state_in)};
  const Tensor gy = use_reference(ctx, dtype) ? grad_y : with_unit_stride(grad_y);
  auto run = [&](auto storage, auto parameter_type, auto&& kernel) {
    using T = decltype(storage);
    using P = decltype(parameter_type);
    CausalConv1dGradParams<T, P> g;
    g.grad_y = view_of<const T, 3>(gy);
    g.grad_state_out = view_of<const P, 3>(grad_state_out);
    g.grad_x = view_of<T, 3>(grads.x);
    g.grad_weight = view_of<P, 2>(grads.weight);
    g.grad_bias = grads.bias.defined() ? grads.bias.template data<P>() : nullptr;
    g.grad_state_in = view_of<P, 3>(grads.state_in);
    kernel(to_params<T, P>(args, p), g);
  };
  if (!device.is_cpu()) {
    with_storage(dtype, [&](auto storage) {
      run(storage, 0.0f, [&](const auto& k, const auto& g) {
        cuda::causal_conv1d_backward(cuda::current_stream(device.index), k, g);
      });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, [](const auto& k, const auto& g) { reference::causal_conv1d_backward(k, g); });
  } else if (use_reference(ctx, dtype)) {
    run(0.0f, 0.0f, [](const auto& k, const auto& g) { reference::causal_conv1d_backward(k, g); });
  } else {
    run(0.0f, 0.0f,
        [&](const auto& k, const auto& g) { cpu::causal_conv1d_backward(ctx.threads(), ctx.scratch(), k, g); });
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
