#include "coluber/model.h"

#include "core/check.h"
#include "models/build.h"
#include "modules/init.h"

namespace coluber {
namespace {

StackConfig stack_config(const ModelConfig& config) {
  StackConfig stack;
  stack.n_layer = config.n_layer;
  stack.mixer = config.mixer;
  stack.norm = config.norm;
  stack.norm_eps = config.norm_eps;
  stack.bidirectional = config.bidirectional;
  stack.residual_in_fp32 = config.residual_in_fp32;
  stack.dropout = config.dropout;
  stack.rescale_prenorm_residual = config.rescale_prenorm_residual;
  return stack;
}

// State tensors as constant Vars, and back into the State's own memory.
std::vector<MixerState> to_vars(const State& state) {
  std::vector<MixerState> vars;
  for (std::size_t i = 0; i < state.num_layers(); ++i) vars.push_back({state.layer(i).conv, state.layer(i).ssm});
  return vars;
}

void write_back(const std::vector<MixerState>& vars, std::int64_t tokens, State& state) {
  for (std::size_t i = 0; i < vars.size(); ++i) {
    state.layer(i).conv.copy_from(vars[i].conv.value());
    state.layer(i).ssm.copy_from(vars[i].ssm.value());
  }
  state.advance(tokens);
}

void check_ids(const Tensor& ids) {
  check_equal("model", "rank of ids (b,l)", 2, ids.rank());
  if (ids.dtype() != DType::kI32) {
    refuse_value(ErrorCode::kInvalidArgument, "model", "dtype of ids", "i32", dtype_name(ids.dtype()));
  }
}

void check_targets(const Tensor& ids, const Tensor& targets) {
  if (ids.shape() == targets.shape()) return;
  refuse_value(ErrorCode::kInvalidArgument, "model", "shape of targets", ids.shape().to_string(),
               targets.shape().to_string());
}

void check_state(const ModelConfig& config, const State& state, std::int64_t slots) {
  check_equal("model", "layers of the state", config.n_layer, static_cast<long long>(state.num_layers()),
              "make it with make_state of this model");
  check_equal("model", "sequences of the state", slots, state.batch());
}

}  // namespace

Model Model::create(ModelConfig config, std::uint64_t seed, DType dtype) {
  config.resolve();
  const bool wide = dtype == DType::kF64;
  Model model = build_model(config, Init{seed, wide ? DType::kF64 : DType::kF32, false});
  return wide || dtype == DType::kF32 ? model : model.to(dtype);
}

Model build_model(const ModelConfig& config, const Init& init) {
  Model model;
  model.config_ = config;
  const Shape table = {config.padded_vocab_size(), config.d_model};
  model.embedding_ = init::normal(init, "backbone.embedding.weight", table, config.initializer_range);
  if (!config.tie_embeddings) {
    model.lm_head_ = init::fan_in_uniform(init, "lm_head.weight", table, config.d_model);
  }
  model.stack_ = MambaStack(stack_config(config), init, "backbone.");
  return model;
}

const Var& Model::head() const {
  return lm_head_.defined() ? lm_head_ : embedding_;
}
DType Model::dtype() const {
  return embedding_.value().dtype();
}
Device Model::device() const {
  return embedding_.value().device();
}

// Of products: what was asked for, but 16-bit weights on a GPU meet activations of their own dtype.
DType Model::compute_dtype(DType asked) const {
  return !device().is_cpu() && dtype_size(dtype()) == 2 ? dtype() : asked;
}

Parameters Model::parameters() const {
  Parameters parameters;
  parameters.push_back({"backbone.embedding.weight", embedding_, true, true});
  stack_.append_parameters(parameters);
  if (lm_head_.defined()) parameters.push_back({"lm_head.weight", lm_head_, true, true});
  return parameters;
}

std::int64_t Model::num_parameters() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.var.value().numel();
  return count;
}

std::int64_t Model::size_bytes() const {
  std::int64_t bytes = 0;
  for (const Parameter& parameter : parameters()) bytes += parameter.var.value().size_bytes();
  return bytes;
}

namespace {

// The same model with memory of its own: make(parameter) gives that of one, which its value is copied to.
template <class F>
Model copy_of(const Model& model, F&& make) {
  Model copy = build_model(model.config(), Init{0, DType::kF32, true});
  const Parameters from = model.parameters(), to = copy.parameters();
  for (std::size_t i = 0; i < from.size(); ++i) {
    const Tensor own = make(from[i]);
    own.copy_from(from[i].var.value());
    to[i].var.set_value(own);
  }
  return copy;
}

void check_fits_device(DType dtype, Device device) {
  if (device.is_cpu() || dtype != DType::kF64) return;
  refuse_value(ErrorCode::kUnsupported, "model", join("dtype on ", device_name(device)), "f32, bf16 or f16", "f64",
               "f64 is computed on the cpu alone: convert the model with to(dtype) first");
}

}  // namespace

