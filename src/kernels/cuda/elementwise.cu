// Small things over whole tensors. Each kernel is a loop over 16-byte pieces; a matrix whose rows follow each other is
// one long row.
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/numbers.cuh"
#include "kernels/cuda/common/partial_sums.cuh"
#include "kernels/cuda/common/philox.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/elementwise.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 132 * 32;  // beyond what a device holds at once; the loops take the rest

// N numbers as one load or store.
template <class T, int N>
struct alignas(N * sizeof(T)) Piece {
  T values[N];
};

struct DropoutMask {
  std::uint64_t seed, stream;
  const std::int64_t* stream_base;  // null: 0
  std::uint32_t threshold;
  float factor;

  __device__ uint4 words(std::uint64_t block) const {
    const std::uint64_t base = stream_base == nullptr ? 0 : static_cast<std::uint64_t>(*stream_base);
    return philox_block(seed, base + stream, block);
  }
  __device__ float apply(float x, unsigned word) const { return (word >> 8) >= threshold ? x * factor : 0.0f; }
};

// What happens to N numbers that lie at `at` of their row, the row beginning with element number `first`.
template <class T>
struct AddOp {
  View<T, 2> to;
  View<const T, 2> from;
  float scale;

  template <int N>
  __device__ void run(std::int64_t row, std::int64_t at) const {
    T* p = to.ptr(row) + at;
    Piece<T, N> a = *reinterpret_cast<const Piece<T, N>*>(p);
    const auto x = *reinterpret_cast<const Piece<T, N>*>(from.ptr(row) + at);
#pragma unroll
    for (int i = 0; i < N; ++i) a.values[i] = from_float<T>(fmaf(scale, to_float(x.values[i]), to_float(a.values[i])));
    *reinterpret_cast<Piece<T, N>*>(p) = a;
  }
};

template <class T>
struct ScaleOp {
  View<T, 2> to;
  float scale;

  template <int N>
  __device__ void run(std::int64_t row, std::int64_t at) const {
    T* p = to.ptr(row) + at;
    Piece<T, N> a = *reinterpret_cast<const Piece<T, N>*>(p);
#pragma unroll
    for (int i = 0; i < N; ++i) a.values[i] = from_float<T>(scale * to_float(a.values[i]));
    *reinterpret_cast<Piece<T, N>*>(p) = a;
  }
};

template <class T>
struct MultiplyOp {
  const T *a, *b;
  T* y;

  template <int N>
  __device__ void run(std::int64_t, std::int64_t at) const {
    const auto u = *reinterpret_cast<const Piece<T, N>*>(a + at);
    const auto v = *reinterpret_cast<const Piece<T, N>*>(b + at);
    Piece<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.values[i] = from_float<T>(to_float(u.values[i]) * to_float(v.values[i]));
    *reinterpret_cast<Piece<T, N>*>(y + at) = out;
  }
};

struct NegExpOp {
  const float* x;
  float* y;

  template <int N>
  __device__ void run(std::int64_t, std::int64_t at) const {
    auto u = *reinterpret_cast<const Piece<float, N>*>(x + at);
#pragma unroll
    for (int i = 0; i < N; ++i) u.values[i] = -expf(u.values[i]);
    *reinterpret_cast<Piece<float, N>*>(y + at) = u;
  }
};

template <class T>
struct DropoutOp {
  View<const T, 2> x;
  View<T, 2> y;
  std::int64_t columns;  // of the whole tensor, which may be one long row here
  DropoutMask mask;

  template <int N>
  __device__ void run(std::int64_t row, std::int64_t at) const {
    const auto first = static_cast<std::uint64_t>(row * columns + at);
    const auto in = *reinterpret_cast<const Piece<T, N>*>(x.ptr(row) + at);
    Piece<T, N> out;
    if constexpr (N == 1) {
      const uint4 w = mask.words(first / 4);
      const unsigned lane = first % 4;
      const unsigned word = lane == 0 ? w.x : lane == 1 ? w.y : lane == 2 ? w.z : w.w;
      out.values[0] = from_float<T>(mask.apply(to_float(in.values[0]), word));
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 4) {  // `first` is a multiple of 4
        const uint4 w = mask.words(first / 4 + i / 4);
        out.values[i] = from_float<T>(mask.apply(to_float(in.values[i]), w.x));
        out.values[i + 1] = from_float<T>(mask.apply(to_float(in.values[i + 1]), w.y));
        out.values[i + 2] = from_float<T>(mask.apply(to_float(in.values[i + 2]), w.z));
        out.values[i + 3] = from_float<T>(mask.apply(to_float(in.values[i + 3]), w.w));
      }
    }
    *reinterpret_cast<Piece<T, N>*>(y.ptr(row) + at) = out;
  }
};

