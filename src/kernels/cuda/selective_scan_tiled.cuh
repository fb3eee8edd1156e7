// Forward of selective_scan for 16 real states and B, C that change from token to token: what the published models
// have. u, dt, z and y are read and written once, and the limit is the arithmetic: 16 exponentials and 80 other
// instructions a token and channel for the states, 4 special functions and 40 others for softplus and gate. Tried
// without gain: one in 16 of the exponentials by polynomial (5 % slower); a loop of 4 or 8 tokens that has the rows of
// two tokens and the exponentials of one ahead, its sums over states left to the helpers (11 % slower).
//
// A block has 64 channels of one sequence and walks tiles of 16 tokens. Four scan warps have 16 channels x 16 states
// each, a thread 2 channels x 4 states in registers, so that one 16-byte load of shared memory each of steps, B and C
// serves 8 states. Four helper warps do for the tile after this one what comes before the recurrence (copies, softplus,
// dt u) and for the tile before it what comes after (D u, gate, store): their latencies hide behind the scan. All
// threads of a warp arrive where warps meet. One for all of them, after __syncwarp, would order memory as well, but
// compute-sanitizer's racecheck follows single threads and reports what the others wrote and read.
//
// Few sequences and channels, NarrowTile: a multiprocessor has one block of 40 channels. Five scan warps have 8
// channels x 16 states, a thread 1 channel x 4 states, so that a token takes half the time of the above, and five
// helper warps 4 channels of a token in a thread. The scheduler with two scan warps is the limit: 64 cycles a token for
// its exponentials.
//
// Few sequences and channels and many tokens: a sequence is cut into pieces. Pass one finds the state at the end of
// every part of every piece but the last, beginning at zero, and the sum of dt; pass two begins a piece at what the
// parts before it leave, since the decay of a part is exp(A sum dt). Pass one walks a part from its end and stops where
// everything before has decayed to 0: how long it takes depends on the step sizes. Sums are taken in another order than
// those of one piece: results differ by the rounding of exp(A sum dt), relative 2^-22 + |A sum dt| 2^-23 of what it
// multiplies, 4e-6 at most before it has decayed below the same digits.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/selective_scan_helper.cuh"

namespace coluber::cuda {

// How sequences are cut. Pass one has no outputs to keep it busy, so it takes `finer` parts of every piece, in blocks
// of their own. (s,parts,d,16), (s,parts,d) and (s,d,16).
struct ScanPieces {
  int pieces = 1, finer = 1;
  float *ends = nullptr, *sums = nullptr;
  float* start = nullptr;  // a copy of state_in: the last piece may overwrite it before the first has read it

  COLUBER_HD int parts() const { return pieces * finer; }
};

// The tiles of `count` parts.
__device__ __forceinline__ TiledRange tiles_of(const ScanSequence& q, int part, int count, int parts) {
  const std::int64_t first = q.position / kTileTokens;
  const std::int64_t tiles = (q.position + q.length + kTileTokens - 1) / kTileTokens - first;
  const std::int64_t each = (tiles + parts - 1) / parts;
  return {first + min(part * each, tiles), first + min((part + count) * each, tiles)};
}

// 1 or 2 channels x 4 states of a scan thread. Lanes: channels % 8, states / 8, so that 8 neighbouring lanes read one
// address of B and C.
template <int kOfScan>
struct TiledStates {
  float A[kOfScan][4];  // times log2 e
  float h[kOfScan][4];
};

// dt and dt u of a thread's channels; channel: of the block, the first of them.
template <class Tile>
__device__ __forceinline__ void load_steps(const float4 (&steps)[Tile::kChannels / 2], int channel,
                                           float (&dt)[Tile::kOfScan], float (&x)[Tile::kOfScan]) {
  const float4* pair = &steps[steps_at(channel / 2)];
  if constexpr (Tile::kOfScan == 2) {
    const float4 step = *pair;
    dt[0] = step.x, x[0] = step.y, dt[1] = step.z, x[1] = step.w;
  } else {
    const float2 step = reinterpret_cast<const float2*>(pair)[channel % 2];
    dt[0] = step.x, x[0] = step.y;
  }
}

// 8 tokens, their outputs in registers: a store to shared memory among them would hold up the loads after it.
template <bool kResets, class Tile>
__device__ __forceinline__ void scan_tokens(TiledStates<Tile::kOfScan>& s, const float4 (*steps)[Tile::kChannels / 2],
                                            int channel, const float4 (*B)[kTiledStates / 4],
                                            const float4 (*C)[kTiledStates / 4], const std::uint8_t* resets,
                                            float (&y)[8][Tile::kOfScan]) {
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    float dt[Tile::kOfScan], x[Tile::kOfScan];
    load_steps<Tile>(steps[t], channel, dt, x);
    const float4 b = B[t][0];
    const float B4[4] = {b.x, b.y, b.z, b.w};
    if constexpr (kResets) {
      if (resets[t] != 0) {
#pragma unroll
        for (int i = 0; i < Tile::kOfScan * 4; ++i) s.h[i / 4][i % 4] = 0;
      }
    }
#pragma unroll
    for (int c = 0; c < Tile::kOfScan; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        s.h[c][n] = fmaf(scan_exp2(dt[c] * s.A[c][n]), s.h[c][n], x[c] * B4[n]);
      }
    const float4 row = C[t][0];
#pragma unroll
    for (int c = 0; c < Tile::kOfScan; ++c)
      y[t][c] = fmaf(row.w, s.h[c][3], fmaf(row.z, s.h[c][2], fmaf(row.y, s.h[c][1], row.x * s.h[c][0])));
  }
}

