// One block a row: 50,000 logits are 200 KB, which one multiprocessor reads from L2 in about 3 us.
#include "kernels/argmax.h"
#include "kernels/cuda/common/launch.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float value;
  std::int32_t column;
};

__device__ Best better(Best a, Best b) {
  const bool takes_b = b.value > a.value || (b.value == a.value && b.column < a.column);
  return takes_b ? b : a;
}

__device__ Best best_of_warp(Best best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    best =
        better(best, {__shfl_xor_sync(0xffffffffu, best.value, step), __shfl_xor_sync(0xffffffffu, best.column, step)});
  }
  return best;
}

__global__ void __launch_bounds__(kThreads)
    argmax_row(const float* x, std::int64_t columns, std::int64_t ld, std::int32_t* out) {
  __shared__ Best of_warp[kThreads / 32];
  const float* row = x + blockIdx.x * ld;
  Best best{-INFINITY, INT32_MAX};
  constexpr int kAtOnce = 16;  // loads under way
  for (std::int64_t begin = threadIdx.x; begin < columns; begin += kAtOnce * kThreads) {
    float x_of[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) x_of[j] = begin + j * kThreads < columns ? row[begin + j * kThreads] : -INFINITY;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) best = better(best, {x_of[j], static_cast<std::int32_t>(begin + j * kThreads)});
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = best_of_warp(of_warp[threadIdx.x]);
    if (threadIdx.x == 0) out[blockIdx.x] = best.column >= columns ? 0 : best.column;
  }
}

}  // namespace

void argmax_rows(const Stream& stream, const float* x, std::int64_t rows, std::int64_t columns, std::int64_t ld,
                 std::int32_t* best) {
  if (rows == 0) return;
  const DeviceScope scope(stream.device);
  argmax_row<<<static_cast<unsigned>(rows), kThreads, 0, handle_of(stream)>>>(x, columns, ld, best);
  check_launch("argmax_row");
}

}  // namespace coluber::cuda
