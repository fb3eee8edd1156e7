// Cross entropy by rows: a block takes a row, finds its maximum and sum in one read, and writes the gradient in a second
// pass. The second read comes from the L2 cache: the rows under way are 2 blocks x 132 multiprocessors x 100 KB (v =
// 50280 in 16 bits) = 27 of 50 MB. Two exponentials a logit: 0.4 of the 1.1 ms that 16384 such rows take to move.
#include "kernels/loss.h"

#include <cmath>

#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/numbers.cuh"

namespace coluber::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kMaxThreads = 512;

// e^(x - shift), relative error about 2^-22 + |x - shift| 2^-23.
__device__ __forceinline__ float exp_of(float x, float shift) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"((x - shift) * kLog2E));
  return y;
}

// sum_j exp(x_j - max) of some of a row: `sum` with its rounding errors in `error`.
struct PartialSum {
  float max = -INFINITY, sum = 0, error = 0;

  // The exponent's reference: -inf would make a NaN of -inf - -inf.
  __device__ float shift() const { return max == -INFINITY ? 0.0f : max; }
  __device__ void raise(float to) {
    if (!(to > max)) return;
    const float factor = max == -INFINITY ? 0.0f : exp_of(max, to);
    max = to;
    sum *= factor;
    error *= factor;
  }
  __device__ void add(float x) {  // Knuth's two-sum
    const float total = sum + x, part = total - sum;
    error += (sum - (total - part)) + (x - part);
    sum = total;
  }
};

struct RowSums {
  float max;
  double sum;
};

// Every thread gets the same; warps are added in order.
__device__ RowSums reduce(PartialSum mine) {
  __shared__ float maxima[kMaxThreads / 32];
  __shared__ double sums[kMaxThreads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  float max = mine.max;
  for (int i = 16; i > 0; i /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, i));
  if (lane == 0) maxima[warp] = max;
  __syncthreads();
  max = maxima[0];
  for (int i = 1; i < warps; ++i) max = fmaxf(max, maxima[i]);
  mine.raise(max);
  double sum = static_cast<double>(mine.sum) + static_cast<double>(mine.error);
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  sum = sums[0];
  for (int i = 1; i < warps; ++i) sum += sums[i];
  return {max, sum};
}

// Elements before the first 16-byte border, after which rows are read as vectors.
template <class T>
__device__ std::int64_t head_of(const T* row, std::int64_t v) {
  const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row) % 16 / sizeof(T));
  return min(v, beyond == 0 ? std::int64_t{0} : kPerVector<T> - beyond);
}

template <class T>
__device__ PartialSum sum_of_row(const T* row, std::int64_t v) {
  constexpr int kPer = kPerVector<T>;
  const std::int64_t head = head_of(row, v), pieces = (v - head) / kPer, tail = head + pieces * kPer;
  PartialSum out;
  auto add_one = [&](std::int64_t i) {
    const float x = to_float(row[i]);
    out.raise(x);
    out.add(exp_of(x, out.shift()));
  };
  if (threadIdx.x < head) add_one(threadIdx.x);
#pragma unroll 2
  for (std::int64_t i = threadIdx.x; i < pieces; i += blockDim.x) {
    const Vector<T> in = load_vector(row + head + i * kPer);
    float x[kPer], max = -INFINITY;
#pragma unroll
    for (int k = 0; k < kPer; ++k) max = fmaxf(max, x[k] = to_float(in.values[k]));
    out.raise(max);
    const float shift = out.shift();
#pragma unroll
    for (int k = 0; k < kPer; ++k) x[k] = exp_of(x[k], shift);
#pragma unroll
    for (int width = kPer / 2; width > 0; width /= 2)
#pragma unroll
      for (int k = 0; k < width; ++k) x[k] += x[k + width];
    out.add(x[0]);
  }
  if (tail + threadIdx.x < v) add_one(tail + threadIdx.x);
  return out;
}

template <class T>
__device__ void write_gradient(const CrossEntropyRowsParams<T>& p, const T* row, T* grad, const RowSums& sums,
                               std::int64_t target) {
  constexpr int kPer = kPerVector<T>;
  const auto scale = static_cast<float>(p.grad_scale);
  const float factor = static_cast<float>(p.grad_scale / sums.sum), shift = sums.max;
  auto grad_of = [&](float x, std::int64_t i) {
    const float e = exp_of(x, shift) * factor;
    return from_float<T>(i == target ? e - scale : e);
  };
  const bool vectors = (reinterpret_cast<std::uintptr_t>(row) - reinterpret_cast<std::uintptr_t>(grad)) % 16 == 0;
  const std::int64_t head = vectors ? head_of(row, p.v) : 0, pieces = vectors ? (p.v - head) / kPer : 0;
  if (threadIdx.x < head) grad[threadIdx.x] = grad_of(to_float(row[threadIdx.x]), threadIdx.x);
#pragma unroll 2
  for (std::int64_t i = threadIdx.x; i < pieces; i += blockDim.x) {
    const std::int64_t first = head + i * kPer;
    Vector<T> x = load_vector(row + first);
#pragma unroll
    for (int k = 0; k < kPer; ++k) x.values[k] = grad_of(to_float(x.values[k]), first + k);
    store_vector(grad + first, x);
  }
  for (std::int64_t i = head + pieces * kPer + threadIdx.x; i < p.v; i += blockDim.x)
    grad[i] = grad_of(to_float(row[i]), i);
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, 2) cross_entropy_fwd_rows(const CrossEntropyRowsParams<T> p) {
  const std::int64_t i = blockIdx.x;
  const T* row = p.logits + i * p.ld;
  T* grad = p.grad == nullptr ? nullptr : p.grad + i * p.ldg;
  const std::int64_t target = p.targets[i];
  if (target < 0) {
    if (threadIdx.x == 0 && p.loss != nullptr) p.loss[i] = 0;
    for (std::int64_t j = threadIdx.x; grad != nullptr && j < p.v; j += blockDim.x) grad[j] = from_float<T>(0);
    return;
  }
  const RowSums sums = reduce(sum_of_row(row, p.v));
  if (threadIdx.x == 0 && p.loss != nullptr)
    p.loss[i] = (static_cast<double>(sums.max) - static_cast<double>(to_float(row[target]))) + log(sums.sum);
  if (grad == nullptr) return;
  __syncthreads();  // the loss has read the target's logit, which the gradient may overwrite
  write_gradient(p, row, grad, sums, target);
}

}  // namespace

template <class T>
void cross_entropy_rows(const Stream& stream, const CrossEntropyRowsParams<T>& p) {
  if (p.rows == 0) return;
  const DeviceScope scope(stream.device);
  const int threads = p.v <= 512 ? 32 : p.v <= 4096 ? 128 : kMaxThreads;
  cross_entropy_fwd_rows<<<static_cast<unsigned>(p.rows), threads, 0, handle_of(stream)>>>(p);
  check_launch("cross_entropy_fwd_rows");
}

template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<bfloat16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float16>&);

}  // namespace coluber::cuda
