// y (r,n) = x (r,k) W^T for up to 8 rows in 16 bits, W read once (weight_stream.cuh). For one or two rows x may be
// norm(...), which every block computes for itself; half of y may go on to a convolution (conv_step.cuh).
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/conv_step.cuh"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/cuda/matmul_tiles.h"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace coluber::cuda {
namespace {

constexpr int kFewRows = 8;                      // half a tile of x
constexpr int kNormRows = 2;                     // over more, the norm in a kernel of its own takes less time
constexpr int kManyTurns = 8;                    // of every multiprocessor
constexpr std::int64_t kStaticBytes = 16 << 10;  // at most, of matmul_fwd_stream_few
// Stages x tiles at least: 112 KiB under way, 80 where that does not fit.
constexpr int kRingTiles = 14, kFewerRingTiles = 10;
constexpr int ring_stage_bytes(int tiles) {
  return tiles * kStreamWarps * 1024;
}
template <int kTiles>
constexpr int kFewStages = (kRingTiles + kTiles - 1) / kTiles;
template <int kTiles>
constexpr int kFewerStages = (kFewerRingTiles + kTiles - 1) / kTiles;

// What a kernel of few rows multiplies, and where it comes from.
struct Product {
  Matrix x, weight, y;
  const float* bias = nullptr;
  bool early = false;  // W may be read before the kernel in front has ended
  int turns = 0, stages = 0;
};

__device__ __forceinline__ void store_output(const Product& p, int row, std::int64_t column, float value) {
  if (row >= p.y.rows || column >= p.y.columns) return;
  store_number(p.y.data, p.y.dtype, row * p.y.ld + column, p.bias != nullptr ? value + p.bias[column] : value);
}

// x in shared memory in the order that lanes read it: by blocks of 32 inputs, rows, lanes t, 16 bytes each. kConv: the
// first half of the blocks has the first half of the outputs, which are convolved and multiplied with x_proj where they
// are.
template <class T, int kTiles, bool kNorm, bool kConv>
__global__ void __launch_bounds__(kStreamThreads, 2)
    matmul_fwd_stream_few(Product p, NormLinearParams norm, ConvXProj conv) {
  using Stream = WeightStream<T, kTiles, kFewStages<kTiles>, kFewerStages<kTiles>>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float2 sums[2][kStreamWarps][kTiles][32];
  __shared__ float partial[kNorm ? 2 * kMaxNormPairs : 1];
  const int half = static_cast<int>(gridDim.x) / 2;
  const bool convolves = kConv && static_cast<int>(blockIdx.x) < half;
  Turns turns{static_cast<int>(blockIdx.x), p.turns, static_cast<int>(gridDim.x)};
  if constexpr (kConv) {
    if (convolves)
      turns = {static_cast<int>(blockIdx.x), p.turns / 2, half};
    else
      turns = {static_cast<int>(blockIdx.x) - half + p.turns / 2, p.turns, half};
  }
  uint4* staged =
      reinterpret_cast<uint4*>(shared + used_stages(p.stages, p.x.columns, turns.count()) * ring_stage_bytes(kTiles));
  const int rows = static_cast<int>(p.x.rows), k = static_cast<int>(p.x.columns), vectors = k / 8;
  const int rounds = (k + kRoundInputs - 1) / kRoundInputs;
  float* scale = reinterpret_cast<float*>(staged + rows * rounds * kRoundInputs / 8);  // (k)
  if constexpr (kNorm) {
    for (int i = threadIdx.x * 4; i < k; i += kStreamThreads * 4)
      copy_16_bytes(shared_address(scale + i), norm.norm_weight + i, true);
    commit_copies();
  }
  ConvStep<T, kTiles> step;
  if (convolves)
    step.start(conv, rows, turns,
               reinterpret_cast<unsigned char*>(staged + rows * rounds * kRoundInputs / 8) + (kNorm ? k * 4 : 0));
  Stream stream(p.weight, turns, p.stages, shared);
  auto place = [&](int row, int vector) { return (vector / 4 * rows + row) * 4 + vector % 4; };
  for (int i = threadIdx.x; i < rows * (rounds * kRoundInputs - k) / 8; i += kStreamThreads)  // zeros, and no NaN
    staged[place(i % rows, vectors + i / rows)] = uint4{};
  int row = threadIdx.x / vectors, vector = threadIdx.x % vectors;
  wait_for_inputs();
  let_next_start();  // not earlier: blocks of kernels to come would take places of those in between
  if constexpr (kNorm) {
    if (p.stages == kFewStages<kTiles>)
      wait_copies<kFewStages<kTiles>>();
    else
      wait_copies<kFewerStages<kTiles>>();
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
  for (int turn = turns.first; turn < turns.end; turn += turns.stride, buffer ^= 1) {
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
      if (convolves) {
        if (p.bias != nullptr) total = {total.x + p.bias[column], total.y + p.bias[column + 1]};
        step.convolve(conv, rows, column, total);
        continue;
      }
      store_output(p, i % 32 / 4, column, total.x);
      store_output(p, i % 32 / 4, column + 1, total.y);
    }
    if (convolves) {
      __syncthreads();
      step.multiply(conv, rows);
    }
  }
  if (convolves) step.store(conv, rows);
}

// Beside the ring.
std::int64_t few_input_bytes(const Matrix& x, bool norm) {
  return x.rows * divide_up(x.columns, kRoundInputs) * kRoundInputs * 2 + (norm ? x.columns * 4 : 0);
}

// With a ring of `ring_tiles` for at most three tiles a turn and what is in static arrays.
std::int64_t most_few_bytes(const Matrix& x, bool norm, int ring_tiles = kFewerRingTiles) {
  return (ring_tiles + 2) * ring_stage_bytes(1) + few_input_bytes(x, norm) + kStaticBytes;
}

bool fits_few(int device, const Matrix& x, bool norm) {
  return x.rows <= kFewRows && most_few_bytes(x, norm) <= most_shared_bytes(device);
}

// Tiles of a block's turn: an equal number of turns for all blocks, all of them there at once.
int tiles_a_turn(int device, const Matrix& weight) {
  const std::int64_t tiles = divide_up(divide_up(weight.rows, 8), multiprocessors(device));
  return tiles <= 1 ? 1 : tiles == 3 ? 3 : 2;
}

// With many turns a second block on a multiprocessor reads while the first adds its warps' sums.
std::int64_t blocks_of(int device, std::int64_t turns, std::int64_t most_bytes) {
  const std::int64_t ones = multiprocessors(device);
  const std::int64_t most = turns >= kManyTurns * ones && 2 * most_bytes <= most_shared_bytes(device) ? 2 * ones : ones;
  return divide_up(turns, divide_up(turns, most));
}

template <class T, int kTiles, bool kNorm, bool kConv>
void launch_few(const Stream& stream, Product p, const NormLinearParams& norm, const ConvXProj& conv) {
  p.turns = static_cast<int>(divide_up(p.weight.rows, 8 * kTiles));
  const std::int64_t blocks = kConv ? 2 * conv_stream_parts(stream.device, norm, conv)
                                    : blocks_of(stream.device, p.turns, most_few_bytes(p.x, kNorm));
  const std::int64_t turns = divide_up(p.turns, blocks);
  const std::int64_t conv_bytes = kConv ? conv_step_bytes(conv, p.x.rows, 8 * kTiles, turns) : 0;
  const std::int64_t at_most =
      (blocks > multiprocessors(stream.device) ? 2 : 1) * (most_few_bytes(p.x, kNorm, kRingTiles) + conv_bytes);
  p.stages = at_most <= most_shared_bytes(stream.device) ? kFewStages<kTiles> : kFewerStages<kTiles>;
  const std::int64_t bytes =
      used_stages(p.stages, p.x.columns, turns) * ring_stage_bytes(kTiles) + few_input_bytes(p.x, kNorm) + conv_bytes;
  const auto shared_bytes = static_cast<std::size_t>(bytes);
  const auto kernel = matmul_fwd_stream_few<T, kTiles, kNorm, kConv>;
  allow_shared_bytes(kernel, shared_bytes);
  launch_dependent(kernel, {static_cast<unsigned>(blocks), kStreamThreads, shared_bytes, 1, p.early}, stream, p, norm,
                   conv);
}

template <class T, bool kNorm, bool kConv>
void launch_few(const Stream& stream, const Product& p, const NormLinearParams& norm, const ConvXProj& conv) {
  switch (tiles_a_turn(stream.device, p.weight)) {
    case 1: return launch_few<T, 1, kNorm, kConv>(stream, p, norm, conv);
    case 2: return launch_few<T, 2, kNorm, kConv>(stream, p, norm, conv);
    default: return launch_few<T, 3, kNorm, kConv>(stream, p, norm, conv);
  }
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
         p.a.rows >= 1 && whole(p.a) && whole(p.b) && fits_few(device, p.a, false);
}

void matmul_stream(const Stream& stream, const MatmulParams& p) {
  const Product product{p.a, p.b, p.c, p.bias, p.b_is_settled};
  with_16_bits(p.b.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_few<T, false, false>(stream, product, {}, {});
  });
}

bool takes_norm_stream(int device, const NormLinearParams& p) {
  return p.x.rows <= kMaxTileRows && p.x.columns % 8 == 0 && p.x.columns <= kMaxNormPairs * kGroupChannels &&
         is_aligned(p.residual, 16) && is_aligned(p.norm_weight, 16) && is_aligned(p.x.data, 16) && p.x.ld % 8 == 0 &&
         (p.x.rows > kFewRows || takes_stream(device, product_of(p, p.x)));
}

namespace {

bool norms_itself(int device, const NormLinearParams& p) {
  return p.x.rows <= kNormRows && p.x.rows * divide_up(p.x.columns, kGroupChannels) <= kMaxNormPairs &&
         fits_few(device, p.x, true);
}

// norm(r) of all rows, by a kernel of its own.
template <class T>
Matrix normed_rows(const Stream& stream, Scratch& scratch, const NormLinearParams& p) {
  T* normed = scratch.allocate<T>(p.x.rows * p.x.columns);
  launch_dependent(norm_rows_fwd<T>,
                   {static_cast<unsigned>(p.x.rows), kStreamThreads, static_cast<std::size_t>(p.x.columns * 4)}, stream,
                   p, normed);
  return {normed, p.x.rows, p.x.columns, p.x.columns, p.weight.dtype};
}

}  // namespace

void norm_stream(const Stream& stream, const NormLinearParams& p) {
  with_16_bits(p.weight.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (norms_itself(stream.device, p))
      return launch_few<T, true, false>(stream, {p.x, p.weight, p.y, p.bias, true}, p, {});
    Scratch scratch(stream);
    matmul(stream, product_of(p, normed_rows<T>(stream, scratch, p)));
  });
}