template <int N, class Op>
__global__ void __launch_bounds__(kThreads) elementwise_fwd_pieces(Op op, std::int64_t rows, std::int64_t columns) {
  const std::int64_t pieces = columns / N, step = gridDim.x * std::int64_t{kThreads};
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < pieces; i += step)
      op.template run<N>(row, i * N);
    // What is left of a row that is no multiple of N, by the last block.
    if (N > 1 && blockIdx.x == gridDim.x - 1 && threadIdx.x < columns - pieces * N)
      op.template run<1>(row, pieces * N + threadIdx.x);
  }
}

// `vectors`: every row of every tensor begins at 16 bytes.
template <class T, class Op>
void launch(const Stream& stream, const Op& op, std::int64_t rows, std::int64_t columns, bool vectors) {
  if (rows == 0 || columns == 0) return;
  const DeviceScope scope(stream.device);
  const std::int64_t pieces = vectors ? divide_up(columns, kPerVector<T>) : columns;
  const auto x = static_cast<unsigned>(std::min(divide_up(pieces, kThreads), kMaxBlocks));
  const dim3 grid(x, static_cast<unsigned>(std::min(rows, divide_up(kMaxBlocks, x))));
  if (vectors)
    elementwise_fwd_pieces<kPerVector<T>><<<grid, kThreads, 0, handle_of(stream)>>>(op, rows, columns);
  else
    elementwise_fwd_pieces<1><<<grid, kThreads, 0, handle_of(stream)>>>(op, rows, columns);
  check_launch("elementwise_fwd_pieces");
}

template <class T>
bool is_one_row(const View<T, 2>& v) {
  return v.shape[0] == 1 || v.strides[0] == v.shape[1];
}
template <class T>
bool has_aligned_rows(const View<T, 2>& v) {
  return is_aligned(v.data, 16) && (v.shape[0] == 1 || v.strides[0] * static_cast<std::int64_t>(sizeof(T)) % 16 == 0);
}
template <class T>
View<T, 2> one_row(View<T, 2> v) {
  v.shape[1] *= v.shape[0];
  v.shape[0] = 1;
  return v;
}

// Up to 160 tensors travel with a launch; a block takes kSumElems numbers of one of them.
constexpr std::int64_t kSumElems = 16384;
constexpr int kMaxSummed = 160;
template <class T>
struct SumTable {
  struct Entry {
    const T* data;
    std::int64_t n, first_block;
  } entries[kMaxSummed];
  int count;
};
static_assert(sizeof(SumTable<float>) <= 4096 - 64);  // beside the other argument, on every driver

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_of_squares_fwd_parts(const __grid_constant__ SumTable<T> table, double* parts) {
  constexpr int kPer = kPerVector<T>;
  int low = 0, high = table.count - 1;  // the last tensor that begins at or before this block
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.entries[middle].first_block <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  const auto& entry = table.entries[low];
  const std::int64_t first = (blockIdx.x - entry.first_block) * kSumElems;
  const int count = static_cast<int>(min(entry.n - first, kSumElems));
  const T* from = entry.data + first;
  const int vectors = reinterpret_cast<std::uintptr_t>(from) % 16 == 0 ? count / kPer : 0;
  double sum = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const Vector<T> v = load_vector(from + i * kPer);
#pragma unroll
    for (int k = 0; k < kPer; ++k) {
      const double x = to_float(v.values[k]);
      sum = fma(x, x, sum);
    }
  }
  for (int i = vectors * kPer + threadIdx.x; i < count; i += kThreads) {
    const double x = to_float(from[i]);
    sum = fma(x, x, sum);
  }
  __shared__ double of_warp[kThreads / 32];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += of_warp[warp];
  parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kTotalThreads)
    sum_of_squares_fwd_total(const double* parts, std::int64_t count, double* total) {
  const double sum = sum_of_parts(parts, count);
  if (threadIdx.x == 0) *total += sum;
}

}  // namespace

