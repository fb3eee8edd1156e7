// AdamW: checks and the choice of kernel.
#include "kernels/optimizer.h"

#include <vector>

#include "kernels/reference/optimizer.h"
#include "ops/adamw.h"
#include "ops/elementwise.h"
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

void check_tensors(const AdamWTensors& t) {
  if (!t.param.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "param", "a tensor", "no tensor");
  if (t.param.dtype() != DType::kF32 && t.param.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of param", "f32 or f64", dtype_name(t.param.dtype()));
  }
  if (!t.param.device().is_cpu()) check_dtype(kOp, "param", t.param, DType::kF32);
  check_like("grad", t.grad, t.param);
  check_like("exp_avg", t.exp_avg, t.param);
  check_like("exp_avg_sq", t.exp_avg_sq, t.param);
  check_contiguous("param", t.param);
  check_contiguous("exp_avg", t.exp_avg);
  check_contiguous("exp_avg_sq", t.exp_avg_sq);
}

template <class T>
AdamWParams<T> to_params(const AdamWTensors& t) {
  AdamWParams<T> p;
  p.n = t.param.numel();
  p.weight_decay = t.weight_decay;
  p.param = t.param.data<T>();
  p.grad = t.grad.data<T>();
  p.exp_avg = t.exp_avg.data<T>();
  p.exp_avg_sq = t.exp_avg_sq.data<T>();
  return p;
}

template <class T>
void set_options(AdamWParams<T>& p, const AdamWArgs& args) {
  p.lr = args.lr;
  p.beta1 = args.beta1;
  p.beta2 = args.beta2;
  p.eps = args.eps;
  p.grad_scale = args.grad_scale;
  p.step = args.step;
}

template <class T>
AdamWParams<T> to_params(const AdamWTensors& t, const AdamWArgs& args) {
  AdamWParams<T> p = to_params<T>(t);
  set_options(p, args);
  return p;
}

void step_on_cpu(Context& ctx, const AdamWArgs& args, const AdamWTensors& t) {
  if (t.param.dtype() == DType::kF64) return reference::adamw_step(to_params<double>(t, args));
  const AdamWParams<float> params = to_params<float>(t, args);
  takes_reference(ctx, DType::kF32) ? reference::adamw_step(params) : cpu::adamw_step(ctx.threads(), params);
}

}  // namespace

AdamWStep::AdamWStep(Context& ctx, std::span<const AdamWTensors> tensors)
    : ctx_(ctx), tensors_(tensors.begin(), tensors.end()) {
  for (AdamWTensors& t : tensors_) {
    check_number("weight_decay", t.weight_decay, t.weight_decay >= 0, "0 or more");
    check_tensors(t);
    check_device(kOp, "param", t.param, tensors.front().param.device());
    t.grad = t.grad.contiguous();
  }
  if (tensors_.empty() || tensors_.front().param.device().is_cpu()) return;
  for (const AdamWTensors& t : tensors_) table_.push_back(to_params<float>(t));
}

void AdamWStep::run(const AdamWArgs& args) {
  check_options(args);
  if (tensors_.empty()) return;
  const Device device = tensors_.front().param.device();
  if (device.is_cpu()) {
    for (const AdamWTensors& t : tensors_) step_on_cpu(ctx_, args, t);
    return;
  }
  for (AdamWParams<float>& p : table_) set_options(p, args);
  cuda::adamw_step(cuda::current_stream(device.index), table_.data(), static_cast<std::int64_t>(table_.size()));
}

std::int64_t adamw_scalars_bytes() {
  return sizeof(cuda::AdamWScalars);
}

void AdamWStep::run_queued(const AdamWArgs& args, const AdamWQueued& queued) {
  check_options(args);
  check_shape(kOp, "inputs", queued.inputs, {4});
  check_dtype(kOp, "inputs", queued.inputs, DType::kF64);
  const cuda::Stream stream = cuda::current_stream(queued.inputs.device().index);
  std::vector<Tensor> gradients;
  for (const AdamWTensors& t : tensors_) gradients.push_back(t.grad);
  const Tensor squares = Tensor::zeros({}, DType::kF64, queued.inputs.device());
  queue_sum_of_squares(gradients, squares);
  const double* in = queued.inputs.data<double>();
  auto* scalars = static_cast<cuda::AdamWScalars*>(queued.scalars.raw());
  cuda::adamw_scalars(stream,
                      {in, in + 1, in + 2, in + 3, squares.data<double>(), queued.losses.data<double>(),
                       queued.losses.numel(), queued.clip},
                      queued.norm.data<double>(), scalars);
  for (AdamWParams<float>& p : table_) set_options(p, args);
  cuda::adamw_step(stream, table_.data(), static_cast<std::int64_t>(table_.size()), scalars);
}

void adamw_step(Context& ctx, const AdamWArgs& args, std::span<const AdamWTensors> tensors) {
  check_options(args);
  AdamWStep(ctx, tensors).run(args);
}

void adamw_step(Context& ctx, const AdamWArgs& args, const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
                const Tensor& exp_avg_sq) {
  const AdamWTensors one{param, grad, exp_avg, exp_avg_sq, args.weight_decay};
  adamw_step(ctx, args, std::span(&one, 1));
}

}  // namespace coluber::ops
