// What forward and backward of selective_scan share on a GPU: the order of tokens, checkpoints, discretisation.
//
// Positions count the tokens of a row in processing order: position s is token s, in reverse l - 1 - s. A chunk is the
// kScanChunk positions from a multiple of kScanChunk on, whatever sequences lie in it.
//
// Checkpoints are (b,chunks,d,n e) in f32: the state before the first position of a chunk, of the sequence that has
// this position (its initial state when it begins there), before a reset of that token. A sequence that begins inside
// a chunk has no checkpoint there: it starts from state_in or zero. 16 tokens: 4 bytes a state and chunk are half of
// what u, dt and z of 16-bit numbers take at n = 16, and backward keeps 16 tokens of decays without spilling.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/numbers.cuh"
#include "kernels/selective_scan.h"

namespace coluber::cuda {

inline constexpr int kScanChunk = 16;
inline constexpr float kScanLog2E = 1.4426950408889634f;

// A sequence in processing order: step s is token first + s sign of its row, and at position `position` + s.
struct ScanSequence {
  std::int64_t slot = 0, row = 0, first = 0, length = 0, position = 0;
  int sign = 1;

  __device__ std::int64_t token(std::int64_t s) const { return first + s * sign; }
};

template <class T>
COLUBER_HD std::int64_t scan_slots(const SelectiveScanParams<T, float>& p) {
  return p.sequences != nullptr ? p.num_sequences : p.u.shape[0];
}
template <class T>
COLUBER_HD std::int64_t scan_chunks(const SelectiveScanParams<T, float>& p) {
  return (p.u.shape[1] + kScanChunk - 1) / kScanChunk;
}
// Numbers of one channel's state.
template <class T>
COLUBER_HD std::int64_t scan_width(const SelectiveScanParams<T, float>& p) {
  return p.is_complex ? 2 * p.n : p.n;
}

template <class T>
__device__ ScanSequence scan_sequence(const SelectiveScanParams<T, float>& p, std::int64_t slot) {
  SequenceRange q{slot, 0, p.u.shape[1]};
  if (p.sequences != nullptr) q = p.sequences[slot];
  const std::int64_t first = p.reverse ? q.end - 1 : q.begin;
  return {slot, q.row, first, q.end - q.begin, p.reverse ? p.u.shape[1] - 1 - first : first, p.reverse ? -1 : 1};
}

// Offset of the checkpoint of a channel.
template <class T>
__device__ std::int64_t scan_checkpoint_at(const SelectiveScanParams<T, float>& p, std::int64_t row, std::int64_t chunk,
                                           std::int64_t c) {
  return ((row * scan_chunks(p) + chunk) * p.d + c) * scan_width(p);
}

// 2^x: relative error 2^-22; results below 2^-126 are 0.
__device__ __forceinline__ float scan_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float scan_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float scan_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ln(1 + e^x), x itself above 20: relative error below 5e-6 for all x, with two special function instructions. For
// small e the logarithm of 1 + e would have lost its digits: three terms of the series.
__device__ __forceinline__ float scan_softplus(float x) {
  const float e = scan_exp2(x * kScanLog2E);
  const float series = e * fmaf(e, fmaf(e, 0.33333333f, -0.5f), 1.0f);
  const float log = scan_log2(1.0f + e) * 0.69314718f;
  return x > 20.0f ? x : e < 0.0156f ? series : log;
}
// Its slope: the sigmoid, 1 above 20.
__device__ __forceinline__ float scan_softplus_slope(float x) {
  const float e = scan_exp2(x * kScanLog2E);  // as softplus has it
  return x > 20.0f ? 1.0f : e * scan_reciprocal(1.0f + e);
}
// Step size from dt + dt_bias. f32 numbers get all their digits.
template <class T>
__device__ __forceinline__ float scan_step_size(float x, bool softplus) {
  if (!softplus) return x;
  if constexpr (sizeof(T) == 4) return x > 20.0f ? x : log1pf(expf(x));
  return scan_softplus(x);
}

}  // namespace coluber::cuda