template <class T>
void add(const Stream& stream, View<T, 2> accumulator, View<const T, 2> x, float scale) {
  if (is_one_row(accumulator) && is_one_row(x)) {
    accumulator = one_row(accumulator);
    x = one_row(x);
  }
  launch<T>(stream, AddOp<T>{accumulator, x, scale}, x.shape[0], x.shape[1],
            has_aligned_rows(accumulator) && has_aligned_rows(x));
}

template <class T>
void scale(const Stream& stream, View<T, 2> x, float scale) {
  if (is_one_row(x)) x = one_row(x);
  launch<T>(stream, ScaleOp<T>{x, scale}, x.shape[0], x.shape[1], has_aligned_rows(x));
}

void neg_exp(const Stream& stream, const float* x, float* y, std::int64_t n) {
  launch<float>(stream, NegExpOp{x, y}, 1, n, is_aligned(x, 16) && is_aligned(y, 16));
}

template <class T>
void multiply(const Stream& stream, const T* a, const T* b, T* y, std::int64_t n) {
  launch<T>(stream, MultiplyOp<T>{a, b, y}, 1, n, is_aligned(a, 16) && is_aligned(b, 16) && is_aligned(y, 16));
}

template <class T>
void sum_of_squares(const Stream& stream, std::span<const std::span<const T>> tensors, double* sum) {
  std::int64_t blocks = 0, done = 0;
  for (const auto& tensor : tensors) blocks += divide_up(static_cast<std::int64_t>(tensor.size()), kSumElems);
  if (blocks == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  auto* parts = scratch.allocate<double>(blocks);
  SumTable<T> table{};
  std::int64_t first_block = 0;
  auto launch = [&] {
    if (first_block == 0) return;
    sum_of_squares_fwd_parts<<<static_cast<unsigned>(first_block), kThreads, 0, handle_of(stream)>>>(table,
                                                                                                     parts + done);
    check_launch("sum_of_squares_fwd_parts");
    done += first_block;
    table.count = 0;
    first_block = 0;
  };
  for (const auto& tensor : tensors) {
    const auto n = static_cast<std::int64_t>(tensor.size());
    if (n == 0) continue;
    table.entries[table.count++] = {tensor.data(), n, first_block};
    first_block += divide_up(n, kSumElems);
    if (table.count == kMaxSummed) launch();
  }
  launch();
  sum_of_squares_fwd_total<<<1, kTotalThreads, 0, handle_of(stream)>>>(parts, blocks, sum);
  check_launch("sum_of_squares_fwd_total");
}

template <class T>
void dropout(const Stream& stream, const DropoutParams<T>& p) {
  DropoutOp<T> op{
      p.x, p.y, p.x.shape[1], {p.seed, p.stream, p.stream_base, p.threshold(), static_cast<float>(1 / (1 - p.p))}};
  if (is_one_row(op.x) && is_one_row(op.y)) {
    op.x = one_row(op.x);
    op.y = one_row(op.y);
  }
  const bool whole_blocks = op.x.shape[0] == 1 || op.columns % 4 == 0;  // a row begins with a Philox block
  launch<T>(stream, op, op.x.shape[0], op.x.shape[1], whole_blocks && has_aligned_rows(op.x) && has_aligned_rows(op.y));
}

#define COLUBER_INSTANTIATE(T)                                                               \
  template void add(const Stream&, View<T, 2>, View<const T, 2>, float);                     \
  template void scale(const Stream&, View<T, 2>, float);                                     \
  template void multiply(const Stream&, const T*, const T*, T*, std::int64_t);               \
  template void sum_of_squares(const Stream&, std::span<const std::span<const T>>, double*); \
  template void dropout(const Stream&, const DropoutParams<T>&);
COLUBER_INSTANTIATE(float)
COLUBER_INSTANTIATE(bfloat16)
COLUBER_INSTANTIATE(float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
