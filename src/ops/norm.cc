// norm: checks, layouts and the choice of kernel.
#include "kernels/norm.h"

#include "coluber/ops.h"
#include "kernels/reference/norm.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "norm";

void check_like_x(std::string_view name, const Tensor& t, const Tensor& x, DType dtype) {
  if (!t.defined()) return;
  check_dtype(kOp, name, t, dtype);
  check_device(kOp, name, t, x.device());
  if (!(t.shape() == x.shape())) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + x.shape().to_string(), t.shape().to_string());
  }
}

void check_channels(std::string_view name, const Tensor& t, const Tensor& x) {
  if (!t.defined()) return;
  check_dtype(kOp, name, t, parameter_dtype(x));
  check_device(kOp, name, t, x.device());
  check_shape(kOp, name, t, {x.size(-1)});
}

// Everything that a call needs as (rows,m), kept alive while the kernel runs.
struct Prepared {
  std::int64_t group = 0;
  DType out = DType::kF32;
  Tensor x, residual, z, weight, bias;
};

Tensor rows_of(const Tensor& t) {
  return t.defined() ? as_matrix(t) : t;
}

// Of y and z.
DType output_dtype(const NormArgs& args) {
  const DType x = args.x.dtype(), out = args.out.value_or(x);
  if (out == x) return out;
  if (!args.x.device().is_cpu() && x == DType::kF32 && (out == DType::kBF16 || out == DType::kF16)) return out;
  refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of y",
               join(dtype_name(x), " as x", args.x.device().is_cpu() ? "" : ", or bf16 or f16 where x is f32"),
               dtype_name(out));
}

Prepared prepare(const Context& ctx, const NormArgs& args) {
  if (!args.x.defined() || args.x.rank() < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "x", "shape (..., m)", args.x.defined() ? "()" : "no tensor");
  }
  check_storage(kOp, "x", args.x);
  check_algorithm(kOp, ctx, args.x.device());
  Prepared p;
  p.out = output_dtype(args);
  check_like_x("residual", args.residual, args.x, parameter_dtype(args.x));
  check_like_x("z", args.z, args.x, p.out);
  check_channels("weight", args.weight, args.x);
  check_channels("bias", args.bias, args.x);
  if (!(args.eps >= 0)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "eps", "0 or more", join(args.eps));
  }
  const std::int64_t m = args.x.size(-1);
  if (args.group_size < 0 || (args.group_size > 0 && m % args.group_size != 0)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "group_size", join("a divisor of ", m, " channels, or 0 for all"),
                 std::to_string(args.group_size));
  }
  p.group = args.group_size > 0 ? args.group_size : m;
  p.x = rows_of(args.x);
  p.residual = rows_of(args.residual);
  p.z = rows_of(args.z);
  p.weight = args.weight.defined() ? args.weight.contiguous() : args.weight;
  p.bias = args.bias.defined() ? args.bias.contiguous() : args.bias;
  return p;
}

template <class X, class T, class P>
NormParams<X, T, P> to_params(const NormArgs& args, const Prepared& p) {
  NormParams<X, T, P> k;
  k.rows = p.x.size(0);
  k.m = p.x.size(1);
  k.group = p.group;
  k.kind = args.kind;
  k.eps = static_cast<P>(args.eps);
  k.norm_before_gate = args.norm_before_gate && p.z.defined();
  k.x = view_of<const X, 2>(p.x);
  k.residual = view_of<const P, 2>(p.residual);
  k.z = view_of<const T, 2>(p.z);
  k.weight = p.weight.defined() ? p.weight.data<P>() : nullptr;
  k.bias = p.bias.defined() ? p.bias.data<P>() : nullptr;
  return k;
}

// Calls f(X{}, T{}) with the types of x and y on a GPU.
template <class F>
void with_storages(DType x, DType y, F&& f) {
  with_storage(y, [&](auto t) { x == y ? f(t, t) : f(0.0f, t); });
}

template <class X, class T, class P>
NormGradParams<X, T, P> to_grad_params(const NormGrads& grads, const Tensor& grad_y, const Tensor& grad_residual_out) {
  NormGradParams<X, T, P> g;
  g.grad_y = view_of<const T, 2>(grad_y);
  g.grad_residual_out = view_of<const P, 2>(grad_residual_out);
  g.grad_x = view_of<X, 2>(rows_of(grads.x));
  g.grad_x_narrow = view_of<T, 2>(rows_of(grads.x_narrow));
  g.grad_z = view_of<T, 2>(rows_of(grads.z));
  g.grad_weight = grads.weight.defined() ? grads.weight.data<P>() : nullptr;
  g.grad_bias = grads.bias.defined() ? grads.bias.data<P>() : nullptr;
  return g;
}

}  // namespace

