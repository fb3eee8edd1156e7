// The operators, each an explicit pair: <op>_forward and <op>_backward, with <op>_step for one token where a state is
// carried. Equations with the papers' numbers: docs/math.md. Extents: b sequences, l tokens, d channels, n states,
// k taps, g groups, s state slots, m d_model, v vocabulary (design letters, CONTRIBUTING.md).
//
// Conventions
//   * Inputs and parameters are given in one struct; an undefined Tensor means that the option is off.
//   * On the CPU all floating tensors of a call have one dtype: f32 (fast kernels) or f64 (reference kernels, for
//     checking). Weights of linear and embedding may also be bf16 or f16. A mix throws kInvalidArgument naming both.
//   * On a GPU activations are f32, bf16 or f16, and parameters (A, D, dt_bias, convolutions, norms), states and the
//     residual stream are f32; sums are f32. All tensors of a call are on one device; ids, targets, cu_seqlens and
//     resets may come from the CPU. Work is queued on the thread's current stream (device.h).
//   * Inputs may be strided. Fast kernels want channels contiguous; other layouts are copied once.
//   * Sequences are the b rows of l tokens, or, with `cu_seqlens` (s+1) i32, s sequences packed in one row (b = 1),
//     cu_seqlens[i] to cu_seqlens[i+1] being the tokens of sequence i; states have one slot per sequence.
//   * `resets` (b,l) u8: where not 0, the state is cleared before that token.
//   * `reverse`: every sequence is processed from its last token to its first; state_in stands before the last token.
//   * `state_out`: null: not wanted. A defined tensor is written in place (it may be state_in), an undefined one made.
//   * backward returns gradients of the inputs that were defined; `grad_state_out` may be undefined (zero).
//   * Throws coluber::Error on shapes, dtypes and options that do not fit. Same bits on every run and thread count.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/config.h"
#include "coluber/context.h"
#include "coluber/tensor.h"

