// One token of a residual block on a GPU, fused (kernels/mamba_step.h). What it means is Mamba::step after a norm, op
// by op, and that is what computes it wherever this does not apply.
#pragma once

#include <cstdint>

#include "coluber/ops.h"

namespace coluber::ops {

struct MambaStepArgs {
  Tensor x;         // (b,1,m)
  Tensor residual;  // (b,1,m) f32, undefined for the first block
  Tensor norm_weight, norm_bias;
  NormKind norm = NormKind::kRms;
  double norm_eps = 0;
  Tensor in_proj_weight, in_proj_bias;    // (2d,m), (2d)
  Tensor conv_weight, conv_bias;          // (d,k), (d)
  Tensor x_proj_weight;                   // (u+2n,d)
  Tensor dt_proj_weight, dt_bias;         // (d,u), (d)
  Tensor A_log, D;                        // (d,n), (d)
  Tensor out_proj_weight, out_proj_bias;  // (m,d), (m)
  bool norm_dt_B_C = false;
  double norm_dt_B_C_eps = 0;
  Tensor conv_state, ssm_state;  // (b,d,k-1), (b,d,n), f32, changed in place
};

// y = norm(x + residual) W^T + bias: a block's first product, or the head behind the last block.
struct NormLinearArgs {
  Tensor x;         // (b,1,m)
  Tensor residual;  // (b,1,m) f32; undefined: none, and x is f32
  Tensor norm_weight, norm_bias;
  NormKind norm = NormKind::kRms;
  double norm_eps = 0;
  Tensor weight, bias;  // (n,m), (n)
};

// Whether a GPU, the sizes and the layouts allow it.
bool takes_norm_linear(const NormLinearArgs& args);
// (b,1,n) in `out`: the dtype of W or f32. residual_out, optional, gets x + residual in f32.
Tensor norm_linear(const NormLinearArgs& args, DType out, Tensor* residual_out);

// Whether a GPU, the sizes and the layouts allow it.
bool takes_mamba_step(const MambaStepArgs& args);
// The block's output (b,1,m) in the dtype of the weights; residual_out gets x + residual in f32.
Tensor mamba_step(const MambaStepArgs& args, Tensor* residual_out);

}  // namespace coluber::ops
