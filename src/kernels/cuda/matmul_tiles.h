// y (r,n) = x (r,k) W^T for 9 to 64 rows in 16 bits, W (n,k) read once, on devices whose copy engine brings tiles to
// shared memory (compute capability 9.0).
#pragma once

#include "kernels/matmul.h"

namespace coluber::cuda {

inline constexpr std::int64_t kMaxTileRows = 64;

bool takes_tiles(int device, const MatmulParams& p);
void matmul_tiles(const Stream& stream, const MatmulParams& p);

}  // namespace coluber::cuda
