#include "coluber/modules.h"
#include "core/check.h"
#include "modules/init.h"
#include "ops/mamba_step.h"

namespace coluber {
namespace {

Norm make_norm(const StackConfig& config, const Init& init) {
  Norm norm;
  norm.kind = config.norm;
  norm.eps = config.norm_eps;
  norm.weight = init::constant(init, {config.mixer.d_model}, 1);
  if (config.norm == NormKind::kLayer) norm.bias = init::constant(init, {config.mixer.d_model}, 0);
  return norm;
}

void append_norm(Parameters& parameters, const std::string& name, const Norm& norm) {
  parameters.push_back({name + ".weight", norm.weight, false, false});
  if (norm.bias.defined()) parameters.push_back({name + ".bias", norm.bias, false, false});
}

// On a GPU y is stored as the weights that it is multiplied with.
Tensor norm_step(Context& ctx, const Norm& norm, const Tensor& x, const Tensor& residual, DType weights,
                 Tensor* residual_out) {
  ops::NormArgs args;
  if (!x.device().is_cpu()) args.out = weights;
  args.x = x;
  args.residual = residual;
  args.weight = norm.weight.value();
  args.bias = norm.bias.value();
  args.kind = norm.kind;
  args.eps = norm.eps;
  return ops::norm_forward(ctx, args, residual_out);
}

// mixer.forward, kept for backward as graph.recompute says.
Var run_mixer(Graph& graph, const Mamba& mixer, const Var& x, const Sequences& sequences, const MixerState* state_in,
              MixerState* state_out) {
  if (graph.recompute != Recompute::kLayer) return mixer.forward(graph, x, sequences, state_in, state_out);
  const bool in = state_in != nullptr, out = state_out != nullptr;
  const auto forward = [mixer, sequences, in, out](Graph& again, const std::vector<Var>& inputs) {
    const MixerState from{inputs[1], inputs[2]};
    MixerState to;
    Graph whole = again;
    whole.recompute = Recompute::kNone;
    const Var y = mixer.forward(whole, inputs[0], sequences, in ? &from : nullptr, out ? &to : nullptr);
    again.dropout_stream = whole.dropout_stream;
    return std::vector<Var>{y, to.conv, to.ssm};
  };
  const std::vector<Var> outputs =
      autograd::recomputed(graph, {x, in ? state_in->conv : Var{}, in ? state_in->ssm : Var{}}, forward);
  if (out) *state_out = {outputs[1], outputs[2]};
  return outputs[0];
}

ops::MambaStepArgs fused_step(const Norm& norm, const Mamba& mixer, const Tensor& x, const Tensor& residual,
                              const LayerState& state) {
  ops::MambaStepArgs args;
  args.x = x;
  args.residual = residual;
  args.norm_weight = norm.weight.value();
  args.norm_bias = norm.bias.value();
  args.norm = norm.kind;
  args.norm_eps = norm.eps;
  mixer.describe_step(args, state);
  return args;
}

}  // namespace

MambaStack::MambaStack(const StackConfig& config, const Init& init, const std::string& name)
    : config_(config), name_(name) {
  config_.mixer.resolve();
  if (config_.n_layer < 1) {
    refuse_value(ErrorCode::kInvalidArgument, "stack", "n_layer", "1 or more", std::to_string(config_.n_layer));
  }
  for (std::int64_t i = 0; i < config_.n_layer; ++i) {
    const std::string layer = join(name_, "layers.", i, ".");
    blocks_.push_back({make_norm(config_, init),
                       Mamba(config_.mixer, init, layer + "mixer.",
                             config_.rescale_prenorm_residual ? config_.n_layer : 0, config_.bidirectional)});
  }
  norm_f_ = make_norm(config_, init);
}

void MambaStack::append_parameters(Parameters& parameters) const {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    append_norm(parameters, join(name_, "layers.", i, ".norm"), blocks_[i].norm);
    blocks_[i].mixer.append_parameters(parameters);
  }
  append_norm(parameters, name_ + "norm_f", norm_f_);
}

