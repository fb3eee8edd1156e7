// Products of up to 8 rows with the transpose of a matrix of weights in 16 bits, on tensor cores. What a step of a
// Mamba block does before and after such a product is done in its kernel where it can be.
#pragma once

#include "kernels/mamba_step.h"
#include "kernels/matmul.h"

namespace coluber::cuda {

bool takes_stream(int device, const MatmulParams& p);
void matmul_stream(const Stream& stream, const MatmulParams& p);

// norm_linear and conv_x_proj of kernels/mamba_step.h in one kernel, of up to 8 rows. x_proj's sums are partial ones,
// over the channels of a block of threads.
struct ConvXProj {
  std::int64_t d = 0, taps = 0;
  const float* conv_weight = nullptr;  // (d,taps)
  const float* conv_bias = nullptr;    // (d), optional
  float* conv_state = nullptr;         // (b,d,taps-1)
  Matrix x_proj;                       // (u+2n,d)
  void* channels = nullptr;            // (b,d) of the dtype of the weights
  float* parts = nullptr;              // (conv_stream_parts,b,u+2n rounded up to 8)
};
// 0: sizes or layouts do not allow it. The same for any number of rows.
int conv_stream_parts(int device, const NormLinearParams& p, const ConvXProj& conv);
void norm_conv_stream(const Stream& stream, const NormLinearParams& p, const ConvXProj& conv);

// Of up to kMaxTileRows rows (matmul_tiles.h); over 8 the product is matmul's.
bool takes_norm_stream(int device, const NormLinearParams& p);
void norm_stream(const Stream& stream, const NormLinearParams& p);

}  // namespace coluber::cuda
