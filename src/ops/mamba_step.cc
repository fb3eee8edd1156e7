#include "ops/mamba_step.h"

#include <algorithm>
#include <initializer_list>

#include "kernels/mamba_step.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "mamba_step";

// Leading axes joined.
cuda::Matrix matrix_of(const Tensor& t) {
  return device_matrix(as_matrix(t));
}

const float* numbers(const Tensor& t) {
  return t.defined() ? t.data<float>() : nullptr;
}

void check(const MambaStepArgs& args) {
  const std::int64_t b = args.x.size(0), m = args.x.size(2), d = args.A_log.size(0), n = args.A_log.size(1);
  const Device device = args.x.device();
  auto check_one = [&](std::string_view name, const Tensor& t, std::initializer_list<std::int64_t> shape) {
    if (!t.defined()) return;
    check_shape(kOp, name, t, shape);
    check_device(kOp, name, t, device);
  };
  check_one("residual", args.residual, {b, 1, m});
  check_one("norm weight", args.norm_weight, {m});
  check_one("in_proj", args.in_proj_weight, {2 * d, m});
  check_one("conv weight", args.conv_weight, {d, -1});
  check_one("x_proj", args.x_proj_weight, {args.dt_proj_weight.size(1) + 2 * n, d});
  check_one("dt_proj", args.dt_proj_weight, {d, -1});
  check_one("out_proj", args.out_proj_weight, {m, d});
  check_one("conv state", args.conv_state, {b, d, args.conv_weight.size(1) - 1});
  check_one("ssm state", args.ssm_state, {b, d, n});
}

NormLinearArgs first_product(const MambaStepArgs& args) {
  return {args.x,    args.residual, args.norm_weight,    args.norm_bias,
          args.norm, args.norm_eps, args.in_proj_weight, args.in_proj_bias};
}

// x is the residual stream itself, in f32.
bool begins(const NormLinearArgs& args) {
  return !args.residual.defined();
}

cuda::NormLinearParams to_params(const NormLinearArgs& args) {
  cuda::NormLinearParams p;
  p.x = matrix_of(args.x);
  if (begins(args)) p.x.data = nullptr;
  p.residual = numbers(begins(args) ? args.x : args.residual);
  p.norm_weight = numbers(args.norm_weight);
  p.norm_bias = numbers(args.norm_bias);
  p.layer_norm = args.norm == NormKind::kLayer;
  p.eps = static_cast<float>(args.norm_eps);
  p.weight = matrix_of(args.weight);
  p.bias = numbers(args.bias);
  return p;
}

cuda::MambaStepParams to_params(const MambaStepArgs& args) {
  cuda::MambaStepParams p;
  p.in_proj = to_params(first_product(args));
  p.b = args.x.size(0);
  p.d = args.A_log.size(0);
  p.n = args.A_log.size(1);
  p.k = args.conv_weight.size(1);
  p.u = args.dt_proj_weight.size(1);
  p.dtype = args.in_proj_weight.dtype();
  p.conv_weight = numbers(args.conv_weight);
  p.conv_bias = numbers(args.conv_bias);
  p.x_proj = matrix_of(args.x_proj_weight);
  p.dt_proj = matrix_of(args.dt_proj_weight);
  p.dt_bias = numbers(args.dt_bias);
  p.A_log = numbers(args.A_log);
  p.D = numbers(args.D);
  p.norm_dt_B_C = args.norm_dt_B_C;
  p.norm_dt_B_C_eps = static_cast<float>(args.norm_dt_B_C_eps);
  p.conv_state = args.conv_state.data<float>();
  p.ssm_state = args.ssm_state.data<float>();
  return p;
}

void set_outputs(cuda::NormLinearParams& p, const NormLinearArgs& args, const Tensor& y, Tensor* residual_out) {
  p.y = matrix_of(y);
  if (residual_out == nullptr) return;
  *residual_out = begins(args) ? args.x : Tensor::empty(args.x.shape(), DType::kF32, args.x.device());
  if (!begins(args)) p.residual_out = residual_out->data<float>();
}

bool all_contiguous(std::initializer_list<const Tensor*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const Tensor* t) { return !t->defined() || t->is_contiguous(); });
}

// A token on a GPU, stored as kernels read it.
bool fits(const NormLinearArgs& args) {
  return !args.x.device().is_cpu() && args.x.size(1) == 1 &&
         args.x.dtype() == (begins(args) ? DType::kF32 : args.weight.dtype()) &&
         all_contiguous({&args.x, &args.residual, &args.weight});
}

}  // namespace

bool takes_norm_linear(const NormLinearArgs& args) {
  return fits(args) && cuda::takes_norm_linear(args.x.device().index, to_params(args));
}

Tensor norm_linear(const NormLinearArgs& args, DType out, Tensor* residual_out) {
  const Device device = args.x.device();
  const std::int64_t b = args.x.size(0), m = args.x.size(2);
  check_shape("norm_linear", "weight", args.weight, {-1, m});
  check_shape("norm_linear", "norm weight", args.norm_weight, {m});
  check_device("norm_linear", "weight", args.weight, device);
  const Tensor y = Tensor::empty({b, 1, args.weight.size(0)}, out, device);
  cuda::NormLinearParams p = to_params(args);
  set_outputs(p, args, y, residual_out);
  cuda::norm_linear(cuda::current_stream(device.index), p);
  return y;
}

bool takes_mamba_step(const MambaStepArgs& args) {
  return fits(first_product(args)) && args.out_proj_weight.dtype() == args.in_proj_weight.dtype() &&
         all_contiguous({&args.conv_weight, &args.x_proj_weight, &args.dt_proj_weight, &args.A_log,
                         &args.out_proj_weight, &args.conv_state, &args.ssm_state}) &&
         cuda::takes_mamba_step(args.x.device().index, to_params(args));
}

Tensor mamba_step(const MambaStepArgs& args, Tensor* residual_out) {
  check(args);
  const std::int64_t b = args.x.size(0), d = args.A_log.size(0);
  const Device device = args.x.device();
  const DType dtype = args.in_proj_weight.dtype();
  const cuda::Stream stream = cuda::current_stream(device.index);
  const Tensor xz = Tensor::empty({b, 1, 2 * d}, dtype, device), y = Tensor::empty({b, d}, dtype, device);
  Tensor sum;  // residual_out may be args.residual
  cuda::MambaStepParams p = to_params(args);
  set_outputs(p.in_proj, first_product(args), xz, &sum);
  p.y = y.raw();
  cuda::mamba_step(stream, p);

  const Tensor out = Tensor::empty(args.x.shape(), dtype, device);
  cuda::MatmulParams product{matrix_of(y), matrix_of(args.out_proj_weight), matrix_of(out), false, true};
  product.bias = numbers(args.out_proj_bias);
  product.b_is_settled = true;
  cuda::matmul(stream, product);
  *residual_out = sum;
  return out;
}

}  // namespace coluber::ops
