// Descriptions of matrices for the engine that copies tiles to shared memory (compute capability 9.0).
#pragma once

#include <cuda.h>

#include "kernels/matmul.h"

namespace coluber::cuda {

constexpr int kTileColumns = 64;  // of a tile: 128 bytes a row

// Whether m can be described: 16 bits, rows that begin at multiples of 16 bytes, and a driver that knows how.
bool has_tensor_map(int device, const Matrix& m);
// Tiles of `rows` x kTileColumns numbers. In shared memory piece c of 16 bytes of a tile's row r lies at piece c ^ (r %
// 8) of its 128 bytes, so that 8 rows' pieces of one column lie in different banks; zeros past the ends of the matrix.
CUtensorMap tensor_map(const Matrix& m, int rows);

}  // namespace coluber::cuda
