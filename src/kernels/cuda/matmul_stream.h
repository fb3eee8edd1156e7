// Products of a few rows with the transpose of a matrix of weights in 16 bits, on tensor cores: of up to 8 rows always,
// of up to kMaxStreamRows with weights of at most 6 MiB where a block has 216 KiB of shared memory.
#pragma once

#include "kernels/mamba_step.h"
#include "kernels/matmul.h"

namespace coluber::cuda {

inline constexpr std::int64_t kMaxStreamRows = 64;

bool takes_stream(int device, const MatmulParams& p);
void matmul_stream(const Stream& stream, const MatmulParams& p);

bool takes_norm_stream(int device, const NormLinearParams& p);
void norm_stream(const Stream& stream, const NormLinearParams& p);

}  // namespace coluber::cuda
