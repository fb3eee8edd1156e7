// silu and its slope. Relative error of the sigmoid about 2^-21 + |x| 2^-23, from ex2.approx and rcp.approx: two
// special function instructions, where the exact ones take thirty of all kinds.
#pragma once

namespace coluber::cuda {

__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));  // e^-x = inf gives 0
}
__device__ __forceinline__ float silu(float x) {
  return x * sigmoid(x);
}
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * fmaf(x, 1.0f - s, 1.0f);
}

}  // namespace coluber::cuda
