// mamba_step: one token of a residual block, x = x + mixer(norm(x)), for a few sequences at once (arXiv 2312.00752,
// Figure 3), in three to five kernels instead of nine:
//
//   norm_linear    r = x + residual;  xz = norm(r) W_in^T + b_in
//   conv_x_proj    u = silu(conv(x)); dt B C = u W_x^T, as partial sums over channels
//   dt_scan        dt = softplus(W_dt dt + dt_bias); h = exp(dt A) h + dt B u; y = (C h + D u) silu(z)
//   matmul         out = y W_out^T + b_out (kernels/matmul.h)
//
// In 16 bits up to 8 rows norm_linear and conv_x_proj are one kernel, and over 2 rows the norm is one of its own. Where
// sizes do not fit, Mamba::step goes op by op.
//
// Bound by reading the weights once. Each kernel may start while the one before still runs: it asks for its first
// weights before it waits for its input. The numbers are those of modules/mamba.cc step by step, roundings to the
// storage type included, but for the order of sums. Up to 8 rows a row's result does not depend on how many there are.
// Called by ops/mamba_step.cc, which checks shapes. Extents: b rows, m d_model, d channels, n states, k taps, u
// dt_rank.
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
// Up to 8 rows of at most 4096 channels, in multiples of 16 bytes; in 16 bits up to 64.
bool takes_norm_linear(int device, const NormLinearParams& p);
void norm_linear(const Stream& stream, const NormLinearParams& p);

struct MambaStepParams {
  std::int64_t b = 0, d = 0, n = 0, k = 0, u = 0;
  NormLinearParams in_proj;            // its y is xz (b,2d), of which x may be left unwritten
  DType dtype = DType::kF32;           // of xz and y
  const float* conv_weight = nullptr;  // (d,k)
  const float* conv_bias = nullptr;    // (d), optional
  Matrix x_proj;                       // (u+2n,d)
  Matrix dt_proj;                      // (d,u)
  const float* dt_bias = nullptr;      // (d)
  const float* A_log = nullptr;        // (d,n)
  const float* D = nullptr;            // (d)
  bool norm_dt_B_C = false;
  float norm_dt_B_C_eps = 0;
  float* conv_state = nullptr;  // (b,d,k-1), changed in place
  float* ssm_state = nullptr;   // (b,d,n), changed in place
  void* y = nullptr;            // (b,d)
};
// norm_linear, conv_x_proj and dt_scan. n a multiple of 4, k at most 8, u + 2n at most 512. In 16 bits, on tensor
// cores: up to 64 rows, d a multiple of 8, u at most 256. In f32: up to 8 rows, d a multiple of 32.
bool takes_mamba_step(int device, const MambaStepParams& p);
void mamba_step(const Stream& stream, const MambaStepParams& p);

}  // namespace coluber::cuda
