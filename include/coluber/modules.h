// The parts that models are made of: Linear, Norm, the Mamba mixer, a residual block and a stack of them.
//
// A module is written once, over Var: with a tape in the Graph it trains, without one it is prefill. `step` (one token,
// no tape) is its second telling, and the law tests tie the two together. Every forward takes an optional state and
// gives one back on request; gradients flow through both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coluber/autograd.h"
#include "coluber/config.h"
#include "coluber/state.h"

namespace coluber {

namespace ops {
struct MambaStepArgs;
}

// A trainable tensor and what the optimiser must know of it.
struct Parameter {
  std::string name;  // as in the state-spaces layout, "layers.0.mixer.in_proj.weight"
  Var var;
  bool weight_decay = true;  // false for A_log, D, the convolution, biases and norms
  bool matrix = false;       // may be stored in 16 bits; the others stay in f32
};
using Parameters = std::vector<Parameter>;

// Random numbers for initialisation: each parameter draws from a stream named by its own name, so adding a layer does
// not change the others.
struct Init {
  std::uint64_t seed = 0;
  DType dtype = DType::kF32;  // kF32, or kF64 for gradient checks
  bool placeholder = false;   // shapes without memory, for values that come from a file
};

struct Linear {
  Var weight;     // (out,in)
  Var bias;       // (out), optional
  Tensor packed;  // optional, see Model::pack_weights

  Var forward(Graph& graph, const Var& x) const { return autograd::linear(graph, x, weight, bias, packed); }
  Tensor step(Context& ctx, const Tensor& x) const;
};

// Keeps the weights of `products` packed: see Model::pack_weights.
void pack_weights(Context& ctx, const std::vector<Linear*>& products);

struct Norm {
  Var weight;  // (m)
  Var bias;    // (m), layer norm only
  NormKind kind = NormKind::kRms;
  double eps = 1e-5;
};

// The differentiable state of one mixer. Undefined Vars stand for zeros.
struct MixerState {
  Var conv;  // (s,d,k-1)
  Var ssm;   // (s,d,n)
};

// The Mamba-1 mixer (Figure 3 of arXiv 2312.00752):
//   x, z = split(in_proj(input)); x = silu(conv1d(x)); dt, B, C = split(x_proj(x)); dt = dt_proj.weight dt;
//   y = selective_scan(x, dt, A = -exp(A_log), B, C, D, z, dt_bias = dt_proj.bias); out_proj(y).
// Falcon-Mamba divides dt, B and C by their root mean square first. A bidirectional mixer has a second set of conv1d,
// x_proj, dt_proj, A_log and D that reads the sequence backwards; both outputs are added before out_proj. Where
// `resets` mark the first tokens of documents, neither direction sees past a document's ends.
class Mamba {
 public:
  Mamba() = default;
  // out_proj starts divided by sqrt(residual_layers) when that is > 0.
  Mamba(const MambaConfig& config, const Init& init, const std::string& name, std::int64_t residual_layers = 0,
        bool bidirectional = false);

  const MambaConfig& config() const { return config_; }
  bool bidirectional() const { return directions_.size() == 2; }
  DType dtype() const { return in_proj_.weight.value().dtype(); }  // of the matrices
  void append_parameters(Parameters& parameters) const;
  void append_products(std::vector<Linear*>& products);  // that packed weights speed up, in the order of a token

  // x (b,l,m) -> (b,l,m). A bidirectional mixer takes no state.
  Var forward(Graph& graph, const Var& x, const Sequences& sequences = {}, const MixerState* state_in = nullptr,
              MixerState* state_out = nullptr) const;
  // x (b,1,m) -> (b,1,m); updates the state in place.
  Tensor step(Context& ctx, const Tensor& x, const LayerState& state) const;
  LayerState make_state(std::int64_t batch, DType dtype = DType::kF32) const;  // zeros
  // What a fused step of the block needs of the mixer (ops/mamba_step.h).
  void describe_step(ops::MambaStepArgs& args, const LayerState& state) const;

 private:
  struct Direction {
    Var conv_weight;  // (d,k)
    Var conv_bias;    // (d)
    Linear x_proj;    // (u+2n,d)
    Var dt_weight;    // (d,u)
    Var dt_bias;      // (d)
    Var A_log;        // (d,n)
    Var D;            // (d)
  };
  Direction make_direction(const Init& init, const std::string& name, const std::string& suffix) const;
  Var scan_direction(Graph& graph, const Direction& direction, const Var& x, const Var& z, bool reverse,
                     const Sequences& sequences, const MixerState* state_in, MixerState* state_out) const;

  MambaConfig config_;
  std::string name_;
  Linear in_proj_;   // (2d,m)
  Linear out_proj_;  // (m,d)
  std::vector<Direction> directions_;
};

struct StackConfig {
  std::int64_t n_layer = 1;
  MambaConfig mixer;
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  bool bidirectional = false;
  bool residual_in_fp32 = true;  // false: where products are bf16, x is rounded to bf16 after each block
  double dropout = 0.0;
  bool rescale_prenorm_residual = true;
};

// n_layer residual blocks, x = x + mixer(norm(x)), and a final norm: a Mamba without embedding and head, for signals,
// images or features of any kind. It is the backbone of the language model as well.
class MambaStack {
 public:
  MambaStack() = default;
  MambaStack(const StackConfig& config, const Init& init, const std::string& name = "");

  const StackConfig& config() const { return config_; }
  void append_parameters(Parameters& parameters) const;
  Parameters parameters() const;
  void append_products(std::vector<Linear*>& products);  // that packed weights speed up, in the order of a token

  Var forward(Graph& graph, const Var& x, const Sequences& sequences = {},
              const std::vector<MixerState>* state_in = nullptr, std::vector<MixerState>* state_out = nullptr) const;
  Tensor step(Context& ctx, const Tensor& x, State& state) const;  // x (b,1,m)
  // The same through the head (v,m): (b,1,v) in `out`, on a GPU in one kernel with the last norm.
  Tensor step(Context& ctx, const Tensor& x, State& state, const Linear& head, DType out) const;
  State make_state(std::int64_t batch, DType dtype = DType::kF32) const;

 private:
  struct Block {
    Norm norm;
    Mamba mixer;
  };
  Tensor step_blocks(Context& ctx, const Tensor& x, State& state, Tensor* residual) const;

  StackConfig config_;
  std::string name_;
  std::vector<Block> blocks_;
  Norm norm_f_;
};

}  // namespace coluber