// Sums over the four lanes that share channels; a lane is left with tokens 2 (lane / 8) and the next.
template <class Tile>
__device__ __forceinline__ void reduce_outputs(float (&y)[8][Tile::kOfScan], int lane, float* to) {
  const bool high = lane & 16, odd = lane & 8;
  float half[4][Tile::kOfScan];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int c = 0; c < Tile::kOfScan; ++c) {
      const float mine = high ? y[i + 4][c] : y[i][c], other = high ? y[i][c] : y[i + 4][c];
      half[i][c] = mine + __shfl_xor_sync(~0u, other, 16);
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float out[Tile::kOfScan];
#pragma unroll
    for (int c = 0; c < Tile::kOfScan; ++c) {
      const float mine = odd ? half[i + 2][c] : half[i][c], other = odd ? half[i][c] : half[i + 2][c];
      out[c] = mine + __shfl_xor_sync(~0u, other, 8);
    }
    float* const row = to + (lane / 8 * 2 + i) * Tile::kChannels;
    if constexpr (Tile::kOfScan == 2)
      *reinterpret_cast<float2*>(row) = make_float2(out[0], out[1]);
    else
      *row = out[0];
  }
}

// One tile of 16 tokens for a scan warp; channel: of the block, the thread's first.
template <class T, class Tile>
__device__ __forceinline__ void scan_tile(TiledStates<Tile::kOfScan>& s, TiledShared<T, false, Tile>& shared,
                                          int buffer, int channel, int lane) {
  const uint4 flags = *reinterpret_cast<const uint4*>(shared.resets[buffer]);
  const bool any_reset = (flags.x | flags.y | flags.z | flags.w) != 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float y[8][Tile::kOfScan];
    const auto* steps = &shared.steps[buffer][half * 8];
    const auto* B = reinterpret_cast<const float4(*)[kTiledStates / 4]>(&shared.B[buffer][half * 8][lane / 8]);
    const auto* C = reinterpret_cast<const float4(*)[kTiledStates / 4]>(&shared.C[buffer][half * 8][lane / 8]);
    const std::uint8_t* resets = shared.resets[buffer] + half * 8;
    if (any_reset)
      scan_tokens<true, Tile>(s, steps, channel, B, C, resets, y);
    else
      scan_tokens<false, Tile>(s, steps, channel, B, C, resets, y);
    reduce_outputs<Tile>(y, lane, &shared.y[buffer][half * 8][channel]);
  }
}

// The state that a part leaves when it begins at zero: the sum over its tokens of dt u B exp(A S), S the sum of dt
// after the token. Exponents and nothing else are carried from tile to tile, from the last tile on, until all
// exponentials of the block are 0 in f32: what more tokens would add are zeros, since softplus makes no step size
// negative.
struct TiledEnds {
  float sum[2] = {}, forget = 0;  // S; what a reset adds to exponents
};

