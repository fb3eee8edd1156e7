// Model: a Mamba language model. Embedding, MambaStack, head.
//
//   Context ctx;
//   Model model = Model::load("path/to/mamba-130m");
//   State state = model.make_state(1);
//   Tensor logits = model.forward(ctx, prompt_ids, {.state = &state});   // (b,l,v); state now stands after the prompt
//   logits = model.step(ctx, next_id, state);                            // (b,v)
//
// A Model is immutable in inference: many Contexts may read one at the same time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coluber/config.h"
#include "coluber/modules.h"
#include "coluber/state.h"

namespace coluber {

struct LoadOptions {
  // Of the matrices; everything else is f32. Unset: bf16 and f16 files stay as they are, others become f32.
  // kF64 makes all of the model f64, run by the reference kernels.
  std::optional<DType> dtype;
  // Takes a sentence about each thing that the folder leaves open or that was passed over.
  std::vector<std::string>* warnings = nullptr;
};

struct SaveOptions {
  CheckpointLayout layout = CheckpointLayout::kStateSpaces;
  std::optional<DType> dtype;  // of all floating tensors in the file; unset: as they are
  bool safetensors = true;     // false: pytorch_model.bin
  std::int64_t max_shard_bytes = 5'000'000'000;
};

struct ForwardOptions {
  State* state = nullptr;        // read before and written after, in place; null: start from zero
  Sequences sequences;           // packed rows, resets
  bool last_token_only = false;  // logits (b,1,v)
  DType compute = DType::kF32;   // of matrix products; on a GPU those with 16-bit weights are in their dtype
};

// What evaluation over a text gives.
struct LossSum {
  double nats = 0;  // summed over tokens
  std::int64_t num_tokens = 0;
  double mean() const { return num_tokens > 0 ? nats / static_cast<double>(num_tokens) : 0; }
};

class Model {
 public:
  Model() = default;
  static Model create(ModelConfig config, std::uint64_t seed, DType dtype = DType::kF32);
  // A folder in state-spaces or Hugging Face layout. Tensors decide; a config that disagrees is an error that names
  // both numbers.
  static Model load(const std::string& path, const LoadOptions& options = {});
  void save(const std::string& path, const SaveOptions& options = {}) const;

  const ModelConfig& config() const { return config_; }
  DType dtype() const;  // of the matrices
  Device device() const;
  Parameters parameters() const;
  std::int64_t num_parameters() const;
  std::int64_t size_bytes() const;
  // Same model with matrices in another dtype (a copy of those).
  Model to(DType dtype) const;
  // Same model in the memory of another device: itself where it is already, else a copy.
  Model to(Device device) const;

  // Keeps the matrices of bf16 once more (as many bytes again, but for dt_proj), in the order in which tiles of this
  // processor read them (AMX): several sequences are decoded and prompts are read faster. Activations are not rounded
  // unless `compute` says so; sums of f32 go over k in another order. Nothing is kept where that gains nothing. Again
  // after weights have changed. The copy is this model's and its copies', not that of to().
  void pack_weights(Context& ctx);

  State make_state(std::int64_t batch) const;  // zeros, on the device of the model

  // ids (b,l) i32, on the CPU or the model's device -> logits (b,l,v) f32 on the model's device, over the padded
  // vocabulary.
  Tensor forward(Context& ctx, const Tensor& ids, const ForwardOptions& options = {}) const;
  // ids (b) i32 -> logits (b,v); updates the state.
  Tensor step(Context& ctx, const Tensor& ids, State& state) const;
  // Cross entropy of targets (b,l) i32 (-1: ignored) without keeping logits; state as in forward.
  LossSum evaluate(Context& ctx, const Tensor& ids, const Tensor& targets, const ForwardOptions& options = {}) const;
  // The same as a differentiable mean, for training; `token_weight`: as in autograd::linear_cross_entropy, and on a GPU
  // nothing then checks that targets are ids of the vocabulary.
  Var loss(Graph& graph, const Tensor& ids, const Tensor& targets, const Sequences& sequences = {},
           const std::vector<MixerState>* state_in = nullptr, std::vector<MixerState>* state_out = nullptr,
           const Tensor& token_weight = {}) const;

  const MambaStack& stack() const { return stack_; }
  const Var& embedding() const { return embedding_; }  // (v,m)
  const Var& head() const;                             // (v,m): the embedding when tied

 private:
  friend Model build_model(const ModelConfig& config, const Init& init);
  DType compute_dtype(DType asked) const;
  DType logits_dtype() const;
  // hidden() without a tape, from and to options.state.
  Tensor infer(Context& ctx, const Tensor& ids, const ForwardOptions& options) const;
  Var hidden(Graph& graph, const Tensor& ids, const Sequences& sequences, const std::vector<MixerState>* state_in,
             std::vector<MixerState>* state_out) const;

  ModelConfig config_;
  Var embedding_;
  Var lm_head_;         // undefined when tied
  Tensor packed_head_;  // see pack_weights
  MambaStack stack_;
};

}  // namespace coluber