int conv_stream_parts(int device, const NormLinearParams& p, const ConvXProj& conv) {
  const int channels = 8 * tiles_a_turn(device, p.weight);
  const std::int64_t turns = conv.d / channels, parts = divide_up(turns, divide_up(2 * turns, multiprocessors(device)));
  const bool aligned = is_aligned(conv.conv_weight, 16) && is_aligned(conv.conv_bias, 16) &&
                       is_aligned(conv.conv_state, 16) && is_aligned(conv.x_proj.data, 16) && conv.x_proj.ld % 8 == 0;
  if (p.x.rows > kFewRows || conv.d % channels != 0 || conv.taps > kMostConvTaps || conv.x_proj.rows > kMostXProjRows ||
      !aligned)
    return 0;
  const std::int64_t bytes = most_few_bytes({nullptr, kFewRows, p.x.columns}, false) +
                             conv_step_bytes(conv, kFewRows, channels, divide_up(turns, parts));
  return bytes <= most_shared_bytes(device) ? static_cast<int>(parts) : 0;
}

void norm_conv_stream(const Stream& stream, const NormLinearParams& p, const ConvXProj& conv) {
  with_16_bits(p.weight.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (norms_itself(stream.device, p))
      return launch_few<T, true, true>(stream, {p.x, p.weight, p.y, p.bias, true}, p, conv);
    Scratch scratch(stream);
    launch_few<T, false, true>(stream, {normed_rows<T>(stream, scratch, p), p.weight, p.y, p.bias, true}, p, conv);
  });
}

}  // namespace coluber::cuda