Model Model::to(DType dtype) const {
  if (!dtype_is_float(dtype)) {
    refuse_value(ErrorCode::kInvalidArgument, "model", "dtype", "f32, f64, bf16 or f16", dtype_name(dtype));
  }
  check_fits_device(dtype, device());
  const DType other = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  return copy_of(*this, [&](const Parameter& parameter) {
    return Tensor::empty(parameter.var.value().shape(), parameter.matrix ? dtype : other, device());
  });
}

Model Model::to(Device device) const {
  if (device == this->device()) return *this;
  check_fits_device(dtype(), device);
  return copy_of(*this, [&](const Parameter& parameter) {
    return Tensor::empty(parameter.var.value().shape(), parameter.var.value().dtype(), device);
  });
}

void Model::pack_weights(Context& ctx) {
  std::vector<Linear*> products;
  stack_.append_products(products);
  Linear head{this->head(), {}, {}};
  products.push_back(&head);
  coluber::pack_weights(ctx, products);
  packed_head_ = head.packed;
}

State Model::make_state(std::int64_t batch) const {
  if (batch < 0) refuse_value(ErrorCode::kInvalidArgument, "model", "batch", "0 or more", std::to_string(batch));
  return stack_.make_state(batch, dtype() == DType::kF64 ? DType::kF64 : DType::kF32);
}

Var Model::hidden(Graph& graph, const Tensor& ids, const Sequences& sequences, const std::vector<MixerState>* state_in,
                  std::vector<MixerState>* state_out) const {
  check_ids(ids);
  const Var x = autograd::embedding(graph, ids, embedding_);
  return stack_.forward(graph, x, sequences, state_in, state_out);
}

Tensor Model::infer(Context& ctx, const Tensor& ids, const ForwardOptions& options) const {
  check_ids(ids);
  Graph graph{ctx};
  graph.compute = compute_dtype(options.compute);
  if (options.state == nullptr) return hidden(graph, ids, options.sequences, nullptr, nullptr).value();
  const Tensor& packed = options.sequences.cu_seqlens;
  check_state(config_, *options.state, packed.defined() ? packed.numel() - 1 : ids.size(0));
  std::vector<MixerState> states = to_vars(*options.state);
  const Tensor x = hidden(graph, ids, options.sequences, &states, &states).value();
  write_back(states, ids.size(1), *options.state);
  return x;
}

DType Model::logits_dtype() const {
  return dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
}

Tensor Model::forward(Context& ctx, const Tensor& ids, const ForwardOptions& options) const {
  Tensor x = infer(ctx, ids, options);
  if (options.last_token_only && ids.size(1) > 0) x = x.slice(1, ids.size(1) - 1, ids.size(1)).contiguous();
  return ops::linear_forward(ctx, {x, head().value(), {}, options.compute, logits_dtype(), packed_head_});
}

Tensor Model::step(Context& ctx, const Tensor& ids, State& state) const {
  check_equal("model", "rank of ids (b)", 1, ids.rank());
  check_state(config_, state, ids.size(0));
  const Tensor x = ops::embedding_forward(ctx, ids.unsqueeze(1), embedding_.value(), logits_dtype());  // (b,1,m)
  const Linear head{this->head(), {}, packed_head_};
  return stack_.step(ctx, x, state, head, logits_dtype()).reshape({ids.size(0), config_.padded_vocab_size()});
}

LossSum Model::evaluate(Context& ctx, const Tensor& ids, const Tensor& targets, const ForwardOptions& options) const {
  check_targets(ids, targets);
  const Tensor x = infer(ctx, ids, options);
  const std::int64_t tokens = ids.numel();
  const ops::LinearCrossEntropyOut out = ops::linear_cross_entropy(ctx,
                                                                   {x.reshape({tokens, config_.d_model}),
                                                                    head().value(),
                                                                    {},
                                                                    targets.contiguous().reshape({tokens}),
                                                                    options.compute,
                                                                    {},
                                                                    packed_head_},
                                                                   false);
  return {out.loss * static_cast<double>(out.num_tokens), out.num_tokens};
}

Var Model::loss(Graph& graph, const Tensor& ids, const Tensor& targets, const Sequences& sequences,
                const std::vector<MixerState>* state_in, std::vector<MixerState>* state_out,
                const Tensor& token_weight) const {
  check_targets(ids, targets);
  const Var x = hidden(graph, ids, sequences, state_in, state_out);
  const std::int64_t tokens = ids.numel();
  return autograd::linear_cross_entropy(graph, autograd::reshape(graph, x, {tokens, config_.d_model}), head(),
                                        targets.contiguous().reshape({tokens}), token_weight);
}

}  // namespace coluber
