#include "ops/mamba_step.h"

#include <vector>

#include "kernels/mamba_step.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "mamba_step";

cuda::Matrix matrix_of(const Tensor& t) {  // leading axes joined
  const std::int64_t columns = t.size(-1);
  return {t.raw(), columns == 0 ? 0 : t.numel() / columns, columns, t.rank() == 2 ? t.stride(0) : columns, t.dtype()};
}

const float* numbers(const Tensor& t) {
  return t.defined() ? t.data<float>() : nullptr;
}

cuda::MambaStepParams to_params(const MambaStepArgs& args) {
  cuda::MambaStepParams p;
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

// The first block's x is the residual stream itself, in f32.
bool begins(const MambaStepArgs& args) {
  return !args.residual.defined();
}

cuda::NormLinearParams norm_params(const MambaStepArgs& args) {
  cuda::NormLinearParams p;
  p.x = matrix_of(args.x);
  if (begins(args)) p.x.data = nullptr;
  p.residual = numbers(begins(args) ? args.x : args.residual);
  p.norm_weight = numbers(args.norm_weight);
  p.norm_bias = numbers(args.norm_bias);
  p.layer_norm = args.norm == NormKind::kLayer;
  p.eps = static_cast<float>(args.norm_eps);
  p.weight = matrix_of(args.in_proj_weight);
  p.bias = numbers(args.in_proj_bias);
  return p;
}

}  // namespace

bool takes_mamba_step(const MambaStepArgs& args) {
  if (args.x.device().is_cpu() || args.x.size(1) != 1 || args.x.size(0) < 1) return false;
  // Over more rows dt_proj's weights would be read once a row: at 64 sequences and 2.8b, 8.2 ms a token instead of 5.6.
  if (args.x.size(0) > kSkinnyRows) return false;
  const DType dtype = args.in_proj_weight.dtype();
  if (args.x.dtype() != (begins(args) ? DType::kF32 : dtype)) return false;
  if (args.x_proj_weight.dtype() != dtype || args.out_proj_weight.dtype() != dtype) return false;
  for (const Tensor* t :
       {&args.x, &args.residual, &args.in_proj_weight, &args.conv_weight, &args.x_proj_weight, &args.dt_proj_weight,
        &args.A_log, &args.out_proj_weight, &args.conv_state, &args.ssm_state}) {
    if (t->defined() && !t->is_contiguous()) return false;
  }
  return cuda::takes_dt_scan(to_params(args));
}

namespace {

// xz = norm(x + residual) W_in^T + b_in; gives x + residual.
Tensor norm_in_proj(Context& ctx, const MambaStepArgs& args, const Tensor& xz) {
  cuda::NormLinearParams fused = norm_params(args);
  if (cuda::takes_norm_linear(fused)) {
    const Tensor sum = begins(args) ? args.x : Tensor::empty(args.x.shape(), DType::kF32, args.x.device());
    if (!begins(args)) fused.residual_out = sum.data<float>();
    fused.y = matrix_of(xz);
    cuda::norm_linear(cuda::current_stream(args.x.device().index), fused);
    return sum;
  }
  NormArgs norm;
  norm.x = args.x;
  norm.residual = args.residual;
  norm.weight = args.norm_weight;
  norm.bias = args.norm_bias;
  norm.kind = args.norm;
  norm.eps = args.norm_eps;
  norm.out = args.in_proj_weight.dtype();
  Tensor sum;
  const Tensor normed = norm_forward(ctx, norm, &sum);
  matrix_forward(ctx, as_matrix(normed), args.in_proj_weight, args.in_proj_bias, DType::kF32, xz);
  return sum;
}

// The convolution and W_x, into p.channels and p.dt_B_C; returns what holds them.
std::vector<Tensor> conv_x_proj(Context& ctx, const MambaStepArgs& args, const Tensor& xz, cuda::MambaStepParams& p) {
  const Device device = xz.device();
  const std::int64_t outputs = args.x_proj_weight.size(0);
  if (cuda::takes_conv_x_proj(p)) {
    const Tensor channels = Tensor::empty({p.b, p.d}, p.dtype, device);
    p.num_partial = cuda::mamba_step_partials(p);
    const Tensor partial = Tensor::empty({p.num_partial, p.b, outputs}, DType::kF32, device);
    p.channels = channels.raw();
    p.dt_B_C = partial.data<float>();
    cuda::mamba_step_conv_x_proj(cuda::current_stream(device.index), p);
    return {channels, partial};
  }
  CausalConv1dArgs conv;
  conv.x = xz.unsqueeze(1).slice(2, 0, p.d);
  conv.weight = args.conv_weight;
  conv.bias = args.conv_bias;
  conv.silu = true;
  const Tensor channels = causal_conv1d_step(ctx, conv, args.conv_state);
  const Tensor dt_B_C = Tensor::empty({p.b, outputs}, DType::kF32, device);
  matrix_forward(ctx, as_matrix(channels), args.x_proj_weight, {}, DType::kF32, dt_B_C);
  p.channels = channels.raw();
  p.dt_B_C = dt_B_C.data<float>();
  return {channels, dt_B_C};
}

}  // namespace

Tensor mamba_step(Context& ctx, const MambaStepArgs& args, Tensor* residual_out) {
  check(args);
  const std::int64_t b = args.x.size(0), m = args.x.size(2), d = args.A_log.size(0);
  const Device device = args.x.device();
  const DType dtype = args.in_proj_weight.dtype();
  const Tensor xz = Tensor::empty({b, 2 * d}, dtype, device), y = Tensor::empty({b, d}, dtype, device);
  const Tensor out = Tensor::empty({b, 1, m}, dtype, device);
  const Tensor sum = norm_in_proj(ctx, args, xz);
  cuda::MambaStepParams p = to_params(args);
  p.xz = xz.raw();
  p.y = y.raw();
  const std::vector<Tensor> held = conv_x_proj(ctx, args, xz, p);
  cuda::mamba_step_dt_scan(cuda::current_stream(device.index), p);
  matrix_forward(ctx, y, args.out_proj_weight, args.out_proj_bias, DType::kF32, as_matrix(out));
  *residual_out = sum;
  return out;
}

}  // namespace coluber::ops
