// Sums without atomics, of parameters' gradients first of all: every block leaves a partial sum, and one more kernel
// adds them up in the order of the blocks, so the bits are the same on every run.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/launch.h"

namespace coluber::cuda {

// planes + 1 sums for each of n columns: partial is (count,planes+1,n).
struct PartialSums {
  const float* partial = nullptr;
  std::int64_t count = 0, n = 0, planes = 0;
  float* out = nullptr;  // optional; of plane j and column c at j plane_stride + c column_stride
  std::int64_t plane_stride = 0, column_stride = 1;
  float* last = nullptr;  // (n), optional: the plane after `planes`
};

// A warp reads 32 columns at once; 8 warps take an eighth of the parts each, then the eighths are added in order.
static __global__ void __launch_bounds__(256) partial_sums_fwd_columns(PartialSums p) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t c = blockIdx.x * std::int64_t{32} + lane, j = blockIdx.y;
  if ((j < p.planes ? p.out : p.last) == nullptr) return;
  const std::int64_t share = (p.count + 7) / 8, end = min((warp + 1) * share, p.count);
  float sum = 0;
  if (c < p.n) {
    const float* from = p.partial + j * p.n + c;
#pragma unroll 8
    for (std::int64_t i = warp * share; i < end; ++i) sum += from[i * (p.planes + 1) * p.n];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= p.n) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][lane];
  if (j < p.planes)
    p.out[j * p.plane_stride + c * p.column_stride] = sum;
  else
    p.last[c] = sum;
}

// The sum of many numbers by one block of kTotalThreads: thread i adds i, i + kTotalThreads, ...; then the threads'
// sums in order of a tree. Thread 0 has it.
constexpr int kTotalThreads = 1024;
static __device__ double sum_of_parts(const double* parts, std::int64_t count) {
  __shared__ double sums[kTotalThreads];
  double sum = 0;
#pragma unroll 8
  for (std::int64_t i = threadIdx.x; i < count; i += kTotalThreads) sum += parts[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kTotalThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

// planes < 65535.
inline void add_partial_sums(const Stream& stream, const PartialSums& p) {
  if (p.n == 0) return;
  const dim3 grid(static_cast<unsigned>(divide_up(p.n, 32)), static_cast<unsigned>(p.planes + 1));
  partial_sums_fwd_columns<<<grid, 256, 0, handle_of(stream)>>>(p);
  check_launch("partial_sums_fwd_columns");
}

}  // namespace coluber::cuda
