#include <cmath>

#include "coluber/modules.h"
#include "core/check.h"
#include "modules/init.h"
#include "ops/linear.h"
#include "ops/mamba_step.h"

namespace coluber {
namespace {

// A document that begins at token t begins, read backwards, at token t - 1.
Sequences read_backwards(const Sequences& sequences) {
  const Tensor& resets = sequences.resets;
  if (!resets.defined() || resets.rank() != 2 || resets.size(1) == 0) return sequences;
  const std::int64_t l = resets.size(1);
  const Tensor earlier = Tensor::zeros(resets.shape(), resets.dtype(), resets.device());
  earlier.slice(1, 0, l - 1).copy_from(resets.slice(1, 1, l));
  return {sequences.cu_seqlens, earlier};
}

}  // namespace

Tensor Linear::step(Context& ctx, const Tensor& x) const {
  return ops::linear_forward(ctx, {x, weight.value(), bias.value(), DType::kF32, {}, packed});
}

void pack_weights(Context& ctx, const std::vector<Linear*>& products) {
  std::vector<Tensor> weights;
  for (const Linear* product : products) weights.push_back(product->weight.value());
  const std::vector<Tensor> packed = ops::pack_linear_weights(ctx, weights);
  for (std::size_t i = 0; i < products.size(); ++i) products[i]->packed = packed[i];
}

Mamba::Mamba(const MambaConfig& config, const Init& init, const std::string& name, std::int64_t residual_layers,
             bool bidirectional)
    : config_(config), name_(name) {
  config_.resolve();
  const std::int64_t m = config_.d_model, d = config_.d_inner;
  in_proj_.weight = init::fan_in_uniform(init, name + "in_proj.weight", {2 * d, m}, m);
  if (config_.bias) in_proj_.bias = init::constant(init, {2 * d}, 0);
  directions_.push_back(make_direction(init, name, ""));
  if (bidirectional) directions_.push_back(make_direction(init, name, "_b"));
  // The residual stream sums n_layer branches; this keeps its variance at the start independent of depth.
  const double scale = residual_layers > 0 ? 1 / std::sqrt(static_cast<double>(residual_layers)) : 1;
  out_proj_.weight = init::fan_in_uniform(init, name + "out_proj.weight", {m, d}, d, scale);
  if (config_.bias) out_proj_.bias = init::constant(init, {m}, 0);
}

Mamba::Direction Mamba::make_direction(const Init& init, const std::string& name, const std::string& suffix) const {
  const std::int64_t d = config_.d_inner, n = config_.d_state, k = config_.d_conv, u = config_.dt_rank;
  const MambaInit& options = config_.init;
  Direction direction;
  direction.conv_weight = init::fan_in_uniform(init, name + "conv1d" + suffix + ".weight", {d, k}, k);
  if (config_.conv_bias) direction.conv_bias = init::fan_in_uniform(init, name + "conv1d" + suffix + ".bias", {d}, k);
  direction.x_proj.weight = init::fan_in_uniform(init, name + "x_proj" + suffix + ".weight", {u + 2 * n, d}, d);
  const double dt_std = options.dt_scale / std::sqrt(static_cast<double>(u));
  const std::string dt_name = name + "dt_proj" + suffix + ".weight";
  direction.dt_weight = options.dt_init_random ? init::uniform(init, dt_name, {d, u}, -dt_std, dt_std)
                                               : init::constant(init, {d, u}, dt_std);
  direction.dt_bias = init::dt_bias(init, name + "dt_proj" + suffix + ".bias", d, options);
  direction.A_log = init::s4d_real_log(init, d, n);
  direction.D = init::constant(init, {d}, 1);
  return direction;
}

void Mamba::append_parameters(Parameters& parameters) const {
  auto append = [&](const std::string& name, const Var& var, bool weight_decay, bool matrix) {
    if (var.defined()) parameters.push_back({name_ + name, var, weight_decay, matrix});
  };
  append("in_proj.weight", in_proj_.weight, true, true);
  append("in_proj.bias", in_proj_.bias, false, false);
  for (std::size_t i = 0; i < directions_.size(); ++i) {
    const Direction& direction = directions_[i];
    const std::string suffix = i == 0 ? "" : "_b";
    append("conv1d" + suffix + ".weight", direction.conv_weight, false, false);
    append("conv1d" + suffix + ".bias", direction.conv_bias, false, false);
    append("x_proj" + suffix + ".weight", direction.x_proj.weight, true, true);
    append("dt_proj" + suffix + ".weight", direction.dt_weight, true, true);
    append("dt_proj" + suffix + ".bias", direction.dt_bias, false, false);
    append(i == 0 ? "A_log" : "A_b_log", direction.A_log, false, false);
    append("D" + suffix, direction.D, false, false);
  }
  append("out_proj.weight", out_proj_.weight, true, true);
  append("out_proj.bias", out_proj_.bias, false, false);
}

void Mamba::append_products(std::vector<Linear*>& products) {
  products.push_back(&in_proj_);
  for (Direction& direction : directions_) products.push_back(&direction.x_proj);
  products.push_back(&out_proj_);
}

Var Mamba::forward(Graph& graph, const Var& x, const Sequences& sequences, const MixerState* state_in,
                   MixerState* state_out) const {
  check_equal("mamba", "last axis of x (d_model)", config_.d_model, x.value().size(-1));
  check_equal("mamba", "rank of x (b,l,d_model)", 3, x.value().rank());
  if (bidirectional() && (state_in != nullptr || state_out != nullptr)) {
    refuse(ErrorCode::kInvalidArgument, "mamba",
           "state: expected none for a bidirectional mixer, got one (it reads the whole sequence at once)");
  }
  const std::int64_t d = config_.d_inner;
  const std::vector<Var> xz = autograd::split(graph, in_proj_.forward(graph, x), {d, d});
  Var y = scan_direction(graph, directions_[0], xz[0], xz[1], false, sequences, state_in, state_out);
  if (bidirectional()) {
    y = autograd::add(
        graph, y,
        scan_direction(graph, directions_[1], xz[0], xz[1], true, read_backwards(sequences), nullptr, nullptr));
  }
  return out_proj_.forward(graph, y);
}

Var Mamba::scan_direction(Graph& graph, const Direction& direction, const Var& x, const Var& z, bool reverse,
                          const Sequences& sequences, const MixerState* state_in, MixerState* state_out) const {
  const std::int64_t n = config_.d_state, u = config_.dt_rank;
  const Var conv_x = autograd::causal_conv1d(graph, x, direction.conv_weight, direction.conv_bias, true, reverse,
                                             sequences, state_in != nullptr ? state_in->conv : Var{},
                                             state_out != nullptr ? &state_out->conv : nullptr);
  std::vector<Var> dt_B_C = autograd::split(graph, direction.x_proj.forward(graph, conv_x), {u, n, n});
  if (config_.norm_dt_B_C) {
    for (Var& part : dt_B_C) part = autograd::norm(graph, part, {}, {}, {}, NormKind::kRms, config_.norm_dt_B_C_eps);
  }
  autograd::SelectiveScanVars vars;
  vars.u = conv_x;
  vars.dt = autograd::linear(graph, dt_B_C[0], direction.dt_weight);
  vars.A = autograd::neg_exp(graph, direction.A_log);
  vars.B = dt_B_C[1];
  vars.C = dt_B_C[2];
  vars.D = direction.D;
  vars.z = z;
  vars.dt_bias = direction.dt_bias;
  if (state_in != nullptr) vars.state_in = state_in->ssm;
  return autograd::selective_scan(graph, vars, true, reverse, sequences,
                                  state_out != nullptr ? &state_out->ssm : nullptr);
}

Tensor Mamba::step(Context& ctx, const Tensor& x, const LayerState& state) const {
  if (bidirectional()) {
    refuse(ErrorCode::kInvalidArgument, "mamba",
           "step: expected a causal mixer, got a bidirectional one (it needs the whole sequence)");
  }
  const std::int64_t d = config_.d_inner, n = config_.d_state, u = config_.dt_rank;
  const Direction& direction = directions_[0];
  const Tensor xz = in_proj_.step(ctx, x);  // (b,1,2d)
  ops::CausalConv1dArgs conv;
  conv.x = xz.slice(-1, 0, d);
  conv.weight = direction.conv_weight.value();
  conv.bias = direction.conv_bias.value();
  conv.silu = true;
  ops::SelectiveScanArgs scan;
  scan.u = ops::causal_conv1d_step(ctx, conv, state.conv);  // (b,1,d)
  const Tensor dt_B_C = direction.x_proj.step(ctx, scan.u);
  auto part = [&](std::int64_t begin, std::int64_t end) {
    const Tensor slice = dt_B_C.slice(-1, begin, end);
    if (!config_.norm_dt_B_C) return slice;
    ops::NormArgs norm;
    norm.x = slice;
    norm.eps = config_.norm_dt_B_C_eps;
    return ops::norm_forward(ctx, norm);
  };
  scan.dt = ops::linear_forward(ctx, {part(0, u), direction.dt_weight.value(), {}, DType::kF32, {}});
  scan.B = part(u, u + n);
  scan.C = part(u + n, u + 2 * n);
  scan.A = ops::neg_exp(ctx, direction.A_log.value());
  scan.D = direction.D.value();
  scan.z = xz.slice(-1, d, 2 * d);
  scan.dt_bias = direction.dt_bias.value();
  scan.dt_softplus = true;
  return out_proj_.step(ctx, ops::selective_scan_step(ctx, scan, state.ssm));
}

void Mamba::describe_step(ops::MambaStepArgs& args, const LayerState& state) const {
  const Direction& direction = directions_[0];
  args.in_proj_weight = in_proj_.weight.value();
  args.in_proj_bias = in_proj_.bias.value();
  args.conv_weight = direction.conv_weight.value();
  args.conv_bias = direction.conv_bias.value();
  args.x_proj_weight = direction.x_proj.weight.value();
  args.dt_proj_weight = direction.dt_weight.value();
  args.dt_bias = direction.dt_bias.value();
  args.A_log = direction.A_log.value();
  args.D = direction.D.value();
  args.out_proj_weight = out_proj_.weight.value();
  args.out_proj_bias = out_proj_.bias.value();
  args.norm_dt_B_C = config_.norm_dt_B_C;
  args.norm_dt_B_C_eps = config_.norm_dt_B_C_eps;
  args.conv_state = state.conv;
  args.ssm_state = state.ssm;
}

LayerState Mamba::make_state(std::int64_t batch, DType dtype) const {
  const Device device = in_proj_.weight.value().device();
  return {Tensor::zeros({batch, config_.d_inner, config_.d_conv - 1}, dtype, device),
          Tensor::zeros({batch, config_.d_inner, config_.d_state}, dtype, device)};
}

}  // namespace coluber
