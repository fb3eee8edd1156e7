// y (r,n) = x (r,k) W^T for few rows r: bound by reading W (n,k) once, in f32 (gemv.cuh; 16 bits: matmul_stream.cu).
// Where x is not stored like W, or k or alignments are odd, a general kernel brings x to shared memory as f32, a piece
// of k at a time.
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/matmul_skinny.h"

namespace coluber::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kOutputs = 2;              // rows of W of a warp
constexpr int kSharedFloats = 8 * 1024;  // of x: 32 KiB

constexpr std::size_t kMaxSharedBytes = 160 << 10;

template <int kRows, int kOutputs>
__global__ void __launch_bounds__(kThreads)
    matmul_fwd_skinny_f32(Matrix x, Matrix weight, Matrix y, const float* bias) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* staged = reinterpret_cast<float*>(shared);  // (kRows,k)
  const int k = static_cast<int>(x.columns);
  const std::int64_t first = (std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * kOutputs;
  GemvF32<kRows, kOutputs> gemv;
  gemv.start(weight, first);
  let_next_start();
  wait_for_inputs();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float* row = static_cast<const float*>(x.data) + min(std::int64_t{r}, x.rows - 1) * x.ld;
    for (int i = threadIdx.x * kPerVector<float>; i < k; i += kThreads * kPerVector<float>)
      store_vector(staged + r * k + i, load_vector(row + i));
  }
  __syncthreads();
  gemv.run(staged, k, k);
  gemv.store(y, bias, first);
}

template <class W, int kRows>
__global__ void __launch_bounds__(kThreads)
    matmul_fwd_skinny_any(Matrix x, Matrix weight, Matrix y, const float* bias, bool wide) {
  let_next_start();
  wait_for_inputs();
  constexpr int kVector = kPerVector<W>, kPiece = kSharedFloats / kRows;
  __shared__ __align__(16) float piece[kRows][kPiece];
  const int lane = threadIdx.x % 32;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * kOutputs, k = x.columns;
  float sum[kOutputs][kRows] = {};
  for (std::int64_t begin = 0; begin < k; begin += kPiece) {
    const int count = static_cast<int>(min(std::int64_t{kPiece}, k - begin));
    __syncthreads();
    for (int r = 0; r < kRows; ++r) {
      for (int i = threadIdx.x; i < count; i += kThreads)
        piece[r][i] = r < x.rows ? load_number(x.data, x.dtype, r * x.ld + begin + i) : 0.0f;
    }
    __syncthreads();
    const W* rows[kOutputs];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o)
      rows[o] = static_cast<const W*>(weight.data) + min(first + o, weight.rows - 1) * weight.ld + begin;
    if (wide) {
      for (int i = lane * kVector; i < count; i += 32 * kVector) {
        Vector<W> w[kOutputs];
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) w[o] = load_vector(rows[o] + i);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
            const float value = piece[r][i + j];
#pragma unroll
            for (int o = 0; o < kOutputs; ++o) sum[o][r] = fmaf(to_float(w[o].values[j]), value, sum[o][r]);
          }
        }
      }
    } else {
      for (int i = lane; i < count; i += 32) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
          const float w = to_float(rows[o][i]);
#pragma unroll
          for (int r = 0; r < kRows; ++r) sum[o][r] = fmaf(w, piece[r][i], sum[o][r]);
        }
      }
    }
  }
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float total = warp_sum(sum[o][r]);
      if (lane == 0 && r < y.rows && first + o < y.columns)
        store_number(y.data, y.dtype, r * y.ld + first + o, bias != nullptr ? total + bias[first + o] : total);
    }
  }
}

template <class W>
bool is_wide(const Matrix& m) {
  return m.columns % kPerVector<W> == 0 && m.ld % kPerVector<W> == 0 && is_aligned(m.data, 16);
}

template <class W, int kRows>
void launch_rows(const Stream& stream, const MatmulParams& p) {
  const auto launch = [&](auto kernel, int outputs, std::size_t shared_bytes, auto... more) {
    allow_shared_bytes(kernel, shared_bytes);
    const auto blocks = static_cast<unsigned>(divide_up(p.b.rows, kWarps * outputs));
    launch_dependent(kernel, {blocks, kThreads, shared_bytes, 1, p.b_is_settled}, stream, p.a, p.b, p.c, p.bias,
                     more...);
  };
  if constexpr (std::is_same_v<W, float>) {
    const auto shared_bytes = static_cast<std::size_t>(kRows * p.a.columns) * sizeof(W);
    if (p.a.dtype == DType::kF32 && is_wide<W>(p.b) && is_wide<W>(p.a) && shared_bytes <= kMaxSharedBytes) {
      // Two rows of W a warp have more loads under way; where that would leave multiprocessors idle, one.
      if (divide_up(p.b.rows, kWarps * 2) >= multiprocessors(stream.device))
        return launch(matmul_fwd_skinny_f32<kRows, 2>, 2, shared_bytes);
      return launch(matmul_fwd_skinny_f32<kRows, 1>, 1, shared_bytes);
    }
  }
  launch(matmul_fwd_skinny_any<W, kRows>, kOutputs, 0, is_wide<W>(p.b));
}

