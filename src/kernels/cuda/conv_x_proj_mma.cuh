// conv_x_proj of kernels/mamba_step.h in 16 bits, for more sequences than the first product convolves itself: u of a
// slice of channels of a group of tokens, and what they add to dt, B and C.
//
// It runs once a layer with one block a multiprocessor: what counts is to have few instructions one after the other,
// and loads under way before x is there.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/mamba_step_work.cuh"
#include "kernels/mamba_step.h"

namespace coluber::cuda {

constexpr int kMostConvThreads = 640;

// In shared memory: (tiles,slice/32,lanes) 16 bytes of W_x, a lane's own, and u (tokens,padded(slice)) T.
__host__ __device__ inline int conv_bytes(const StepWork& work) {
  return work.outputs * work.slice * 2 + work.tokens * padded(work.slice) * 2;
}

// Two channels of a token, their weights and their states. kTaps 4: in registers, 16 bytes of weights at a time; 0: any
// number of taps, where they lie.
template <class T, int kTaps>
class ConvPair {
 public:
  // `at`: of the first channel in d, `row` of the token in b.
  __device__ __forceinline__ void ask(const MambaStepParams& p, std::int64_t row, std::int64_t at) {
    taps_ = kTaps > 0 ? kTaps : static_cast<int>(p.k);
    weight_ = p.conv_weight + at * taps_;
    state_ = p.conv_state + (row * p.d + at) * (taps_ - 1);
    bias_ = {};
    if (p.conv_bias != nullptr) bias_ = {p.conv_bias[at], p.conv_bias[at + 1]};
    if constexpr (kTaps == 4) {
      weights_[0] = *reinterpret_cast<const float4*>(weight_);
      weights_[1] = *reinterpret_cast<const float4*>(weight_ + 4);
#pragma unroll
      for (int i = 0; i < 3; ++i) before_[i] = *reinterpret_cast<const float2*>(state_ + 2 * i);
    }
  }

  // silu(conv(x)) of both, packed. The states move on.
  __device__ __forceinline__ std::uint32_t convolve(std::uint32_t x) {
    Raw<T, 2> raw;
    *reinterpret_cast<std::uint32_t*>(&raw) = x;
    float current[2];
    widen(raw, current);
    float sums[2] = {bias_.x, bias_.y};
    if constexpr (kTaps == 4) {
      const float h[6] = {before_[0].x, before_[0].y, before_[1].x, before_[1].y, before_[2].x, before_[2].y};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float4 w = weights_[c];
        sums[c] = fmaf(w.w, current[c], fmaf(w.z, h[3 * c + 2], fmaf(w.y, h[3 * c + 1], fmaf(w.x, h[3 * c], sums[c]))));
      }
      float2* state = reinterpret_cast<float2*>(state_);
      state[0] = {h[1], h[2]};
      state[1] = {current[0], h[4]};
      state[2] = {h[5], current[1]};
    } else {
      float* state = state_;
      const float* weight = weight_;
#pragma unroll
      for (int c = 0; c < 2; ++c, weight += taps_, state += taps_ - 1) {
#pragma unroll 1
        for (int j = 0; j < taps_; ++j) {
          const float before = j < taps_ - 1 ? state[j] : current[c];
          sums[c] = fmaf(weight[j], before, sums[c]);
          if (j > 0) state[j - 1] = before;
        }
      }
    }
    return packed<T>(silu(sums[0]), silu(sums[1]));
  }

 private:
  int taps_;
  const float* weight_;
  float* state_;
  float2 bias_, before_[3];
  float4 weights_[2];
};

// The slice's channels of all tokens, a pair a thread; in shared memory zeros up to a whole slice. Waits for x when the
// first pairs are on their way.
template <class T, int kTaps>
__device__ __forceinline__ void convolve_slice(const MambaStepParams& p, const StepWork& work, T* u, std::int64_t first,
                                               int count, std::int64_t first_row, int tokens) {
  const int half = work.slice / 2, pairs = tokens * half;
  int pair = threadIdx.x, token = pair / half, at = pair % half * 2;
  ConvPair<T, kTaps> channels;
  if (pair < pairs && at < count) channels.ask(p, first_row + token, first + at);
  wait_for_inputs();
#pragma unroll 1
  while (pair < pairs) {
    std::uint32_t both = 0;
    if (at < count) {
      const std::int64_t row = first_row + token;
      both = channels.convolve(*reinterpret_cast<const std::uint32_t*>(static_cast<const T*>(p.in_proj.y.data) +
                                                                       row * 2 * p.d + first + at));
      *reinterpret_cast<std::uint32_t*>(static_cast<T*>(work.channels) + row * p.d + first + at) = both;
    }
    *reinterpret_cast<std::uint32_t*>(u + token * padded(work.slice) + at) = both;
    pair += blockDim.x;
    token = pair / half;
    at = pair % half * 2;
    if (pair < pairs && at < count) channels.ask(p, first_row + token, first + at);
  }
}

// A warp has 8 outputs at a time.
template <class T, int kTaps>
__global__ void __launch_bounds__(kMostConvThreads) conv_x_proj_mma(MambaStepParams p, StepWork work) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int outputs = static_cast<int>(p.x_proj.rows), tiles = (outputs + 7) / 8, blocks = work.slice / kStepInputs;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const std::int64_t first = std::int64_t{blockIdx.x} * work.slice, first_row = std::int64_t{blockIdx.y} * work.tokens;
  const int count = static_cast<int>(min(std::int64_t{work.slice}, p.d - first));
  const int tokens = static_cast<int>(min(std::int64_t{work.tokens}, p.b - first_row));
  T* u = reinterpret_cast<T*>(shared + work.outputs * work.slice * 2);
  const unsigned W_x = shared_address(shared) + lane * 16;
  if (tokens * work.slice > 2 * static_cast<int>(blockDim.x)) {
    ask_for(p.conv_weight + first * p.k, count * p.k * 4);
#pragma unroll 1
    for (int token = 0; token < tokens; ++token)
      ask_for(p.conv_state + ((first_row + token) * p.d + first) * (p.k - 1), count * (p.k - 1) * 4);
  }
#pragma unroll 1
  for (int tile = warp; tile < tiles; tile += warps) {
    const T* W = static_cast<const T*>(p.x_proj.data) + min(tile * 8 + g, outputs - 1) * p.x_proj.ld + first;
#pragma unroll 1
    for (int j = 0; j < blocks; ++j) {
      const int at = j * kStepInputs + t * 8;
      copy_16_bytes(W_x + (tile * blocks + j) * 512, W + at, at < count);
    }
  }
  commit_copies();
  convolve_slice<T, kTaps>(p, work, u, first, count, first_row, tokens);
  let_next_start();  // not earlier: what the next kernel asks for would be in the way of x
  wait_copies<0>();
  __syncthreads();
#pragma unroll 1
  for (int tile = warp; tile < tiles; tile += warps) {
    float sum[4] = {};
#pragma unroll 2
    for (int j = 0; j < blocks; ++j)
      multiply_block<T>(sum, input_of(u, padded(work.slice), tokens, j * kStepInputs + t * 8), uint4{},
                        load_shared(W_x + (tile * blocks + j) * 512));
    if (g < tokens)
      *reinterpret_cast<float2*>(work.parts + (blockIdx.x * p.b + first_row + g) * work.outputs + tile * 8 + t * 2) = {
          sum[0], sum[1]};
  }
}

}  // namespace coluber::cuda
