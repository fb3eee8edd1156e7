// AdamW: checks and the choice of kernel.
#include "kernels/optimizer.h"

#include "coluber/ops.h"
#include "kernels/reference/optimizer.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "adamw";

void check_number(std::string_view name, double value, bool ok, std::string_view expected) {
  if (!ok) refuse_value(ErrorCode::kInvalidArgument, kOp, name, expected, join(value));
}

void check_options(const AdamWArgs& args) {
  check_number("lr", args.lr, args.lr >= 0, "0 or more");
  check_number("beta1", args.beta1, args.beta1 >= 0 && args.beta1 < 1, "0 up to but not 1");
  check_number("beta2", args.beta2, args.beta2 >= 0 && args.beta2 < 1, "0 up to but not 1");
  check_number("eps", args.eps, args.eps >= 0, "0 or more");
  check_number("weight_decay", args.weight_decay, args.weight_decay >= 0, "0 or more");
  check_number("step", static_cast<double>(args.step), args.step >= 1, "1 or more");
}

void check_like(std::string_view name, const Tensor& t, const Tensor& param) {
  if (!(t.defined() && t.shape() == param.shape())) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + param.shape().to_string(),
                 t.defined() ? t.shape().to_string() : "no tensor");
  }
  check_dtype(kOp, name, t, param.dtype());
  check_device(kOp, name, t, param.device());
}

void check_contiguous(std::string_view name, const Tensor& t) {
  if (t.is_contiguous()) return;
  refuse_value(ErrorCode::kInvalidArgument, kOp, name, "a contiguous tensor", "strides " + t.strides().to_string());
}

}  // namespace

void adamw_step(Context& ctx, const AdamWArgs& args, const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
                const Tensor& exp_avg_sq) {
  check_options(args);
  if (!param.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "param", "a tensor", "no tensor");
  if (param.dtype() != DType::kF32 && param.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of param", "f32 or f64", dtype_name(param.dtype()));
  }
  check_like("grad", grad, param);
  check_like("exp_avg", exp_avg, param);
  check_like("exp_avg_sq", exp_avg_sq, param);
  check_contiguous("param", param);
  check_contiguous("exp_avg", exp_avg);
  check_contiguous("exp_avg_sq", exp_avg_sq);
  const Tensor g = grad.contiguous();
  auto params = [&](auto zero) {
    using T = decltype(zero);
    return AdamWParams<T>{param.numel(),   args.lr,           args.beta1,        args.beta2,
                          args.eps,        args.weight_decay, args.grad_scale,   args.step,
                          param.data<T>(), g.data<T>(),       exp_avg.data<T>(), exp_avg_sq.data<T>()};
  };
  if (!param.device().is_cpu()) {
    check_dtype(kOp, "param", param, DType::kF32);
    const AdamWParams<float> one = params(0.0f);
    cuda::adamw_step(cuda::current_stream(param.device().index), &one, 1);
  } else if (param.dtype() == DType::kF64) {
    reference::adamw_step(params(0.0));
  } else if (takes_reference(ctx, DType::kF32)) {
    reference::adamw_step(params(0.0f));
  } else {
    cpu::adamw_step(ctx.threads(), params(0.0f));
  }
}

}  // namespace coluber::ops