template <class W>
void launch_skinny(const Stream& stream, const MatmulParams& p) {
  if (p.a.rows == 1) return launch_rows<W, 1>(stream, p);
  if (p.a.rows == 2) return launch_rows<W, 2>(stream, p);
  if (p.a.rows <= 4) return launch_rows<W, 4>(stream, p);
  launch_rows<W, 8>(stream, p);
}

__global__ void add_bias_rows(Matrix c, const float* bias) {
  const std::int64_t n = c.rows * c.columns;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n;
       i += gridDim.x * std::int64_t{blockDim.x}) {
    const std::int64_t at = i / c.columns * c.ld + i % c.columns;
    store_number(c.data, c.dtype, at, load_number(c.data, c.dtype, at) + bias[i % c.columns]);
  }
}

// With no bias: zero.
__global__ void fill_rows_with(Matrix c, const float* bias) {
  const std::int64_t n = c.rows * c.columns;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n;
       i += gridDim.x * std::int64_t{blockDim.x}) {
    store_number(c.data, c.dtype, i / c.columns * c.ld + i % c.columns, bias != nullptr ? bias[i % c.columns] : 0.0f);
  }
}

// Column sums in two passes: a block sums kSumRows rows for 32 columns, then partial sums are added in their order.
constexpr int kSumRows = 512, kSumWarps = 8;

__global__ void __launch_bounds__(kSumWarps * 32) column_sums_partial(Matrix a, float* partial) {
  __shared__ float sums[kSumWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t column = blockIdx.x * std::int64_t{32} + lane, begin = blockIdx.y * std::int64_t{kSumRows};
  const std::int64_t end = min(begin + kSumRows, a.rows);
  float sum = 0;
  if (column < a.columns) {
    for (std::int64_t row = begin + warp; row < end; row += kSumWarps)
      sum += load_number(a.data, a.dtype, row * a.ld + column);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < a.columns) {
    for (int w = 1; w < kSumWarps; ++w) sum += sums[w][lane];
    partial[blockIdx.y * a.columns + column] = sum;
  }
}

__global__ void column_sums_total(const float* partial, std::int64_t count, std::int64_t columns, float* sums,
                                  bool accumulate) {
  const std::int64_t column = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (column >= columns) return;
  float sum = accumulate ? sums[column] : 0.0f;
  for (std::int64_t i = 0; i < count; ++i) sum += partial[i * columns + column];
  sums[column] = sum;
}

unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(divide_up(n, 256), 1, 1 << 16));
}

}  // namespace

bool takes_skinny(const MatmulParams& p) {
  return p.a.rows <= kSkinnyRows && p.transpose_b && !p.transpose_a && !p.accumulate;
}

void matmul_skinny(const Stream& stream, const MatmulParams& p) {
  switch (p.b.dtype) {
    case DType::kBF16: return launch_skinny<bfloat16>(stream, p);
    case DType::kF16: return launch_skinny<float16>(stream, p);
    default: return launch_skinny<float>(stream, p);
  }
}

void add_bias(const Stream& stream, const Matrix& c, const float* bias) {
  add_bias_rows<<<blocks_for(c.rows * c.columns), 256, 0, handle_of(stream)>>>(c, bias);
  check_launch("add_bias_rows");
}

void fill_rows(const Stream& stream, const MatmulParams& p) {
  if (p.accumulate) return;
  fill_rows_with<<<blocks_for(p.c.rows * p.c.columns), 256, 0, handle_of(stream)>>>(p.c, p.bias);
  check_launch("fill_rows_with");
}

void column_sums(const Stream& stream, const Matrix& a, float* sums, bool accumulate) {
  if (a.columns == 0) return;
  const DeviceScope scope(stream.device);
  const std::int64_t count = divide_up(a.rows, kSumRows);
  Scratch scratch(stream);
  float* partial = scratch.allocate<float>(count * a.columns);
  if (count > 0) {
    const dim3 grid(static_cast<unsigned>(divide_up(a.columns, 32)), static_cast<unsigned>(count));
    column_sums_partial<<<grid, kSumWarps * 32, 0, handle_of(stream)>>>(a, partial);
    check_launch("column_sums_partial");
  }
  column_sums_total<<<blocks_for(a.columns), 256, 0, handle_of(stream)>>>(partial, count, a.columns, sums, accumulate);
  check_launch("column_sums_total");
}

}  // namespace coluber::cuda
