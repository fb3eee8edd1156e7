// Norm of r = x + residual for one or two rows, by a block of kStreamThreads. A warp takes 256 channels of a row at a
// time, 8 neighbouring ones a lane; sums of such groups are added in order, so a row's result does not depend on how
// the (row, group) pairs are dealt out.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/cuda/weight_stream.cuh"
#include "kernels/mamba_step.h"

namespace coluber::cuda {

constexpr int kGroupChannels = 256;
constexpr int kMaxGroups = 2;  // of a warp: their channels wait in registers for the sum over the row
constexpr int kMaxNormPairs = kMaxGroups * kStreamWarps;

// Sums of `value(j)` over a row's groups, for each pair of this warp.
template <class F>
__device__ __forceinline__ void sums_of_rows(float (&out)[kMaxGroups], int pairs, int groups, float* partial,
                                             F&& value) {
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < kMaxGroups; ++j) {
    const int pair = warp + j * kStreamWarps;
    if (pair >= pairs) break;
    const float sum = warp_sum(value(j));
    if (threadIdx.x % 32 == 0) partial[pair] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kMaxGroups; ++j) {
    const int pair = warp + j * kStreamWarps;
    if (pair >= pairs) break;
    const float* row = partial + (pair >= groups ? groups : 0);
    out[j] = row[0];
    for (int q = 1; q < groups; ++q) out[j] += row[q];
  }
}

// One or two rows from first_row on, of at most kMaxNormPairs groups in all; m a multiple of 8. `scale`: the norm's
// weights in shared memory, read after a barrier; `partial`: 2 kMaxNormPairs floats. store(row, channel, 16 bytes of
// T).
template <class T, class F>
__device__ __forceinline__ void norm_rows(const NormLinearParams& p, std::int64_t first_row, int rows, bool write_sum,
                                          const float* scale, float* partial, F&& store) {
  const int m = static_cast<int>(p.x.columns), groups = (m + kGroupChannels - 1) / kGroupChannels;
  const int pairs = rows * groups, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float r[kMaxGroups][8];
#pragma unroll
  for (int j = 0; j < kMaxGroups; ++j) {
    const int pair = warp + j * kStreamWarps;
    if (pair >= pairs) break;
    const std::int64_t row = first_row + (pair >= groups ? 1 : 0);
    const int channel = (pair >= groups ? pair - groups : pair) * kGroupChannels + lane * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) r[j][i] = 0;
    if (channel >= m) continue;
    load_floats(p.residual + row * m + channel, r[j]);
    if (p.x.data == nullptr) continue;
    float x[8];
    load_floats(static_cast<const T*>(p.x.data) + row * p.x.ld + channel, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) r[j][i] += x[i];
    if (write_sum) store_floats(p.residual_out + row * m + channel, r[j]);
  }
  float sum[kMaxGroups], mean[kMaxGroups] = {};
  if (p.layer_norm) {
    sums_of_rows(mean, pairs, groups, partial, [&](int j) {
      float s = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) s += r[j][i];
      return s;
    });
#pragma unroll
    for (int j = 0; j < kMaxGroups; ++j) mean[j] /= static_cast<float>(m);
    partial += kMaxNormPairs;
  }
  sums_of_rows(sum, pairs, groups, partial, [&](int j) {
    const int pair = warp + j * kStreamWarps;
    const int channel = (pair >= groups ? pair - groups : pair) * kGroupChannels + lane * 8;
    float s = 0;
    if (channel >= m) return s;
#pragma unroll
    for (int i = 0; i < 8; ++i) s = fmaf(r[j][i] - mean[j], r[j][i] - mean[j], s);
    return s;
  });
#pragma unroll
  for (int j = 0; j < kMaxGroups; ++j) {
    const int pair = warp + j * kStreamWarps;
    if (pair >= pairs) break;
    const int channel = (pair >= groups ? pair - groups : pair) * kGroupChannels + lane * 8;
    if (channel >= m) continue;
    const float factor = 1.0f / sqrtf(sum[j] / static_cast<float>(m) + p.eps);
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = (r[j][i] - mean[j]) * factor * scale[channel + i];
    if (p.norm_bias != nullptr) {
      float bias[8];
      load_floats(p.norm_bias + channel, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] += bias[i];
    }
    store(pair >= groups ? 1 : 0, channel,
          uint4{packed<T>(y[0], y[1]), packed<T>(y[2], y[3]), packed<T>(y[4], y[5]), packed<T>(y[6], y[7])});
  }
}

}  // namespace coluber::cuda
