// Cross entropy by rows: a block reads a row once, finds its maximum and sum, and keeps it in shared memory (100 KB of
// 50280 logits in 16 bits, two such blocks a multiprocessor), from where the gradient is computed: one read and one
// write of memory. Where only one row fits, its block stays for more rows and asks for the next one while it writes.
// Rows that do not fit are read twice. Per logit 10 instructions and 2 exponentials: 0.1 ms each for 4096 rows of
// 50280, whose bytes take 0.2 ms.
#include <cmath>

#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/partial_sums.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/loss.h"

namespace coluber::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr double kLn2 =
    1 / static_cast<double>(kLog2E);  // of the number that f32 has for log2(e), so that errors cancel
constexpr int kMaxThreads = 1024;
constexpr int kAhead = 4;  // pieces under way: 32 KB a block, where half of the blocks read while half write
constexpr std::int64_t kBlockOverhead = 2048;  // shared memory beside the row: sums, and what the system takes

// 2^(x log2(e) - base): one rounding of the exponent, relative error about 2^-22 + |x - max| 2^-23.
__device__ __forceinline__ float exp_above(float x, float base) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaf(x, kLog2E, -base)));
  return y;
}

// sum_j exp(x_j) 2^-base of some of a row, `error` being what its roundings have lost. The base is max log2(e) as f32
// has it: every term is taken relative to this number, so its rounding is no error.
struct PartialSum {
  float max = -INFINITY, base = 0, sum = 0, error = 0;

  __device__ void raise(float to) {
    if (!(to > max)) return;
    max = to;
    const float before = base;
    base = to * kLog2E;
    const float factor = exp2f(before - base);  // of a sum of nothing it does not matter
    sum = sum == 0 ? 0 : sum * factor;
    error = sum == 0 ? 0 : error * factor;
  }
  __device__ void add(float x) {  // Knuth's two-sum
    const float total = sum + x, part = total - sum;
    error += (sum - (total - part)) + (x - part);
    sum = total;
  }
};

struct RowSum {
  float base;
  double sum;
};

// Every thread gets the same; warps are added in order.
__device__ RowSum reduce(PartialSum mine) {
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
  double sum = warp_sum(static_cast<double>(mine.sum) + static_cast<double>(mine.error));
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  sum = sums[0];
  for (int i = 1; i < warps; ++i) sum += sums[i];
  return {mine.base, sum};
}

template <class T, class G>
__device__ __forceinline__ double grad_scale_of(const CrossEntropyRowsParams<T, G>& p) {
  return p.grad_scale_at == nullptr ? p.grad_scale : *p.grad_scale_at;
}

// A row in pieces of 16 bytes between a head and a tail of less.
template <class T>
struct Row {
  const T* at;
  std::int64_t head, pieces, tail;  // tail: the first element after the pieces

  __device__ Row(const T* row, std::int64_t v) : at(row) {
    const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row) % 16 / sizeof(T));
    head = min(v, beyond == 0 ? std::int64_t{0} : kPerVector<T> - beyond);
    pieces = (v - head) / kPerVector<T>;
    tail = head + pieces * kPerVector<T>;
  }
};

__device__ __forceinline__ void add_logit(PartialSum& sum, float x) {
  sum.raise(x);
  sum.add(exp_above(x, sum.base));
}

template <class T>
__device__ __forceinline__ void add_piece(PartialSum& sum, const Raw<T, kPerVector<T>>& in) {
  constexpr int kPer = kPerVector<T>;
  float x[kPer], max = -INFINITY;
  widen(in, x);
#pragma unroll
  for (int k = 0; k < kPer; ++k) max = fmaxf(max, x[k]);
  sum.raise(max);
#pragma unroll
  for (int k = 0; k < kPer; ++k) x[k] = exp_above(x[k], sum.base);
#pragma unroll
  for (int width = kPer / 2; width > 0; width /= 2)
#pragma unroll
    for (int k = 0; k < width; ++k) x[k] += x[k + width];
  sum.add(x[0]);
}

