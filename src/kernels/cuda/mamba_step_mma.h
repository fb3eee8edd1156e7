// norm_linear, conv_x_proj and dt_scan of a step in 16 bits, on tensor cores.
#pragma once

#include "kernels/mamba_step.h"

namespace coluber::cuda {

// Up to kMaxTileRows sequences (matmul_tiles.h), where norm_linear is taken too.
bool takes_mamba_step_mma(const MambaStepParams& p);
void mamba_step_mma(const Stream& stream, const MambaStepParams& p);

}  // namespace coluber::cuda
