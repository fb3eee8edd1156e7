// How the kernels between the products of a step of a Mamba block in 16 bits are divided (mamba_step_mma.cu), and what
// is between them. Tokens of a group are rows of a product of tiles, so weights are read once for all of them.
#pragma once

#include <cstdint>

namespace coluber::cuda {

constexpr int kStepTokens = 8;   // of a group, at most: half a tile
constexpr int kStepInputs = 32;  // of a product of tiles: a lane has 16 bytes of them

struct StepWork {
  int tokens = 0;            // of a group
  int outputs = 0;           // u + 2n rounded up to 8: columns of parts
  int slices = 0;            // of the channels in x_proj
  int slice = 0;             // channels of one of them, in conv_x_proj
  int tiles = 0;             // of 8 channels, of a block of dt_scan
  int units = 0;             // of states under way, of a warp of dt_scan
  void* channels = nullptr;  // (b,d): u of the equations, what the convolution gives
  float* parts = nullptr;    // (slices,b,outputs): u W_x^T over some channels
};

// Elements from row to row of a matrix in shared memory: 64 bytes more than a multiple of 128, so that the rows of
// two lanes' loads lie in other banks.
__host__ __device__ inline int padded(int columns) {
  return (columns + 63) / 64 * 64 + 32;
}

// 16 bytes of a row of x in shared memory, zeros for lanes without a token.
template <class T>
__device__ __forceinline__ uint4 input_of(const T* x, int stride, int tokens, int at) {
  const int g = threadIdx.x % 32 / 4;
  if (g >= tokens) return {};
  return *reinterpret_cast<const uint4*>(x + g * stride + at);
}

// Asks L2 for bytes that are read later.
__device__ __forceinline__ void ask_for(const void* from, std::int64_t bytes) {
#pragma unroll 1
  for (std::int64_t i = threadIdx.x * 128; i < bytes; i += blockDim.x * 128)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(from) + i));
}

}  // namespace coluber::cuda