template <class T>
__device__ __forceinline__ void end_tile(TiledStates<2>& s, TiledEnds& ends, TiledShared<T, true, WideTile>& shared,
                                         int buffer, bool softplus, bool valid, int warp, int lane) {
  constexpr float kLeast = -127;  // scan_exp2 of less is 0
  const int pair = warp * 8 + lane % 8;
  const uint4 flags = *reinterpret_cast<const uint4*>(shared.resets[buffer]);
  const bool any_reset = (flags.x | flags.y | flags.z | flags.w) != 0;
#pragma unroll
  for (int t = kTileTokens - 1; t >= 0; --t) {
    const float4 step = shared.steps[buffer][t][steps_at(pair)], b = shared.B[buffer][t][lane / 8];
    const float dt[2] = {step.x, step.z}, x[2] = {step.y, step.w}, B[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int n = 0; n < 4; ++n)
        s.h[c][n] = fmaf(x[c] * B[n], scan_exp2(fmaf(ends.sum[c], s.A[c][n], ends.forget)), s.h[c][n]);
      ends.sum[c] += dt[c];
    }
    if (any_reset && shared.resets[buffer][t] != 0) ends.forget = -1e30f;  // nothing gets past a reset
  }
  bool decayed = true;
#pragma unroll
  for (int i = 0; i < 8; ++i) decayed = decayed && fmaf(ends.sum[i / 4], s.A[i / 4][i % 4], ends.forget) < kLeast;
  const bool all = softplus && __all_sync(~0u, decayed || !valid);
  if (lane == 0) shared.decayed[buffer][warp] = all;
  __syncwarp();
}

__device__ __forceinline__ void load_states(const float* from, std::int64_t stride, float (&h)[4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) h[n] = from[n * stride];
}
__device__ __forceinline__ void store_states(float* to, std::int64_t stride, const float (&h)[4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) to[n * stride] = h[n];
}

