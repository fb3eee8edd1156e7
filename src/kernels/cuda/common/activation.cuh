// silu and its slope. Relative error of the sigmoid about 2^-21 + |x| 2^-23, from ex2.approx and rcp.approx: two
// special function instructions, where the exact ones take thirty of all kinds. The .ftz forms take no scaling beside
// them: what they flush is an exponential below 2^-126, which the 1 that it is added to does not feel, or the sigmoid
// of x < -87.
#pragma once

namespace coluber::cuda {

__device__ __forceinline__ float sigmoid(float x) {
  float e, s;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.0f + e));  // of inf: 0
  return s;
}
__device__ __forceinline__ float silu(float x) {
  return x * sigmoid(x);
}
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * fmaf(x, 1.0f - s, 1.0f);
}

}  // namespace coluber::cuda
