// What follows on a block's part of the first product in a step of a Mamba block (kernels/mamba_step.h): the
// convolution of its channels, and what they add to u W_x^T, while the weights of the block's next turn are on their
// way.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/cuda/weight_stream.cuh"

namespace coluber::cuda {

constexpr int kMostConvTaps = 4;
constexpr int kXProjTiles = 5, kMostXProjRows = 8 * kStreamWarps * kXProjTiles;  // tiles of 8 rows of W_x a warp

// Of a block's turns of `channels` channels each, in shared memory.
__host__ __device__ inline std::int64_t conv_step_bytes(const ConvXProj& p, std::int64_t tokens, std::int64_t channels,
                                                        std::int64_t turns) {
  return turns * channels * (p.x_proj.rows * 2 + (p.taps + 1 + tokens * (p.taps - 1)) * 4);
}

// Turns of 8 kTiles channels of up to 8 tokens. Of these, thread i has channels i / 32 * 8 + i % 4 * 2 and the next of
// token i % 32 / 4. All that turns need beside the product is asked for at once, before the weights of the product.
// Sums over channels are added turn by turn.
template <class T, int kTiles>
class ConvStep {
 public:
  // `shared`: conv_step_bytes. There for all when the block has met after the first WeightStream::take.
  __device__ __forceinline__ void start(const ConvXProj& p, int tokens, const Turns& turns, unsigned char* shared) {
    const int taps = static_cast<int>(p.taps), outputs = static_cast<int>(p.x_proj.rows);
    const int count = turns.count();
    W_x_ = reinterpret_cast<T*>(shared);
    weight_ = reinterpret_cast<float*>(W_x_ + count * outputs * kChannels);
    bias_ = weight_ + count * kChannels * taps;
    state_ = bias_ + count * kChannels;
    for (int q = 0; q < count; ++q) {
      const std::int64_t first = std::int64_t{turns.first + q * turns.stride} * kChannels;
      const T* W_x = static_cast<const T*>(p.x_proj.data) + first;
      for (int i = threadIdx.x; i < outputs * kTiles; i += kStreamThreads)
        copy_16_bytes(shared_address(W_x_ + (q * outputs * kTiles + i) * 8),
                      W_x + i / kTiles * p.x_proj.ld + i % kTiles * 8, true);
      copy_floats(weight_ + q * kChannels * taps, p.conv_weight + first * taps, kChannels * taps);
      copy_floats(bias_ + q * kChannels, p.conv_bias != nullptr ? p.conv_bias + first : p.conv_weight, kChannels,
                  p.conv_bias != nullptr);
      for (int token = 0; token < tokens; ++token)
        copy_floats(state_ + (q * tokens + token) * kChannels * (taps - 1),
                    p.conv_state + (token * p.d + first) * (taps - 1), kChannels * (taps - 1));
    }
    commit_copies();
  }

  // The product's sums for two channels of a token, by their thread; the state moves on.
  __device__ __forceinline__ void convolve(const ConvXProj& p, int tokens, std::int64_t channel, const float2& x) {
    const int taps = static_cast<int>(p.taps), i = threadIdx.x, token = i % 32 / 4, at = i / 32 * 8 + i % 4 * 2;
    if (token >= tokens) return;
    const float* before = state_ + ((turn_ * tokens + token) * kChannels + at) * (taps - 1);
    float* state = p.conv_state + (token * p.d + channel) * (taps - 1);
    float u[2];
#pragma unroll
    for (int c = 0; c < 2; ++c, before += taps - 1, state += taps - 1) {
      const float* weight = weight_ + (turn_ * kChannels + at + c) * taps;
      const float current = to_float(from_float<T>(c == 0 ? x.x : x.y));
      float sum = bias_[turn_ * kChannels + at + c];
#pragma unroll
      for (int j = 0; j < kMostConvTaps - 1; ++j) {
        if (j >= taps - 1) break;
        sum = fmaf(weight[j], before[j], sum);
        if (j > 0) state[j - 1] = before[j];
      }
      u[c] = silu(fmaf(weight[taps - 1], current, sum));
      if (taps > 1) state[taps - 2] = current;
    }
    const std::uint32_t both = packed<T>(u[0], u[1]);
    *reinterpret_cast<std::uint32_t*>(static_cast<T*>(p.channels) + token * p.d + channel) = both;
    *reinterpret_cast<std::uint32_t*>(shared_channels() + token * kStride + at) = both;
  }

  // Ends a turn. After a barrier, by all warps.
  __device__ __forceinline__ void multiply(const ConvXProj& p, int tokens) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int outputs = static_cast<int>(p.x_proj.rows);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int at = s * 16 + t * 4;
      uint2 u{};
      if (g < tokens && at < kChannels) u = *reinterpret_cast<const uint2*>(shared_channels() + g * kStride + at);
#pragma unroll
      for (int n = 0; n < kXProjTiles; ++n) {
        const int output = (warp + n * kStreamWarps) * 8 + g;
        if ((warp + n * kStreamWarps) * 8 >= outputs) break;
        uint2 w{};
        if (output < outputs && at < kChannels)
          w = *reinterpret_cast<const uint2*>(W_x_ + (turn_ * outputs + output) * kChannels + at);
        float sum[4] = {sums_[n].x, sums_[n].y, 0, 0};
        multiply_tile<T>(sum, {u.x, 0, u.y, 0}, w.x, w.y);
        sums_[n] = {sum[0], sum[1]};
      }
    }
    ++turn_;
  }

  __device__ __forceinline__ void store(const ConvXProj& p, int tokens) const {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int stride = static_cast<int>(p.x_proj.rows + 7) / 8 * 8;
    if (g >= tokens) return;
#pragma unroll
    for (int n = 0; n < kXProjTiles; ++n) {
      const int output = (warp + n * kStreamWarps) * 8 + t * 2;
      if (output < stride)
        *reinterpret_cast<float2*>(p.parts + (std::int64_t{blockIdx.x} * tokens + g) * stride + output) = sums_[n];
    }
  }

 private:
  static constexpr int kChannels = 8 * kTiles, kSteps = (kChannels + 15) / 16, kStride = kChannels + 8;

  static __device__ __forceinline__ T* shared_channels() {  // (8,kStride): u of the turn
    __shared__ __align__(16) T channels[8 * kStride];
    return channels;
  }

  static __device__ __forceinline__ void copy_floats(float* to, const float* from, int count, bool there = true) {
    for (int i = threadIdx.x * 4; i < count; i += kStreamThreads * 4)
      copy_16_bytes(shared_address(to + i), from + i, there);
  }

  T* W_x_;                          // (turns,u+2n,channels)
  float *weight_, *bias_, *state_;  // (turns,channels,taps), (turns,channels), (turns,tokens,channels,taps-1)
  int turn_ = 0;
  float2 sums_[kXProjTiles]{};
};

}  // namespace coluber::cuda
