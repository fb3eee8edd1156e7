// y (r,n) = x (r,k) W^T for up to 64 rows in 16 bits, W read once (weight_stream.cuh). For one or two rows x may be
// norm(...), which every block computes for itself.
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace coluber::cuda {
namespace {

constexpr int kFewRows = 8;                         // half a tile of x
constexpr int kNormRows = 2;                        // over more, the norm in a kernel of its own takes less time
constexpr std::int64_t kMostManyBytes = 216 << 10;  // of matmul_fwd_stream_many
// Over 8 rows, of a W that this reads as fast as the library does, or faster; x comes from L2 once a block.
constexpr std::int64_t kManyWeightBytes = 6 << 20;
constexpr int kRingTiles = 8;  // kStages x kTiles at least: 64 KiB under way
template <int kTiles>
constexpr int kFewStages = (kRingTiles + kTiles - 1) / kTiles;

// What a kernel of few rows multiplies, and where it comes from.
struct Product {
  Matrix x, weight, y;
  const float* bias = nullptr;
  bool early = false;  // W may be read before the kernel in front has ended
  int turns = 0;
};

__device__ __forceinline__ void store_output(const Product& p, int row, std::int64_t column, float value) {
  if (row >= p.y.rows || column >= p.y.columns) return;
  store_number(p.y.data, p.y.dtype, row * p.y.ld + column, p.bias != nullptr ? value + p.bias[column] : value);
}

// x in shared memory in the order that lanes read it: by blocks of 32 inputs, rows, lanes t, 16 bytes each.
template <class T, int kTiles, bool kNorm>
__global__ void __launch_bounds__(kStreamThreads, 2) matmul_fwd_stream_few(Product p, NormLinearParams norm) {
  using Stream = WeightStream<T, kTiles, kFewStages<kTiles>>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float2 sums[2][kStreamWarps][kTiles][32];
  __shared__ float partial[kNorm ? 2 * kMaxNormPairs : 1];
  let_next_start();
  uint4* staged = reinterpret_cast<uint4*>(shared + Stream::kBytes);
  const int rows = static_cast<int>(p.x.rows), k = static_cast<int>(p.x.columns), vectors = k / 8;
  const int rounds = (k + kRoundInputs - 1) / kRoundInputs;
  float* scale = reinterpret_cast<float*>(staged + rows * rounds * kRoundInputs / 8);  // (k)
  if constexpr (kNorm) {
    for (int i = threadIdx.x * 4; i < k; i += kStreamThreads * 4)
      copy_16_bytes(shared_address(scale + i), norm.norm_weight + i, true);
    commit_copies();
  }
  Stream stream(p.weight, p.turns, shared);
  auto place = [&](int row, int vector) { return (vector / 4 * rows + row) * 4 + vector % 4; };
  for (int i = threadIdx.x; i < rows * (rounds * kRoundInputs - k) / 8; i += kStreamThreads)  // zeros, and no NaN
    staged[place(i % rows, vectors + i / rows)] = uint4{};
  int row = threadIdx.x / vectors, vector = threadIdx.x % vectors;
  wait_for_inputs();
  if constexpr (kNorm) {
    wait_copies<kFewStages<kTiles>>();
    norm_rows<T>(norm, 0, rows, blockIdx.x == 0 && norm.residual_out != nullptr, scale, partial,
                 [&](int r, int channel, const uint4& v) { staged[place(r, channel / 8)] = v; });
  } else {
#pragma unroll 4
    while (row < rows) {
      staged[place(row, vector)] =
          *reinterpret_cast<const uint4*>(static_cast<const T*>(p.x.data) + row * p.x.ld + vector * 8);
      vector += kStreamThreads;
      while (vector >= vectors) {
        vector -= vectors;
        ++row;
      }
    }
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int buffer = 0;
  for (int turn = blockIdx.x; turn < p.turns; turn += gridDim.x, buffer ^= 1) {
    float sum[kTiles][4] = {};
    for (int i = 0; i < rounds; ++i) {
      uint4 x{}, x_other{};
      if (g < rows) {
        x = staged[((warp + i * kStreamWarps) * 2 * rows + g) * 4 + t];
        x_other = staged[(((warp + i * kStreamWarps) * 2 + 1) * rows + g) * 4 + t];
      }
      stream.take([&](int n, const uint4& w, const uint4& w_other) {
        multiply_block<T>(sum[n], x, uint4{}, w);
        multiply_block<T>(sum[n], x_other, uint4{}, w_other);
      });
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) sums[buffer][warp][n][lane] = {sum[n][0], sum[n][1]};
    __syncthreads();
    for (int i = threadIdx.x; i < kTiles * 32; i += kStreamThreads) {
      float2 total = sums[buffer][0][i / 32][i % 32];
#pragma unroll
      for (int w = 1; w < kStreamWarps; ++w) {
        const float2 s = sums[buffer][w][i / 32][i % 32];
        total = {total.x + s.x, total.y + s.y};
      }
      const std::int64_t column = std::int64_t{turn} * Stream::kRows + i / 32 * 8 + i % 4 * 2;
      store_output(p, i % 32 / 4, column, total.x);
      store_output(p, i % 32 / 4, column + 1, total.y);
    }
  }
}

template <int kTiles, int kSixteens>
constexpr int kManyStages = kTiles + 2 * kSixteens > 16 ? 3 : 4;

// kSixteens times 16 rows; x comes from L2 the same way as W.
template <class T, int kTiles, int kSixteens>
__global__ void __launch_bounds__(kStreamThreads) matmul_fwd_stream_many(Product p) {
  using Stream = TileStream<T, kTiles, 2 * kSixteens, kManyStages<kTiles, kSixteens>>;
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  Stream stream(p.weight, p.x, shared);
  wait_for_inputs();
  stream.start();
  const int k = static_cast<int>(p.x.columns), halves = (k + kRoundInputs - 1) / kRoundInputs * 2;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sum[kSixteens][kTiles][4] = {};
  for (int i = 0; i < halves; ++i) {
    uint4 x[2 * kSixteens];
    stream.take(x, [&](int n, const uint4& w) {
#pragma unroll
      for (int s = 0; s < kSixteens; ++s) multiply_block<T>(sum[s][n], x[2 * s], x[2 * s + 1], w);
    });
  }
  wait_copies<0>();
  __syncwarp();
  // Sums take the place of the warp's part of the ring.
  constexpr int kSums = kSixteens * kTiles * 32, kWarpStride = Stream::kWarpBytes / 16;
  static_assert(kSums <= kWarpStride);
  float4* sums = reinterpret_cast<float4*>(shared);
#pragma unroll
  for (int s = 0; s < kSixteens; ++s) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
      sums[warp * kWarpStride + (s * kTiles + n) * 32 + lane] = {sum[s][n][0], sum[s][n][1], sum[s][n][2],
                                                                 sum[s][n][3]};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kSums; i += kStreamThreads) {
    float4 total = sums[i];
#pragma unroll
    for (int w = 1; w < kStreamWarps; ++w) {
      const float4 v = sums[w * kWarpStride + i];
      total = {total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w};
    }
    const int n = i / 32 % kTiles, row = i / 32 / kTiles * 16 + i % 32 / 4;
    const std::int64_t column = (std::int64_t{blockIdx.x} * kTiles + n) * 8 + i % 4 * 2;
    store_output(p, row, column, total.x);
    store_output(p, row, column + 1, total.y);
    store_output(p, row + 8, column, total.z);
    store_output(p, row + 8, column + 1, total.w);
  }
}

// Of at most three tiles a turn.
std::int64_t few_shared_bytes(const Matrix& x, bool norm) {
  const std::int64_t padded = divide_up(x.columns, kRoundInputs) * kRoundInputs;
  return (kRingTiles + 2) * 1024 * kStreamWarps + x.rows * padded * 2 + (norm ? x.columns * 4 : 0);
}

// Beside what is in static arrays.
bool fits_few(int device, const Matrix& x, bool norm) {
  return x.rows <= kFewRows && few_shared_bytes(x, norm) + (16 << 10) <= most_shared_bytes(device);
}

template <class T, int kTiles, bool kNorm>
void launch_few(const Stream& stream, Product p, const NormLinearParams& norm) {
  const auto shared_bytes = static_cast<std::size_t>(few_shared_bytes(p.x, kNorm));
  const auto kernel = matmul_fwd_stream_few<T, kTiles, kNorm>;
  allow_shared_bytes(kernel, shared_bytes);
  p.turns = static_cast<int>(divide_up(p.weight.rows, 8 * kTiles));
  // An equal number of turns for all blocks, all of them there at once.
  const std::int64_t blocks = divide_up(p.turns, divide_up(p.turns, multiprocessors(stream.device)));
  launch_dependent(kernel, {static_cast<unsigned>(blocks), kStreamThreads, shared_bytes, 1, p.early}, stream, p, norm);
}

template <class T, bool kNorm>
void launch_few(const Stream& stream, const Product& p, const NormLinearParams& norm) {
  const std::int64_t tiles = divide_up(divide_up(p.weight.rows, 8), multiprocessors(stream.device));
  if (tiles <= 1) return launch_few<T, 1, kNorm>(stream, p, norm);
  if (tiles == 3) return launch_few<T, 3, kNorm>(stream, p, norm);
  launch_few<T, 2, kNorm>(stream, p, norm);
}

template <class T, int kTiles, int kSixteens>
void launch_many(const Stream& stream, Product p) {
  constexpr std::size_t kSharedBytes = TileStream<T, kTiles, 2 * kSixteens, kManyStages<kTiles, kSixteens>>::kBytes;
  const auto kernel = matmul_fwd_stream_many<T, kTiles, kSixteens>;
  allow_shared_bytes(kernel, kSharedBytes);
  p.turns = static_cast<int>(divide_up(p.weight.rows, 8 * kTiles));
  launch_dependent(kernel, {static_cast<unsigned>(p.turns), kStreamThreads, kSharedBytes, 1, p.early}, stream, p);
}

template <class T, int kSixteens>
void launch_many(const Stream& stream, const Product& p) {
  const std::int64_t tiles = divide_up(divide_up(p.weight.rows, 8), multiprocessors(stream.device));
  if (tiles <= 1) return launch_many<T, 1, kSixteens>(stream, p);
  if (tiles <= 3) return launch_many<T, 3, kSixteens>(stream, p);
  launch_many<T, 10, kSixteens>(stream, p);
}

// A row a block.
template <class T>
__global__ void __launch_bounds__(kStreamThreads) norm_rows_fwd(NormLinearParams p, T* normed) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float partial[2 * kMaxNormPairs];
  let_next_start();
  float* scale = reinterpret_cast<float*>(shared);
  const int m = static_cast<int>(p.x.columns);
  for (int i = threadIdx.x; i < m; i += kStreamThreads) scale[i] = p.norm_weight[i];
  wait_for_inputs();
  norm_rows<T>(p, blockIdx.x, 1, p.residual_out != nullptr, scale, partial, [&](int, int channel, const uint4& v) {
    *reinterpret_cast<uint4*>(normed + blockIdx.x * p.x.columns + channel) = v;
  });
}

MatmulParams product_of(const NormLinearParams& p, Matrix x) {
  x.dtype = p.weight.dtype;  // the residual stream's own is f32 where there is no x beside it
  return {x, p.weight, p.y, false, true, false, p.bias, true};
}

template <class F>
void with_16_bits(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(bfloat16{});
  f(float16{});
}

}  // namespace

