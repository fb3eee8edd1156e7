// Sums over the threads of a warp.
#pragma once

namespace coluber::cuda {

// Of all 32 lanes, in each of them, by a fixed tree. T: float or double.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

}  // namespace coluber::cuda