// The state that a piece begins with, of one channel; n: the first of four states.
template <class T>
__device__ void enter_piece(const SelectiveScanParams<T, float>& p, const ScanPieces& pieces, std::int64_t slot,
                            int part, std::int64_t c, int n, const float (&A)[4], float (&h)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = 0;
  if (p.state_in && part == 0) {
    if (pieces.pieces == 1)
      load_states(p.state_in.ptr(slot, c) + n * p.state_in.strides[2], p.state_in.strides[2], h);
    else
      load_states(pieces.start + (slot * p.d + c) * kTiledStates + n, 1, h);
  }
  for (int k = 0; k < part; ++k) {
    const std::int64_t at = (slot * pieces.parts() + k) * p.d + c;
    const float sum = pieces.sums[at];
    const float4 end = *reinterpret_cast<const float4*>(pieces.ends + at * kTiledStates + n);
    const float ends[4] = {end.x, end.y, end.z, end.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = sum == INFINITY ? ends[i] : fmaf(scan_exp2(sum * A[i]), h[i], ends[i]);
  }
}

// What a part without outputs leaves, of one channel; the first adds what is left of the sequence's initial state.
template <class T>
__device__ void leave_part(const SelectiveScanParams<T, float>& p, const ScanPieces& pieces, std::int64_t slot,
                           int part, std::int64_t c, int n, const float (&A)[4], float sum, float forget,
                           float (&h)[4]) {
  if (p.state_in && part == 0) {
    float start[4];
    load_states(p.state_in.ptr(slot, c) + n * p.state_in.strides[2], p.state_in.strides[2], start);
    store_states(pieces.start + (slot * p.d + c) * kTiledStates + n, 1, start);
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = fmaf(scan_exp2(fmaf(sum, A[i], forget)), start[i], h[i]);
  }
  const std::int64_t at = (slot * pieces.parts() + part) * p.d + c;
  store_states(pieces.ends + at * kTiledStates + n, 1, h);
  if (n == 0) pieces.sums[at] = forget < 0 ? INFINITY : sum;
}

template <class T, bool kStateOnly, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kChannels == NarrowTile::kChannels ? 1
                                                  : kStateOnly                             ? kTogetherOne
                                                                                           : kTogether)
    selective_scan_fwd_tiled(const __grid_constant__ SelectiveScanParams<T, float> p, float* checkpoints,
                             const ScanPieces pieces) {
  extern __shared__ float4 tiled_shared[];
  let_next_start();
  constexpr int kScanWarps = Tile::kScanWarps, kOfScan = Tile::kOfScan;
  auto& shared = *reinterpret_cast<TiledShared<T, kStateOnly, Tile>*>(tiled_shared);
  const std::int64_t channel_blocks = (p.d + Tile::kChannels - 1) / Tile::kChannels;
  const int step = kStateOnly ? 1 : pieces.finer;  // parts
  const int launched = kStateOnly ? (pieces.pieces - 1) * pieces.finer : pieces.pieces;
  const std::int64_t rest = blockIdx.x / channel_blocks;
  const std::int64_t channel0 = (blockIdx.x - rest * channel_blocks) * Tile::kChannels;
  const std::int64_t slot = rest / launched;
  const int part = static_cast<int>(rest - slot * launched) * step;
  const ScanSequence q = scan_sequence(p, slot);
  const TiledRange tiles = tiles_of(q, part, step, pieces.parts());
  const int count = static_cast<int>(tiles.end - tiles.first);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (threadIdx.x < 2) {
    shared.stop[threadIdx.x] = 0;
    shared.ready[threadIdx.x].init(Tile::kHelpers * 32);
    shared.done[threadIdx.x].init(kScanWarps * 32);
  }
  if (warp == Tile::kIdleWarp) return __syncthreads();
  if (warp >= kScanWarps) {
    TiledHelper<T, kStateOnly, Tile> helper(p, shared, q, tiles, channel0, Tile::helper_thread(threadIdx.x));
    for (int i = 1; i < kRawTiles; ++i) helper.ask();
    __syncthreads();
    if (count == 0) return;
    wait_copies<kRawTiles - 2>();
    helper.prepare(0);
    shared.ready[0].arrive();
    for (int k = 0; k < count; ++k) {
      // Steps of tile k + 1, outputs of tile k - 1, whose place in the ring then is for the tile three after this one.
      if (k > 0) shared.done[(k - 1) & 1].wait((k - 1) >> 1);
      if constexpr (kStateOnly) {
        const std::uint8_t* decayed = shared.decayed[(k - 1) & 1];
        if (k > 0 && (decayed[0] & decayed[1] & decayed[2] & decayed[3]) != 0) {
          if (threadIdx.x == kScanWarps * 32) shared.stop[(k + 1) & 1] = 1;
          shared.ready[(k + 1) & 1].arrive();
          break;
        }
      }
      wait_copies<kRawTiles - 3>();
      if (k + 1 < count) helper.prepare(k + 1);
      if constexpr (!kStateOnly) {
        if (k > 0) helper.finish(k - 1);
      }
      if (k + 1 < count) shared.ready[(k + 1) & 1].arrive();
      helper.ask();
    }
    if constexpr (!kStateOnly) {
      shared.done[(count - 1) & 1].wait((count - 1) >> 1);
      helper.finish(count - 1);
    }
    wait_copies<0>();
    return;
  }

  if constexpr (!kStateOnly) wait_for_inputs();  // ends of parts; nothing is written before
  TiledStates<kOfScan> s;
  const int channel = (warp * 8 + lane % 8) * kOfScan;
  const std::int64_t c = channel0 + channel;
  const int n = lane / 8 * 4;
  const bool valid = c < p.d;
#pragma unroll
  for (int i = 0; i < kOfScan; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) s.A[i][j] = valid ? p.A(c + i, n + j) * kScanLog2E : 0.0f;
    s.h[i][0] = s.h[i][1] = s.h[i][2] = s.h[i][3] = 0;
    if (!kStateOnly && valid) enter_piece<T>(p, pieces, slot, part, c + i, n, s.A[i], s.h[i]);
  }
  __syncthreads();
  TiledEnds ends;
  for (int k = 0; k < count; ++k) {
    if (!kStateOnly && checkpoints != nullptr && valid && (tiles.first + k) * kTileTokens >= q.position) {
      float* to = checkpoints + scan_checkpoint_at(p, q.row, tiles.first + k, c) + n;
#pragma unroll
      for (int i = 0; i < kOfScan; ++i)
        *reinterpret_cast<float4*>(to + i * kTiledStates) = make_float4(s.h[i][0], s.h[i][1], s.h[i][2], s.h[i][3]);
    }
    shared.ready[k & 1].wait(k >> 1);
    if constexpr (kStateOnly) {
      if (shared.stop[k & 1] != 0) break;
      end_tile(s, ends, shared, k & 1, p.dt_softplus, valid, warp, lane);
    } else {
      scan_tile<T, Tile>(s, shared, k & 1, channel, lane);
    }
    shared.done[k & 1].arrive();
  }
  if (!valid) return;
#pragma unroll
  for (int i = 0; i < kOfScan; ++i) {
    if constexpr (kStateOnly) {
      leave_part(p, pieces, slot, part, c + i, n, s.A[i], ends.sum[i], ends.forget, s.h[i]);
    } else if (p.state_out && part == pieces.parts() - step) {
      store_states(p.state_out.ptr(slot, c + i) + n * p.state_out.strides[2], p.state_out.strides[2], s.h[i]);
    }
  }
}

}  // namespace coluber::cuda