bool takes_stream(int device, const MatmulParams& p) {
  const auto whole = [](const Matrix& m) { return m.columns % 8 == 0 && m.ld % 8 == 0 && is_aligned(m.data, 16); };
  return p.transpose_b && !p.transpose_a && !p.accumulate && dtype_size(p.b.dtype) == 2 && p.a.dtype == p.b.dtype &&
         p.a.rows >= 1 && p.a.rows <= kMaxStreamRows && whole(p.a) && whole(p.b) &&
         (p.a.rows <= kFewRows ||  // over them only what may be read ahead of the kernel in front gains by it
          (p.b_is_settled && most_shared_bytes(device) >= kMostManyBytes &&
           p.b.rows * p.b.columns * 2 <= kManyWeightBytes));
}

void matmul_stream(const Stream& stream, const MatmulParams& p) {
  const Product product{p.a, p.b, p.c, p.bias, p.b_is_settled, 0};
  with_16_bits(p.b.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (fits_few(stream.device, p.a, false)) return launch_few<T, false>(stream, product, {});
    if (p.a.rows <= kFewRows) return launch_many<T, 1, 2>(stream, product);
    if (p.a.rows <= 32) return launch_many<T, 2>(stream, product);
    launch_many<T, 4>(stream, product);
  });
}

bool takes_norm_stream(int device, const NormLinearParams& p) {
  return p.x.columns <= kMaxNormPairs * kGroupChannels && is_aligned(p.residual, 16) && is_aligned(p.norm_weight, 16) &&
         is_aligned(p.x.data, 16) && p.x.ld % 8 == 0 && takes_stream(device, product_of(p, p.x));
}

void norm_stream(const Stream& stream, const NormLinearParams& p) {
  with_16_bits(p.weight.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.x.rows <= kNormRows && p.x.rows * divide_up(p.x.columns, kGroupChannels) <= kMaxNormPairs &&
        fits_few(stream.device, p.x, true))
      return launch_few<T, true>(stream, {p.x, p.weight, p.y, p.bias, true, 0}, p);
    Scratch scratch(stream);
    T* normed = scratch.allocate<T>(p.x.rows * p.x.columns);
    launch_dependent(norm_rows_fwd<T>,
                     {static_cast<unsigned>(p.x.rows), kStreamThreads, static_cast<std::size_t>(p.x.columns * 4)},
                     stream, p, normed);
    matmul_stream(stream, product_of(p, {normed, p.x.rows, p.x.columns, p.x.columns, p.weight.dtype}));
  });
}

}  // namespace coluber::cuda