namespace coluber::ops {

// --- selective_scan (S6; arXiv 2312.00752 section 3, Algorithm 2) ----------------------------------------------------
// dt = softplus(dt + dt_bias); h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t; y_t = C_t h_t + D u_t; y *= silu(z).
struct SelectiveScanArgs {
  Tensor u;        // (b,l,d)
  Tensor dt;       // (b,l,d), before bias and softplus
  Tensor A;        // (d,n), or complex (d,n,2) as re, im; then B, C and states end in an axis of 2 too, y = 2 Re(C h)
  Tensor B;        // constant (d,n), variable (b,l,n) or grouped (b,l,g,n); channel i reads group i / (d/g)
  Tensor C;        // like B, independently
  Tensor D;        // (d), optional
  Tensor z;        // (b,l,d), optional
  Tensor dt_bias;  // (d), optional
  bool dt_softplus = false;
  bool reverse = false;
  Tensor state_in;    // (s,d,n), optional
  Tensor cu_seqlens;  // (s+1) i32, optional
  Tensor resets;      // (b,l) u8, optional
};
struct SelectiveScanSaved {
  Tensor checkpoints;  // state at the start of every chunk; kernel's own layout, empty for the reference kernel
};
struct SelectiveScanGrads {
  Tensor u, dt, A, B, C, D, z, dt_bias, state_in;  // shapes of the inputs
};
Tensor selective_scan_forward(Context& ctx, const SelectiveScanArgs& args, Tensor* state_out = nullptr,
                              SelectiveScanSaved* saved = nullptr);  // y (b,l,d)
// Where gradients are written when defined: as B, C and z of real numbers, channels next to each other, any other
// strides.
struct SelectiveScanTargets {
  Tensor B, C, z;
};
SelectiveScanGrads selective_scan_backward(Context& ctx, const SelectiveScanArgs& args, const SelectiveScanSaved& saved,
                                           const Tensor& grad_y, const Tensor& grad_state_out = {},
                                           const SelectiveScanTargets& into = {});
// One token: shapes as above with l = 1; `state` (b,d,n) is updated in place.
Tensor selective_scan_step(Context& ctx, const SelectiveScanArgs& args, const Tensor& state);

// --- causal_conv1d: y_t = act(bias + sum_j weight[:,j] x_{t-k+1+j}) --------------------------------------------------
struct CausalConv1dArgs {
  Tensor x;       // (b,l,d)
  Tensor weight;  // (d,k); weight[:,k-1] multiplies the current token
  Tensor bias;    // (d), optional
  bool silu = false;
  bool reverse = false;
  Tensor state_in;    // (s,d,k-1) raw inputs before the first token, oldest first, optional
  Tensor cu_seqlens;  // (s+1) i32, optional
  Tensor resets;      // (b,l) u8, optional
};
struct CausalConv1dGrads {
  Tensor x, weight, bias, state_in;
};
Tensor causal_conv1d_forward(Context& ctx, const CausalConv1dArgs& args, Tensor* state_out = nullptr);  // (b,l,d)
// grad_x_into, when defined, is where that of x is written: channels next to each other, any other strides.
CausalConv1dGrads causal_conv1d_backward(Context& ctx, const CausalConv1dArgs& args, const Tensor& grad_y,
                                         const Tensor& grad_state_out = {}, const Tensor& grad_x_into = {});
Tensor causal_conv1d_step(Context& ctx, const CausalConv1dArgs& args, const Tensor& state);  // l = 1

// --- norm: RMS or layer norm of x + residual over the last axis, optionally gated ------------------------------------
// r = x + residual; y = norm(r) weight + bias.  Gated: norm(r silu(z)) weight, or norm(r) weight silu(z) when
// norm_before_gate. With group_size > 0 the mean is over groups of that many channels.
struct NormArgs {
  Tensor x;         // (...,m)
  Tensor weight;    // (m), optional
  Tensor bias;      // (m), optional
  Tensor residual;  // (...,m), optional
  Tensor z;         // (...,m), optional gate
  NormKind kind = NormKind::kRms;
  double eps = 1e-5;
  bool norm_before_gate = false;
  std::int64_t group_size = 0;              // 0: m
  std::optional<DType> out = std::nullopt;  // of y, default that of x; on a GPU an f32 x may give bf16 or f16
};
struct NormGrads {
  Tensor x, weight, bias, z;  // the gradient of residual equals that of x
  Tensor x_narrow;            // that of x once more, in the dtype of y, where that is not x's
};
// residual_out, when not null, gets x + residual (x itself when there is no residual).
Tensor norm_forward(Context& ctx, const NormArgs& args, Tensor* residual_out = nullptr);
NormGrads norm_backward(Context& ctx, const NormArgs& args, const Tensor& grad_y, const Tensor& grad_residual_out = {});

// --- linear: y = x W^T + bias ----------------------------------------------------------------------------------------
// `compute` kBF16 rounds x and W to bf16 and accumulates in f32. W may be f32, bf16, f16 (or f64 with an f64 x).
struct LinearArgs {
  Tensor x;       // (...,in)
  Tensor weight;  // (out,in)
  Tensor bias;    // (out), optional
  DType compute = DType::kF32;
  std::optional<DType> out = std::nullopt;  // of y, default that of x; on a GPU a 16-bit x may give f32 (forward only)
  Tensor packed = {};                       // of weight, optional: what Model::pack_weights keeps of it
};
struct LinearGrads {
  Tensor x, weight, bias;
};
Tensor linear_forward(Context& ctx, const LinearArgs& args);  // (...,out), dtype of x
// grad_weight_into / grad_bias_into, when defined, are added to instead of allocating (gradient accumulation).
LinearGrads linear_backward(Context& ctx, const LinearArgs& args, const Tensor& grad_y, bool want_grad_x = true,
                            const Tensor& grad_weight_into = {}, const Tensor& grad_bias_into = {});

// --- embedding: y[i] = table[ids[i]] ---------------------------------------------------------------------------------
// ids (...) i32 in [0, v), table (v,m) of any float dtype; y (...,m) of dtype `out` (f32 or f64).
Tensor embedding_forward(Context& ctx, const Tensor& ids, const Tensor& table, DType out = DType::kF32);
// Adds to grad_table (v,m): rows are summed in token order, whatever the thread count.
void embedding_backward(Context& ctx, const Tensor& ids, const Tensor& grad_y, const Tensor& grad_table);

// --- cross entropy, alone and fused with the head --------------------------------------------------------------------
// loss = mean over targets >= 0 of logsumexp(logits) - logits[target]; -1 is ignored; 0 when nothing counts.
double cross_entropy_forward(Context& ctx, const Tensor& logits, const Tensor& targets);  // (tok,v), (tok) i32
Tensor cross_entropy_backward(Context& ctx, const Tensor& logits, const Tensor& targets, double grad_loss);

// Never holds more than a tile of logits. With gradients wanted, they come from the same pass, for d loss = 1.
struct LinearCrossEntropyArgs {
  Tensor x, weight, bias, targets;  // (tok,m), (v,m), (v) optional, (tok) i32
  DType compute = DType::kF32;
  // () f64 on the device of x, optional: what a token's loss counts instead of 1 / num_tokens. On a GPU nothing waits
  // for the device then: targets are there, too, and nobody but the kernels looks at them.
  Tensor token_weight = {}, packed = {};  // packed: as in LinearArgs
};
struct LinearCrossEntropyOut {
  double loss = 0;                        // mean, in nats
  Tensor device_loss;                     // () f64: that instead, with a token_weight on a GPU
  std::int64_t num_tokens = 0;            // targets that counted; not known then
  Tensor token_loss;                      // (tok) f64, 0 where ignored; when want_token_loss
  Tensor grad_x, grad_weight, grad_bias;  // (tok,m), (v,m), (v); when want_grad
};
LinearCrossEntropyOut linear_cross_entropy(Context& ctx, const LinearCrossEntropyArgs& args, bool want_grad,
                                           bool want_token_loss = false);

// --- dropout: y = x mask / (1 - p), mask from the counter-based generator (core/rng.h) -----------------------------
// The same (seed, stream) gives the same mask: backward is forward applied to the gradient. `stream_base` () i64 on the
// device of x, optional, is added to `stream` when the work runs: what is recorded once draws anew each time.
Tensor dropout(Context& ctx, const Tensor& x, double p, std::uint64_t seed, std::uint64_t stream,
               const Tensor& stream_base = {});

// --- small things ----------------------------------------------------------------------------------------------------
void add_inplace(Context& ctx, const Tensor& accumulator, const Tensor& x, double scale = 1);  // accumulator += scale x
void scale_inplace(Context& ctx, const Tensor& x, double scale);
void copy(Context& ctx, const Tensor& to, const Tensor& from);    // same shape and dtype, any strides, on all threads
Tensor neg_exp(Context& ctx, const Tensor& x);                    // -e^x
Tensor multiply(Context& ctx, const Tensor& a, const Tensor& b);  // same shape
double sum_of_squares(Context& ctx, const Tensor& x);             // in double, fixed order
double sum_of_squares(Context& ctx, std::span<const Tensor> tensors);  // of all of them together

// --- AdamW (arXiv 1711.05101): one step ------------------------------------------------------------------------------
// g = grad grad_scale; m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
// p -= lr (m / (1-beta1^t) / (sqrt(v / (1-beta2^t)) + eps) + weight_decay p), t = step counted from 1.
struct AdamWArgs {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double grad_scale = 1;  // min(1, clip / (norm + 1e-6)) of global-norm clipping
  std::int64_t step = 1;
};
void adamw_step(Context& ctx, const AdamWArgs& args, const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
                const Tensor& exp_avg_sq);
// For many tensors, all on one device, each with a weight decay of its own: on a GPU one launch for 70 of them.
struct AdamWTensors {
  Tensor param, grad, exp_avg, exp_avg_sq;
  double weight_decay = 0;
};
void adamw_step(Context& ctx, const AdamWArgs& args, std::span<const AdamWTensors> tensors);

// The kernel that a call takes with this algorithm on a device: "avx512", "reference", on a GPU "tiled"; for `info`.
struct KernelChoice {
  std::string op, kernel, why;
};
std::vector<KernelChoice> kernel_choices(Algorithm algorithm = Algorithm::kAuto, Device device = kCpuDevice);

}  // namespace coluber::ops
