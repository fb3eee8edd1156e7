// norm: checks, layouts and the choice of kernel.
#include "kernels/norm.h"

#include "coluber/ops.h"
#include "kernels/reference/norm.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "norm";

void check_like_x(std::string_view name, const Tensor& t, const Tensor& x) {
  if (!t.defined()) return;
  check_dtype(kOp, name, t, x.dtype());
  if (!(t.shape() == x.shape())) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + x.shape().to_string(), t.shape().to_string());
  }
}

void check_channels(std::string_view name, const Tensor& t, const Tensor& x) {
  if (!t.defined()) return;
  check_dtype(kOp, name, t, x.dtype());
  check_shape(kOp, name, t, {x.size(-1)});
}

// Everything that a call needs as (rows,m), kept alive while the kernel runs.
struct Prepared {
  std::int64_t group = 0;
  Tensor x, residual, z, weight, bias;
};

Tensor rows_of(const Tensor& t) {
  return t.defined() ? as_matrix(t) : t;
}

Prepared prepare(const NormArgs& args) {
  if (!args.x.defined() || args.x.rank() < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "x", "shape (..., m)", args.x.defined() ? "()" : "no tensor");
  }
  if (args.x.dtype() != DType::kF32 && args.x.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of x", "f32 or f64", dtype_name(args.x.dtype()));
  }
  check_like_x("residual", args.residual, args.x);
  check_like_x("z", args.z, args.x);
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
  Prepared p;
  p.group = args.group_size > 0 ? args.group_size : m;
  p.x = rows_of(args.x);
  p.residual = rows_of(args.residual);
  p.z = rows_of(args.z);
  p.weight = args.weight.defined() ? args.weight.contiguous() : args.weight;
  p.bias = args.bias.defined() ? args.bias.contiguous() : args.bias;
  return p;
}

template <class T>
NormParams<T> to_params(const NormArgs& args, const Prepared& p) {
  NormParams<T> k;
  k.rows = p.x.size(0);
  k.m = p.x.size(1);
  k.group = p.group;
  k.kind = args.kind;
  k.eps = static_cast<T>(args.eps);
  k.norm_before_gate = args.norm_before_gate && p.z.defined();
  k.x = view_of<const T, 2>(p.x);
  k.residual = view_of<const T, 2>(p.residual);
  k.z = view_of<const T, 2>(p.z);
  k.weight = p.weight.defined() ? p.weight.data<T>() : nullptr;
  k.bias = p.bias.defined() ? p.bias.data<T>() : nullptr;
  return k;
}

}  // namespace

Tensor norm_forward(Context& ctx, const NormArgs& args, Tensor* residual_out) {
  const Prepared p = prepare(args);
  const DType dtype = args.x.dtype();
  const Tensor y = Tensor::empty(args.x.shape(), dtype);
  const bool wants_sum = residual_out != nullptr && args.residual.defined();
  const Tensor sum = wants_sum ? Tensor::empty(args.x.shape(), dtype) : Tensor{};
  if (residual_out != nullptr) *residual_out = wants_sum ? sum : args.x;
  if (y.numel() == 0) return y;
  auto run = [&](auto zero, auto&& kernel) {
    using T = decltype(zero);
    NormParams<T> k = to_params<T>(args, p);
    k.y = view_of<T, 2>(rows_of(y));
    k.residual_out = view_of<T, 2>(rows_of(sum));
    kernel(k);
  };
  if (dtype == DType::kF64) {
    run(0.0, [](const auto& k) { reference::norm_forward(k); });
  } else if (takes_reference(ctx, dtype)) {
    run(0.0f, [](const auto& k) { reference::norm_forward(k); });
  } else {
    run(0.0f, [&](const auto& k) { cpu::norm_forward(ctx.threads(), ctx.scratch(), k); });
  }
  return y;
}

NormGrads norm_backward(Context& ctx, const NormArgs& args, const Tensor& grad_y, const Tensor& grad_residual_out) {
  const Prepared p = prepare(args);
  const DType dtype = args.x.dtype();
  if (!grad_y.defined()) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "grad_y", "shape " + args.x.shape().to_string(), "no tensor");
  }
  check_like_x("grad_y", grad_y, args.x);
  check_like_x("grad_residual_out", grad_residual_out, args.x);
  NormGrads grads;
  grads.x = Tensor::empty(args.x.shape(), dtype);
  if (args.z.defined()) grads.z = Tensor::empty(args.x.shape(), dtype);
  if (args.weight.defined()) grads.weight = Tensor::zeros(args.weight.shape(), dtype);
  if (args.bias.defined()) grads.bias = Tensor::zeros(args.bias.shape(), dtype);
  if (grads.x.numel() == 0) return grads;
  const Tensor gy = as_matrix(grad_y), gr = rows_of(grad_residual_out);
  auto run = [&](auto zero, auto&& kernel) {
    using T = decltype(zero);
    NormGradParams<T> g;
    g.grad_y = view_of<const T, 2>(gy);
    g.grad_residual_out = view_of<const T, 2>(gr);
    g.grad_x = view_of<T, 2>(rows_of(grads.x));
    g.grad_z = view_of<T, 2>(rows_of(grads.z));
    g.grad_weight = grads.weight.defined() ? grads.weight.data<T>() : nullptr;
    g.grad_bias = grads.bias.defined() ? grads.bias.data<T>() : nullptr;
    kernel(to_params<T>(args, p), g);
  };
  if (dtype == DType::kF64) {
    run(0.0, [](const auto& k, const auto& g) { reference::norm_backward(k, g); });
  } else if (takes_reference(ctx, dtype)) {
    run(0.0f, [](const auto& k, const auto& g) { reference::norm_backward(k, g); });
  } else {
    run(0.0f, [&](const auto& k, const auto& g) { cpu::norm_backward(ctx.threads(), ctx.scratch(), k, g); });
  }
  return grads;
}

}  // namespace coluber::ops
