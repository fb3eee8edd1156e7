// mamba_step: one token of a residual block, x = x + mixer(norm(x)), for a few sequences at once (arXiv 2312.00752,
// Figure 3), in four kernels instead of nine:
//
//   norm_linear     r = x + residual;  xz = norm(r) W_in^T + b_in
//   conv_x_proj     u = silu(conv(x)); dt B C = u W_x^T, as partial sums over slices of channels
//   dt_scan         dt = softplus(W_dt dt + dt_bias); h = exp(dt A) h + dt B u; y = (C h + D u) silu(z)
//   matmul_skinny   out = y W_out^T + b_out (kernels/matmul.h)
//
// Where sizes do not fit the first or the second, ops/mamba_step.cc takes norm, convolution and products one by one.
//
// Bound by reading the weights once. Each kernel may start while the one before still runs: it asks for its first
// weights before it waits for its input. The numbers are those of modules/mamba.cc step by step, roundings to the
// storage type included, but for the order of sums. A row's result does not depend on how many rows there are. Called
// by ops/mamba_step.cc, which checks shapes. Extents: b rows, m d_model, d channels, n states, k taps, u dt_rank.
#pragma once

#include <cstdint>

#include "kernels/matmul.h"

namespace coluber::cuda {

struct NormLinearParams {
  Matrix x;                         // (b,m) of the dtype of the weights; without data: the residual alone
  const float* residual = nullptr;  // (b,m)
  float* residual_out = nullptr;    // (b,m), optional; not residual
  const float* norm_weight = nullptr;
  const float* norm_bias = nullptr;  // optional
  bool layer_norm = false;
  float eps = 0;
  Matrix weight;                // (rows,m); norm(r) is rounded to its dtype
  const float* bias = nullptr;  // (rows), optional
  Matrix y;                     // (b,rows)
};
// Up to 8 rows of at most 4096 channels, in multiples of 16 bytes.
bool takes_norm_linear(const NormLinearParams& p);
void norm_linear(const Stream& stream, const NormLinearParams& p);

struct MambaStepParams {
  std::int64_t b = 0, d = 0, n = 0, k = 0, u = 0;
  DType dtype = DType::kF32;           // of xz, channels and y
  const void* xz = nullptr;            // (b,2d)
  const float* conv_weight = nullptr;  // (d,k)
  const float* conv_bias = nullptr;    // (d), optional
  Matrix x_proj;                       // (u+2n,d)
  Matrix dt_proj;                      // (d,u)
  const float* dt_bias = nullptr;      // (d)
  const float* A_log = nullptr;        // (d,n)
  const float* D = nullptr;            // (d)
  bool norm_dt_B_C = false;
  float norm_dt_B_C_eps = 0;
  float* conv_state = nullptr;   // (b,d,k-1), changed in place
  float* ssm_state = nullptr;    // (b,d,n), changed in place
  void* channels = nullptr;      // (b,d): u of the equations, what the convolution gives
  float* dt_B_C = nullptr;       // (num_partial,b,u+2n): parts of u W_x^T
  std::int64_t num_partial = 1;  // what conv_x_proj makes of channels: mamba_step_partials()
  void* y = nullptr;             // (b,d)
};
// Any b; d a multiple of 32, n of 4, u + 2n at most 512.
bool takes_dt_scan(const MambaStepParams& p);
void mamba_step_dt_scan(const Stream& stream, const MambaStepParams& p);
// Up to 8 rows, and k at most 8; more go through causal_conv1d and the matrix library.
bool takes_conv_x_proj(const MambaStepParams& p);
std::int64_t mamba_step_partials(const MambaStepParams& p);
void mamba_step_conv_x_proj(const Stream& stream, const MambaStepParams& p);

}  // namespace coluber::cuda
