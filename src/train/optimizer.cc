#include <algorithm>
#include <cmath>

#include "coluber/train.h"
#include "core/check.h"
#include "ops/adamw.h"

namespace coluber {
namespace {

void check_range(std::string_view what, double value, bool fits, std::string_view expected) {
  if (!fits || !std::isfinite(value)) {
    refuse_value(ErrorCode::kInvalidArgument, "adamw", what, expected, join(value));
  }
}

ops::AdamWArgs args_of(const AdamWOptions& options, double lr, double grad_scale, std::int64_t step) {
  ops::AdamWArgs args;
  args.lr = lr;
  args.beta1 = options.beta1;
  args.beta2 = options.beta2;
  args.eps = options.eps;
  args.grad_scale = grad_scale;
  args.step = step;
  return args;
}

}  // namespace

void AdamWOptions::check() const {
  check_range("beta1", beta1, beta1 >= 0 && beta1 < 1, "a number in [0, 1)");
  check_range("beta2", beta2, beta2 >= 0 && beta2 < 1, "a number in [0, 1)");
  check_range("eps", eps, eps > 0, "a number above 0");
  check_range("weight_decay", weight_decay, weight_decay >= 0, "a number of 0 or more");
  check_range("clip", clip, clip >= 0, "a number of 0 or more (0: no clipping)");
}

AdamW::AdamW(Parameters parameters, const AdamWOptions& options)
    : options_(options), parameters_(std::move(parameters)) {
  options_.check();
  for (const Parameter& parameter : parameters_) {
    const Tensor& value = parameter.var.value();
    if (value.dtype() != DType::kF32 && value.dtype() != DType::kF64) {
      refuse_value(ErrorCode::kInvalidArgument, "adamw", join("dtype of ", parameter.name), "f32 or f64",
                   dtype_name(value.dtype()), "train in f32 and convert afterwards");
    }
    moments_.push_back({Tensor::zeros(value.shape(), value.dtype(), value.device()),
                        Tensor::zeros(value.shape(), value.dtype(), value.device())});
  }
}

double AdamW::grad_norm(Context& ctx) const {
  std::vector<Tensor> gradients;
  for (const Parameter& parameter : parameters_) {
    if (parameter.var.grad().defined()) gradients.push_back(parameter.var.grad());
  }
  return std::sqrt(ops::sum_of_squares(ctx, gradients));
}

double AdamW::step(Context& ctx, double lr) {
  const double norm = step_if_finite(ctx, lr);
  if (!std::isfinite(norm)) {
    refuse_value(ErrorCode::kNumeric, "adamw", "norm of the gradients", "a finite number", join(norm));
  }
  return norm;
}

double AdamW::step_if_finite(Context& ctx, double lr) {
  double norm = 0;
  {
    ops::AdamWStep step(ctx, tensors(options_.weight_decay));  // before the host waits for the norm
    norm = grad_norm(ctx);
    if (std::isfinite(norm)) {
      ++num_steps_;
      const double scale = options_.clip > 0 ? std::min(1.0, options_.clip / (norm + 1e-6)) : 1;
      step.run(args_of(options_, lr, scale, num_steps_));
    }
  }
  drop_gradients();
  return norm;
}

bool AdamW::rehearse(Context& ctx) {
  const bool can = num_steps_ == 0 && std::isfinite(grad_norm(ctx));
  // With moments of zero, gradients times zero and a rate of zero: x - 0 (0 / (0 + eps) + 0 x) = x.
  if (can) ops::adamw_step(ctx, args_of(options_, 0, 0, 1), tensors(0));
  drop_gradients();
  return can;
}

std::vector<ops::AdamWTensors> AdamW::tensors(double weight_decay) const {
  std::vector<ops::AdamWTensors> tensors;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Var& var = parameters_[i].var;
    if (!var.grad().defined()) continue;  // nothing depended on it in this step
    tensors.push_back({var.value(), var.grad(), moments_[i].exp_avg, moments_[i].exp_avg_sq,
                       parameters_[i].weight_decay ? weight_decay : 0});
  }
  return tensors;
}

void AdamW::drop_gradients() const {
  for (const Parameter& parameter : parameters_) parameter.var.set_grad({});
}

std::int64_t AdamW::size_bytes() const {
  std::int64_t bytes = 0;
  for (const Moments& moments : moments_) bytes += moments.exp_avg.size_bytes() + moments.exp_avg_sq.size_bytes();
  return bytes;
}

}  // namespace coluber