// kept: the row's place in shared memory, or null.
template <class T>
__device__ PartialSum sum_of_row(const Row<T>& row, std::int64_t v, Raw<T, kPerVector<T>>* kept) {
  constexpr int kPer = kPerVector<T>;
  PartialSum out;
  if (threadIdx.x < row.head) add_logit(out, to_float(row.at[threadIdx.x]));
  const auto step = static_cast<int>(blockDim.x), pieces = static_cast<int>(row.pieces);
  for (int i = threadIdx.x; i < pieces; i += kAhead * step) {
    Raw<T, kPer> in[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (i + k * step < pieces)
        in[k] = load_raw<kPer>(row.at + row.head + static_cast<std::int64_t>(i + k * step) * kPer);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k * step >= pieces) break;
      if (kept != nullptr) kept[i + k * step] = in[k];
      add_piece<T>(out, in[k]);
    }
  }
  if (row.tail + threadIdx.x < v) add_logit(out, to_float(row.at[row.tail + threadIdx.x]));
  return out;
}

// exp(x - lse) scale, for all of a row but the target. A gradient in the logits' own memory, in fewer bits, is written
// over logits that come before its own: all threads have read theirs when the first one writes.
template <class T, class G>
__device__ void write_gradient(const Row<T>& row, std::int64_t v, const Raw<T, kPerVector<T>>* kept, G* grad,
                               float base, float factor) {
  constexpr int kPer = kPerVector<T>;
  const bool over = sizeof(G) < sizeof(T) && static_cast<const void*>(grad) == static_cast<const void*>(row.at);
  auto gradient_of = [&](float x) { return from_float<G>(exp_above(x, base) * factor); };
  const bool vectors = reinterpret_cast<std::uintptr_t>(grad + row.head) % (kPer * sizeof(G)) == 0;
  if (!vectors) {
    for (std::int64_t first = 0; first < v; first += blockDim.x) {
      const std::int64_t i = first + threadIdx.x;
      const float x = i < v ? to_float(row.at[i]) : 0.0f;
      if (over) __syncthreads();
      if (i < v) grad[i] = gradient_of(x);
    }
    return;
  }
  const bool has_head = threadIdx.x < row.head, has_tail = row.tail + threadIdx.x < v;
  const float head = has_head ? to_float(row.at[threadIdx.x]) : 0.0f;
  const float tail = has_tail ? to_float(row.at[row.tail + threadIdx.x]) : 0.0f;
  if (over) __syncthreads();
  auto write_piece = [&](int i, const Raw<T, kPer>& in) {
    float x[kPer];
    widen(in, x);
#pragma unroll
    for (int k = 0; k < kPer; ++k) x[k] = exp_above(x[k], base) * factor;
    store_floats(grad + row.head + static_cast<std::int64_t>(i) * kPer, x);
  };
  auto load_piece = [&](int i) {
    return kept != nullptr ? kept[i] : load_raw<kPer>(row.at + row.head + static_cast<std::int64_t>(i) * kPer);
  };
  if (over && kept == nullptr) {
    for (int first = 0; first < row.pieces; first += static_cast<int>(blockDim.x)) {
      const int i = first + static_cast<int>(threadIdx.x);
      Raw<T, kPer> in;
      if (i < row.pieces) in = load_piece(i);
      __syncthreads();
      if (i < row.pieces) write_piece(i, in);
    }
  } else {
#pragma unroll 2
    for (int i = threadIdx.x; i < row.pieces; i += blockDim.x) write_piece(i, load_piece(i));
  }
  if (has_head) grad[threadIdx.x] = gradient_of(head);
  if (has_tail) grad[row.tail + threadIdx.x] = gradient_of(tail);
}

