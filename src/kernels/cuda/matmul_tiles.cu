// Products of 9 to 64 rows (matmul_tiles.h). What bounds them is reading W once, so one warp of a block does nothing
// but ask for tiles, as far ahead as shared memory has places: of W from before the kernel's input is there, of x
// after.
//
// W's rows are the rows of a product on tensor cores, tokens its columns. A block has 8 kEights rows of W and one of
// `parts` equal parts of the inputs; the parts of the same rows are a cluster. Of the 64 inputs of a tile each of
// kShares warps takes 16, for half of the tokens. In the end the warps' sums are added in order, then the parts'.
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/tensor_map.h"
#include "kernels/cuda/common/tile_copy.cuh"
#include "kernels/cuda/matmul_tiles.h"

namespace coluber::cuda {
namespace {

constexpr int kMostParts = 2, kMostStages = 40;
constexpr int kShares = 4;                         // warps of a tile
constexpr int kEightBytes = 8 * kTileColumns * 2;  // of 8 rows of a tile
constexpr std::int64_t kReservedBytes = 4 << 10;   // of shared memory: meetings, and what a block is charged for

// kColumns x 8 tokens.
template <int kEights, int kColumns>
struct Shape {
  static constexpr int kRows = 8 * kEights, kTiles = (kEights + 1) / 2, kTokens = 8 * kColumns;
  static constexpr int kWarps = kShares * 2, kThreads = (kWarps + 1) * 32;
  static constexpr int kWarpColumns = kColumns / 2;
  static constexpr int kStageBytes = (kEights + kColumns) * kEightBytes;
  // Sums in shared memory: (share, token, row of W), tokens so far apart that columns 2 t of four lanes lie in other
  // banks.
  static constexpr int kSumStride = kRows + 4, kShareBytes = kTokens * kSumStride * 4;
  static constexpr int kSumBytes = kShares * kShareBytes;
};

struct TileProduct {
  Matrix y;
  const float* bias = nullptr;
  int steps = 0;      // tiles along the inputs
  int parts = 1;      // of the inputs
  int stages = 0;     // places for tiles
  bool wide = false;  // four outputs of y are one store
};

// What a warp multiplies of a tile, in registers.
template <class T, int kTiles, int kColumns>
struct Pieces {
  std::uint32_t a[kTiles][4], b[kColumns][2];

  // Where rows of W are an odd number of eights, the upper half of the last 16 is what follows in shared memory, and
  // its sums are not used.
  __device__ __forceinline__ void load(unsigned weights, unsigned tokens) {
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      std::uint32_t both[4];
      load_matrices(both, tokens + n * kEightBytes);
      b[n][0] = both[0], b[n][1] = both[1], b[n + 1][0] = both[2], b[n + 1][1] = both[3];
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) load_matrices(a[m], weights + m * 2 * kEightBytes);
  }

  __device__ __forceinline__ void multiply(float (&sum)[kTiles][kColumns][4]) const {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) multiply_tile<T>(sum[m][n], a[m], b[n][0], b[n][1]);
    }
  }
};