Tensor norm_forward(Context& ctx, const NormArgs& args, Tensor* residual_out) {
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  const Tensor y = Tensor::empty(args.x.shape(), p.out, device);
  const bool wants_sum = residual_out != nullptr && args.residual.defined();
  const Tensor sum = wants_sum ? Tensor::empty(args.x.shape(), parameter, device) : Tensor{};
  if (residual_out != nullptr) *residual_out = wants_sum ? sum : args.x.to(parameter);
  if (y.numel() == 0) return y;
  auto run = [&](auto x_type, auto y_type, auto parameter_type, auto&& kernel) {
    using T = decltype(y_type);
    using P = decltype(parameter_type);
    NormParams<decltype(x_type), T, P> k = to_params<decltype(x_type), T, P>(args, p);
    k.y = view_of<T, 2>(rows_of(y));
    k.residual_out = view_of<P, 2>(rows_of(sum));
    kernel(k);
  };
  if (!device.is_cpu()) {
    with_storages(dtype, p.out, [&](auto x, auto t) {
      run(x, t, 0.0f, [&](const auto& k) { cuda::norm_forward(cuda::current_stream(device.index), k); });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, 0.0, [](const auto& k) { reference::norm_forward(k); });
  } else if (takes_reference(ctx, dtype)) {
    run(0.0f, 0.0f, 0.0f, [](const auto& k) { reference::norm_forward(k); });
  } else {
    run(0.0f, 0.0f, 0.0f, [&](const auto& k) { cpu::norm_forward(ctx.threads(), ctx.scratch(), k); });
  }
  return y;
}

NormGrads norm_backward(Context& ctx, const NormArgs& args, const Tensor& grad_y, const Tensor& grad_residual_out) {
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  if (!grad_y.defined()) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "grad_y", "shape " + args.x.shape().to_string(), "no tensor");
  }
  check_like_x("grad_y", grad_y, args.x, p.out);
  check_like_x("grad_residual_out", grad_residual_out, args.x, parameter);
  NormGrads grads;
  grads.x = Tensor::empty(args.x.shape(), dtype, device);
  if (p.out != dtype) grads.x_narrow = Tensor::empty(args.x.shape(), p.out, device);
  if (args.z.defined()) grads.z = Tensor::empty(args.x.shape(), p.out, device);
  auto sum_of = [&](const Tensor& like) {  // on a GPU it is written, on the CPU added to
    if (!like.defined()) return Tensor{};
    return device.is_cpu() || grads.x.numel() == 0 ? Tensor::zeros(like.shape(), parameter, device)
                                                   : Tensor::empty(like.shape(), parameter, device);
  };
  grads.weight = sum_of(args.weight);
  grads.bias = sum_of(args.bias);
  if (grads.x.numel() == 0) return grads;
  const Tensor gy = as_matrix(grad_y), gr = rows_of(grad_residual_out);
  auto run = [&](auto x_type, auto y_type, auto parameter_type, auto&& kernel) {
    using X = decltype(x_type);
    using T = decltype(y_type);
    using P = decltype(parameter_type);
    kernel(to_params<X, T, P>(args, p), to_grad_params<X, T, P>(grads, gy, gr));
  };
  if (!device.is_cpu()) {
    with_storages(dtype, p.out, [&](auto x, auto t) {
      run(x, t, 0.0f,
          [&](const auto& k, const auto& g) { cuda::norm_backward(cuda::current_stream(device.index), k, g); });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, 0.0, [](const auto& k, const auto& g) { reference::norm_backward(k, g); });
  } else if (takes_reference(ctx, dtype)) {
    run(0.0f, 0.0f, 0.0f, [](const auto& k, const auto& g) { reference::norm_backward(k, g); });
  } else {
    run(0.0f, 0.0f, 0.0f,
        [&](const auto& k, const auto& g) { cpu::norm_backward(ctx.threads(), ctx.scratch(), k, g); });
  }
  return grads;
}

}  // namespace coluber::ops