template <class T, class G>
__global__ void __launch_bounds__(kMaxThreads) cross_entropy_fwd_rows(const CrossEntropyRowsParams<T, G> p, bool keep) {
  extern __shared__ uint4 shared_row[];
  const std::int64_t i = blockIdx.x, target = p.targets[i];
  G* grad = p.grad == nullptr ? nullptr : p.grad + i * p.ldg;
  if (target < 0) {
    if (threadIdx.x == 0 && p.loss != nullptr) p.loss[i] = 0;
    for (std::int64_t j = threadIdx.x; grad != nullptr && j < p.v; j += blockDim.x) grad[j] = from_float<G>(0);
    return;
  }
  const Row<T> row(p.logits + i * p.ld, p.v);
  auto* kept = keep ? reinterpret_cast<Raw<T, kPerVector<T>>*>(shared_row) : nullptr;
  const float at_target = to_float(row.at[target]);
  const RowSum sum = reduce(sum_of_row(row, p.v, kept));  // with a barrier, so all have read their target's logit
  if (threadIdx.x == 0 && p.loss != nullptr)
    p.loss[i] = static_cast<double>(sum.base) * kLn2 - static_cast<double>(at_target) + log(sum.sum);
  if (grad == nullptr) return;
  const double scale = grad_scale_of(p);
  const auto factor = static_cast<float>(scale / sum.sum);
  write_gradient(row, p.v, kept, grad, sum.base, factor);
  __syncthreads();
  if (threadIdx.x == 0)
    grad[target] = from_float<G>(fmaf(exp_above(at_target, sum.base), factor, -static_cast<float>(scale)));
}

// The pieces of one row on their way to shared memory, in places that one thread copies to, reads and gives to its
// pieces of the next row: no barrier.
struct RowAhead {
  static constexpr int kGroups = 4, kGroupPieces = 4;  // of a thread; groups are waited for one by one
  static constexpr std::int64_t kMostPieces = std::int64_t{kGroups} * kGroupPieces * kMaxThreads;

  uint4* places;
  std::int64_t pieces;

  template <class F>
  __device__ __forceinline__ void for_group(int group, F&& f) const {
#pragma unroll
    for (int k = 0; k < kGroupPieces; ++k) {
      const int i = (group * kGroupPieces + k) * kMaxThreads + static_cast<int>(threadIdx.x);
      if (i < pieces) f(i);
    }
  }
  __device__ __forceinline__ void ask(int group, const void* row) const {
    if (row != nullptr)
      for_group(group, [&](int i) { copy_async<16>(places + i, static_cast<const uint4*>(row) + i, true); });
    commit_copies();
  }
};

// Rows that begin at 16 bytes, block after block in turn. `vectors` of gradients begin at their own size.
template <class T, class G>
__global__ void __launch_bounds__(kMaxThreads)
    cross_entropy_fwd_rows_ahead(const __grid_constant__ CrossEntropyRowsParams<T, G> p) {
  constexpr int kPer = kPerVector<T>;
  extern __shared__ uint4 shared_row[];
  const RowAhead ahead{shared_row, p.v / kPer};
  const double scale = grad_scale_of(p);
  auto row_at = [&](std::int64_t i) { return i < p.rows ? p.logits + i * p.ld : nullptr; };
#pragma unroll
  for (int group = 0; group < RowAhead::kGroups; ++group) ahead.ask(group, row_at(blockIdx.x));
  for (std::int64_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
    const T *row = row_at(i), *next = row_at(i + gridDim.x);
    const std::int64_t target = p.targets[i], last = ahead.pieces * kPer + threadIdx.x;
    const float at_target = target < 0 ? 0.0f : to_float(row[target]), tail = last < p.v ? to_float(row[last]) : 0.0f;
    PartialSum mine;
    auto add_group = [&](int group) {
      ahead.for_group(group,
                      [&](int k) { add_piece<T>(mine, reinterpret_cast<const Raw<T, kPer>&>(ahead.places[k])); });
    };
    wait_copies<3>();
    add_group(0);
    wait_copies<2>();
    add_group(1);
    wait_copies<1>();
    add_group(2);
    wait_copies<0>();
    add_group(3);
    if (last < p.v) add_logit(mine, tail);
    const RowSum sum = reduce(mine);  // with a barrier, so all have read what they read of the row
    const auto factor = target < 0 ? 0.0f : static_cast<float>(scale / sum.sum);
    if (threadIdx.x == 0 && p.loss != nullptr) {
      p.loss[i] = target < 0 ? 0 : static_cast<double>(sum.base) * kLn2 - static_cast<double>(at_target) + log(sum.sum);
    }
    G* grad = p.grad + i * p.ldg;
    auto gradient_of = [&](float x, std::int64_t at) {
      const float share = exp_above(x, sum.base);
      if (target < 0) return 0.0f;
      return at == target ? fmaf(share, factor, -static_cast<float>(scale)) : share * factor;
    };
#pragma unroll
    for (int group = 0; group < RowAhead::kGroups; ++group) {
      ahead.for_group(group, [&](int k) {
        float x[kPer];
        widen(reinterpret_cast<const Raw<T, kPer>&>(ahead.places[k]), x);
#pragma unroll
        for (int j = 0; j < kPer; ++j) x[j] = gradient_of(x[j], std::int64_t{k} * kPer + j);
        store_floats(grad + std::int64_t{k} * kPer, x);
      });
      ahead.ask(group, next);
    }
    if (last < p.v) grad[last] = from_float<G>(gradient_of(tail, last));
  }
}