Parameters MambaStack::parameters() const {
  Parameters parameters;
  append_parameters(parameters);
  return parameters;
}

void MambaStack::append_products(std::vector<Linear*>& products) {
  for (Block& block : blocks_) block.mixer.append_products(products);
}

Var MambaStack::forward(Graph& graph, const Var& x, const Sequences& sequences, const std::vector<MixerState>* state_in,
                        std::vector<MixerState>* state_out) const {
  if (state_in != nullptr) {
    check_equal("stack", "layers of state_in", config_.n_layer, static_cast<long long>(state_in->size()));
  }
  if (state_out != nullptr) state_out->resize(blocks_.size());  // may be the vector that state_in points to
  Var hidden = x, residual;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Norm& norm = blocks_[i].norm;
    const Var normed = autograd::norm(graph, hidden, norm.weight, norm.bias, residual, norm.kind, norm.eps, &residual);
    if (!config_.residual_in_fp32 && graph.compute == DType::kBF16) {
      residual = autograd::rounded(graph, residual, DType::kBF16);
    }
    MixerState next;
    hidden = run_mixer(graph, blocks_[i].mixer, normed, sequences, state_in != nullptr ? &(*state_in)[i] : nullptr,
                       state_out != nullptr ? &next : nullptr);
    if (state_out != nullptr) (*state_out)[i] = std::move(next);
    hidden = autograd::dropout(graph, hidden, config_.dropout);
  }
  return autograd::norm(graph, hidden, norm_f_.weight, norm_f_.bias, residual, norm_f_.kind, norm_f_.eps);
}

Tensor MambaStack::step_blocks(Context& ctx, const Tensor& x, State& state, Tensor* residual) const {
  check_equal("stack", "layers of the state", config_.n_layer, static_cast<long long>(state.num_layers()));
  Tensor hidden = x;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (!hidden.device().is_cpu()) {
      const ops::MambaStepArgs fused = fused_step(blocks_[i].norm, blocks_[i].mixer, hidden, *residual, state.layer(i));
      if (!blocks_[i].mixer.bidirectional() && ops::takes_mamba_step(fused)) {
        hidden = ops::mamba_step(fused, residual);
        continue;
      }
    }
    Tensor sum;
    const Tensor normed = norm_step(ctx, blocks_[i].norm, hidden, *residual, blocks_.front().mixer.dtype(), &sum);
    *residual = sum;
    hidden = blocks_[i].mixer.step(ctx, normed, state.layer(i));
  }
  state.advance(x.size(1));
  return hidden;
}

Tensor MambaStack::step(Context& ctx, const Tensor& x, State& state) const {
  Tensor residual, sum;
  const Tensor hidden = step_blocks(ctx, x, state, &residual);
  return norm_step(ctx, norm_f_, hidden, residual, blocks_.front().mixer.dtype(), &sum);
}

Tensor MambaStack::step(Context& ctx, const Tensor& x, State& state, const Linear& head, DType out) const {
  Tensor residual, sum;
  const Tensor hidden = step_blocks(ctx, x, state, &residual);
  const ops::NormLinearArgs args{hidden,       residual,    norm_f_.weight.value(), norm_f_.bias.value(),
                                 norm_f_.kind, norm_f_.eps, head.weight.value(),    {}};
  if (ops::takes_norm_linear(args)) return ops::norm_linear(args, out, nullptr);
  const Tensor y = norm_step(ctx, norm_f_, hidden, residual, blocks_.front().mixer.dtype(), &sum);
  return ops::linear_forward(ctx, {y, head.weight.value(), {}, DType::kF32, out, head.packed});
}

State MambaStack::make_state(std::int64_t batch, DType dtype) const {
  std::vector<LayerState> layers;
  for (const Block& block : blocks_) layers.push_back(block.mixer.make_state(batch, dtype));
  return State(std::move(layers));
}

}  // namespace coluber
