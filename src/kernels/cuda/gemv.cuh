// A warp's share of y = x W^T in f32 for a few rows of x that lie in shared memory: kOutputs rows of W, 16 bytes of
// each per lane and turn.
//
// W comes from memory once, so what counts is how many loads are under way: the first kAhead turns are asked for before
// x is there (start), all others are unrolled. Products are added in the order of k by lane and summed over lanes by a
// fixed tree: a row's result does not depend on how many rows there are.
#pragma once

#include "kernels/cuda/common/numbers.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/matmul.h"

namespace coluber::cuda {

template <int kRows, int kOutputs>
struct GemvF32 {
  static constexpr int kVector = kPerVector<float>, kStep = 32 * kVector, kAhead = 3;

  const float* rows[kOutputs];
  Vector<float> ahead[kOutputs][kAhead];
  float sum[kOutputs][kRows];

  // k is a multiple of kVector, rows are 16-byte aligned.
  __device__ __forceinline__ void start(const Matrix& weight, std::int64_t first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      rows[o] = static_cast<const float*>(weight.data) + min(first + o, weight.rows - 1) * weight.ld;
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = lane * kVector + j * kStep;
        if (i < weight.columns) ahead[o][j] = load_vector(rows[o] + i);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[o][r] = 0;
    }
  }

  __device__ __forceinline__ void add(const Vector<float> (&w)[kOutputs], const float* x, int stride) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Vector<float> v = load_vector(x + r * stride);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sum[o][r] = fmaf(w[o].values[j], v.values[j], sum[o][r]);
      }
    }
  }

  // x (kRows,k) in shared memory, rows `stride` apart.
  __device__ __forceinline__ void run(const float* x, int stride, int k) {
    const int lane = threadIdx.x % 32;
    int i = lane * kVector;
#pragma unroll
    for (int j = 0; j < kAhead; ++j, i += kStep) {
      if (i >= k) return;
      Vector<float> w[kOutputs];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) w[o] = ahead[o][j];
      add(w, x + i, stride);
    }
#pragma unroll 4
    for (; i < k; i += kStep) {
      Vector<float> w[kOutputs];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) w[o] = load_vector(rows[o] + i);
      add(w, x + i, stride);
    }
  }

  // All lanes take part; lane 0 writes.
  __device__ __forceinline__ void store(const Matrix& y, const float* bias, std::int64_t first) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float total = warp_sum(sum[o][r]);
        if (threadIdx.x % 32 == 0 && r < y.rows && first + o < y.columns)
          store_number(y.data, y.dtype, r * y.ld + first + o, bias != nullptr ? total + bias[first + o] : total);
      }
    }
  }
};

}  // namespace coluber::cuda