__global__ void __launch_bounds__(kTotalThreads)
    cross_entropy_fwd_total(const double* loss, std::int64_t rows, const double* scale, double* out) {
  const double sum = sum_of_parts(loss, rows);
  if (threadIdx.x == 0) *out = *scale * sum;
}

// Whether rows of logits and gradients are aligned for it, and the places of a thread are enough.
template <class T, class G>
bool takes_rows_ahead(const CrossEntropyRowsParams<T, G>& p) {
  const std::int64_t row_bytes = p.ld * static_cast<std::int64_t>(sizeof(T)), per = kPerVector<T>;
  const std::int64_t piece_bytes = per * static_cast<std::int64_t>(sizeof(G));
  return is_aligned(p.logits, 16) && row_bytes % 16 == 0 &&
         is_aligned(p.grad, std::min<std::int64_t>(piece_bytes, 16)) && p.ldg % per == 0 &&
         p.v / per <= RowAhead::kMostPieces;
}

}  // namespace

template <class T, class G>
void cross_entropy_rows(const Stream& stream, const CrossEntropyRowsParams<T, G>& p) {
  if (p.rows == 0) return;
  const DeviceScope scope(stream.device);
  const std::int64_t limit = most_shared_bytes(stream.device);
  const std::int64_t bytes = divide_up(p.v * static_cast<std::int64_t>(sizeof(T)), 16) * 16;
  const bool keep = p.grad != nullptr && bytes + kBlockOverhead <= limit;
  // A row that leaves no room for a second one has all the threads of the multiprocessor.
  const bool alone = keep && 2 * (bytes + kBlockOverhead) > limit;
  const int threads = p.v <= 512 ? 32 : p.v <= 4096 ? 128 : alone ? kMaxThreads : 512;
  const auto shared = static_cast<std::size_t>(keep ? bytes : 0);
  if (alone && takes_rows_ahead(p)) {
    allow_shared_bytes(cross_entropy_fwd_rows_ahead<T, G>, shared);
    const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(p.rows, multiprocessors(stream.device)));
    cross_entropy_fwd_rows_ahead<T, G><<<blocks, kMaxThreads, shared, handle_of(stream)>>>(p);
    return check_launch("cross_entropy_fwd_rows_ahead");
  }
  allow_shared_bytes(cross_entropy_fwd_rows<T, G>, shared);
  cross_entropy_fwd_rows<<<static_cast<unsigned>(p.rows), threads, shared, handle_of(stream)>>>(p, keep);
  check_launch("cross_entropy_fwd_rows");
}

void cross_entropy_total(const Stream& stream, const double* loss, std::int64_t rows, const double* scale,
                         double* out) {
  const DeviceScope scope(stream.device);
  cross_entropy_fwd_total<<<1, kTotalThreads, 0, handle_of(stream)>>>(loss, rows, scale, out);
  check_launch("cross_entropy_fwd_total");
}

template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float, bfloat16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float, float16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<bfloat16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float16>&);

}  // namespace coluber::cuda