// Four neighbouring outputs of a token, of which the last ones may lie past the end.
__device__ __forceinline__ void store_outputs(const TileProduct& p, int token, std::int64_t column, float4 v) {
  if (token >= p.y.rows || column >= p.y.columns) return;
  if (p.bias != nullptr) {
    const std::int64_t last = p.y.columns - 1;
    v = {v.x + p.bias[column], v.y + p.bias[min(column + 1, last)], v.z + p.bias[min(column + 2, last)],
         v.w + p.bias[min(column + 3, last)]};
  }
  const std::int64_t at = token * p.y.ld + column;
  const float values[4] = {v.x, v.y, v.z, v.w};
  if (p.wide) {
    switch (p.y.dtype) {
      case DType::kBF16: return store_floats(static_cast<bfloat16*>(p.y.data) + at, values);
      case DType::kF16: return store_floats(static_cast<float16*>(p.y.data) + at, values);
      default: return store_floats(static_cast<float*>(p.y.data) + at, values);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (column + i < p.y.columns) store_number(p.y.data, p.y.dtype, at + i, values[i]);
}

__device__ __forceinline__ float4 plus(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

template <class T, int kEights, int kColumns>
__global__ void __launch_bounds__(Shape<kEights, kColumns>::kThreads)
    matmul_fwd_tiles(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x, TileProduct p) {
  using S = Shape<kEights, kColumns>;
  extern __shared__ unsigned char shared[];
  __shared__ Meeting filled[kMostStages], emptied[kMostStages];
  const unsigned ring = (shared_address(shared) + 1023) / 1024 * 1024;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int part = static_cast<int>(blockIdx.x) % p.parts, group = static_cast<int>(blockIdx.x) / p.parts;
  const int part_steps = (p.steps + p.parts - 1) / p.parts, first = part * part_steps, first_row = group * S::kRows;
  const int steps = max(min(part_steps, p.steps - first), 0);
  if (threadIdx.x == 0) {
    for (int s = 0; s < p.stages; ++s) filled[s].init(1), emptied[s].init(S::kWarps);
    show_meetings();
  }
  __syncthreads();
  float sum[S::kTiles][S::kWarpColumns][4] = {};
  if (warp == S::kWarps) {
    auto column_of = [&](int i) { return (first + i) * kTileColumns; };
    auto ask_for_weights = [&](int i, int stage) {
      arrive_expecting(filled[stage], S::kStageBytes);
      copy_tile(ring + stage * S::kStageBytes, weight, first_row, column_of(i), filled[stage]);
    };
    auto ask_for_x = [&](int i, int stage) {
      copy_tile(ring + stage * S::kStageBytes + kEights * kEightBytes, x, 0, column_of(i), filled[stage]);
    };
    const int ahead = min(p.stages, steps);
    for (int i = lane; i < ahead; i += 32) ask_for_weights(i, i);
    if (lane == 0) ask_for_map(x);
    wait_for_inputs();
    let_next_start();  // not earlier: blocks of kernels to come would take places of those in between
    for (int i = lane; i < ahead; i += 32) ask_for_x(i, i);
    __syncwarp();
    if (lane == 0) {
      for (int i = ahead, stage = 0, use = 0; i < steps; ++i) {
        emptied[stage].wait(use);
        ask_for_weights(i, stage);
        ask_for_x(i, stage);
        if (++stage == p.stages) stage = 0, ++use;
      }
    }
    __syncwarp();
  } else {
    // Lane's rows and 16-byte pieces of the tiles: of W rows l % 16, pieces l / 16; of x tokens l % 8 and, in the upper
    // half of the warp, l % 8 + 8, pieces l / 8 % 2.
    const int piece = warp % kShares * 2;
    const int token = warp / kShares * S::kWarpColumns * 8 + lane % 8 + lane / 16 * 8;
    const unsigned weights = ring + lane % 16 * 128 + ((piece + lane / 16) ^ (lane % 8)) * 16;
    const unsigned tokens = ring + kEights * kEightBytes + token * 128 + ((piece + lane / 8 % 2) ^ (lane % 8)) * 16;
    for (int i = 0, stage = 0, use = 0; i < steps; ++i) {
      filled[stage].wait(use);
      Pieces<T, S::kTiles, S::kWarpColumns> pieces;
      pieces.load(weights + stage * S::kStageBytes, tokens + stage * S::kStageBytes);
      pieces.multiply(sum);
      __syncwarp();
      if (lane == 0) emptied[stage].arrive();
      if (++stage == p.stages) stage = 0, ++use;
    }
  }
  __syncthreads();
  if (warp < S::kWarps) {  // sums take the place of the ring
    const int half = warp / kShares;
    const unsigned to = ring + warp % kShares * S::kShareBytes + lane / 4 * 4;
#pragma unroll
    for (int m = 0; m < S::kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < S::kWarpColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int token = (half * S::kWarpColumns + n) * 8 + lane % 4 * 2 + e % 2, eight = m * 2 + e / 2;
          if (eight < kEights) store_shared_number(to + (token * S::kSumStride + eight * 8) * 4, sum[m][n][e]);
        }
      }
    }
  }
  __syncthreads();
  constexpr int kFours = S::kRows / 4;
  const int items = min(S::kTokens, static_cast<int>(p.y.rows)) * kFours;
  auto place = [&](int i) { return ring + (i / kFours * S::kSumStride + i % kFours * 4) * 4; };
  for (int i = threadIdx.x; i < items; i += S::kThreads) {
    float4 total = load_shared_floats(place(i));
#pragma unroll
    for (int w = 1; w < kShares; ++w) total = plus(total, load_shared_floats(place(i) + w * S::kShareBytes));
    if (p.parts == 1)
      store_outputs(p, i / kFours, first_row + i % kFours * 4, total);
    else
      store_shared_floats(place(i), total);
  }
  if (p.parts == 1) return;
  meet_cluster();
  for (int i = part * S::kThreads + threadIdx.x; i < items; i += p.parts * S::kThreads) {
    float4 total = load_from_block(place(i), 0);
    for (int q = 1; q < p.parts; ++q) total = plus(total, load_from_block(place(i), q));
    store_outputs(p, i / kFours, first_row + i % kFours * 4, total);
  }
  meet_cluster();  // a block's sums stay until others have read them
}

constexpr int kEightsOf[] = {2, 3, 4, 5, 6, 8, 10};

// How a product is divided into blocks.
struct Division {
  int eights = 0;  // of W's rows a block
  int parts = 1;
};

// Of the divisions with all blocks there at once the one whose blocks have least to read, or as many parts, nearly as
// little and more rows of W: x is read by every block. x comes from L2, twice as fast as W from memory; a cluster costs
// what a multiprocessor reads in about 1.2 us. None: eights is 0.
Division divide(int device, const MatmulParams& p) {
  const std::int64_t eights = divide_up(p.b.rows, 8), tokens = divide_up(p.a.rows, 32) * 32;
  constexpr std::int64_t kClusterBytes = 40 << 10;
  Division best;
  std::int64_t least = 0;
  auto bytes_of = [&](int n, int parts) {
    const std::int64_t inputs = divide_up(divide_up(p.b.columns, kTileColumns), parts) * kTileColumns;
    return inputs * (n * 16 + tokens) + (parts > 1 ? kClusterBytes : 0);
  };
  auto at_once = [&](int n, int parts) { return divide_up(eights, n) * parts <= multiprocessors(device); };
  for (int parts = 1; parts <= kMostParts; ++parts) {
    for (const int n : kEightsOf) {
      if (at_once(n, parts) && (least == 0 || bytes_of(n, parts) < least))
        least = bytes_of(n, parts), best = {n, parts};
    }
  }
  for (const int n : kEightsOf) {
    if (best.eights > 0 && at_once(n, best.parts) && bytes_of(n, best.parts) <= least + least / 10) best.eights = n;
  }
  return best;
}

template <class T, int kEights, int kColumns>
void launch(const Stream& stream, const MatmulParams& p, int parts) {
  using S = Shape<kEights, kColumns>;
  TileProduct product{p.c, p.bias, static_cast<int>(divide_up(p.a.columns, kTileColumns)), parts};
  const std::int64_t part_steps = divide_up(product.steps, parts),
                     places = (most_shared_bytes(stream.device) - kReservedBytes) / S::kStageBytes;
  product.stages = static_cast<int>(std::min<std::int64_t>({part_steps, places, kMostStages}));
  product.wide = p.c.columns % 4 == 0 && p.c.ld % 4 == 0 && is_aligned(p.c.data, 16);
  const auto shared_bytes = static_cast<std::size_t>(std::max(product.stages * S::kStageBytes, S::kSumBytes)) + 1024;
  const auto kernel = matmul_fwd_tiles<T, kEights, kColumns>;
  allow_shared_bytes(kernel, shared_bytes);
  launch_dependent(kernel,
                   {static_cast<unsigned>(divide_up(p.b.rows, S::kRows) * parts), static_cast<unsigned>(S::kThreads),
                    shared_bytes, static_cast<unsigned>(parts), p.b_is_settled},
                   stream, tensor_map(p.b, S::kRows), tensor_map(p.a, S::kTokens), product);
}

template <class T, int kColumns>
void launch(const Stream& stream, const MatmulParams& p) {
  const Division d = divide(stream.device, p);
  switch (d.eights) {
    case 2: return launch<T, 2, kColumns>(stream, p, d.parts);
    case 3: return launch<T, 3, kColumns>(stream, p, d.parts);
    case 4: return launch<T, 4, kColumns>(stream, p, d.parts);
    case 5: return launch<T, 5, kColumns>(stream, p, d.parts);
    case 6: return launch<T, 6, kColumns>(stream, p, d.parts);
    case 8: return launch<T, 8, kColumns>(stream, p, d.parts);
    default: return launch<T, 10, kColumns>(stream, p, d.parts);
  }
}

template <class T>
void launch(const Stream& stream, const MatmulParams& p) {
  if (p.a.rows <= 32) return launch<T, 4>(stream, p);
  launch<T, 8>(stream, p);
}

}  // namespace

bool takes_tiles(int device, const MatmulParams& p) {
  return p.transpose_b && !p.transpose_a && !p.accumulate && p.a.dtype == p.b.dtype && p.a.rows > kSkinnyRows &&
         p.a.rows <= kMaxTileRows && has_tensor_map(device, p.a) && has_tensor_map(device, p.b) &&
         divide(device, p).eights > 0;
}

void matmul_tiles(const Stream& stream, const MatmulParams& p) {
  if (p.b.dtype == DType::kBF16) return launch<bfloat16>(stream, p);
  launch<float16>(stream, p);
}

}  // namespace coluber::cuda
