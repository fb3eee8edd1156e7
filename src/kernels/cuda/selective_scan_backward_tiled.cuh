// Backward of selective_scan for 16 real states and B, C that change from token to token.
//
// A warp has 16 channels x 16 states, a thread 2 channels x 4 states: lane / 4 is the pair of channels, lane % 4 the
// four states. It walks chunks of 16 tokens from the end: states of tokens 0 to 7 once to reach the middle, then each
// half again with its 8 x 8 states and decays in registers (128 of them: 1.5 exponentials an element), and the adjoint
// back through the half. Warps only meet once a chunk, to add up dB and dC.
//
// Sums over states (C h for the gate, lambda B, lambda a h A) take one step of the tensor cores instead of shuffles:
// the partial sums of a thread's 4 states are operand A as they lie in the registers, operand B has ones in the columns
// of the tokens. bf16: the operands are cut to tf32, relative error 2^-10 of a term at most, a quarter of the rounding
// of the gradients that come of it; f16 and f32 take the rest of the operands through a second step, 2^-20. Sums over
// channels
// (dB, dC) are f32 additions: 2 channels in a thread, 8 threads and the warps through shared memory, blocks through
// the slab.
//
// Few sequences and channels: a segment is cut into pieces. Pass one walks all pieces but the first from an adjoint of
// zero and leaves what it sends back and its sum of dt; pass two begins piece k with what the pieces after it leave.
// Blocks for two waves and a bit: pieces too, but one after the other, so that the last wave is short. Blocks take
// tickets, and those of the last pieces come first: whoever is waited for has started.
#pragma once

#include "kernels/cuda/selective_scan_backward_stage.cuh"

namespace coluber::cuda {

inline constexpr int kMostWarps = 8;  // of a block, or half of them: 255 registers a thread fill a multiprocessor

__device__ __forceinline__ void multiply(float (&d)[4], const float (&a)[4], float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// a: a thread's sums of two channels at token t and at t + 1. d becomes: two channels x tokens 2 (lane % 4) and next.
template <class T>
__device__ __forceinline__ void sum_states(float (&d)[4], const float (&a)[4], int t, int lane) {
  const float b0 = lane / 4 == t ? 1.0f : 0.0f, b1 = lane / 4 == t + 1 ? 1.0f : 0.0f;
  multiply(d, a, b0, b1);
  if constexpr (!std::is_same_v<T, bfloat16>) {
    float rest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) rest[i] = a[i] - __uint_as_float(__float_as_uint(a[i]) & 0xffffe000u);
    multiply(d, rest, b0, b1);
  }
}

__device__ __forceinline__ void advance_states(const float (&A)[2][4], float4 step, float4 B, float forget,
                                               const float (&from)[2][4], float (&a)[2][4], float (&h)[2][4]) {
  const float dt[2] = {step.x, step.z}, x[2] = {step.y, step.w}, rows[4] = {B.x, B.y, B.z, B.w};
#pragma unroll
  for (int c = 0; c < 2; ++c)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      a[c][n] = scan_exp2(fmaf(dt[c], A[c][n], forget));
      h[c][n] = fmaf(a[c][n], from[c][n], x[c] * rows[n]);
    }
}

__device__ __forceinline__ void unpack(float4 x, float (&to)[4]) {
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

template <class T>
__device__ __forceinline__ HalfSums half_chunk(GradThread& s, GradWarpShared<T, false>& w, const GradBlockShared& block,
                                               int buffer, int half, const float (&start)[2][4], int lane) {
  const int pair = lane / 4, quad = lane % 4;
  float h[kHalf + 1][2][4], a[kHalf][2][4];
#pragma unroll
  for (int i = 0; i < 8; ++i) h[0][i / 4][i % 4] = start[i / 4][i % 4];
  float4 forget;
#pragma unroll
  for (int t = 0; t < kHalf; ++t) {
    const int token = half * kHalf + t;
    if (t % 4 == 0) forget = block.forget[buffer][half * 2 + t / 4];
    const float add = t % 4 == 0 ? forget.x : t % 4 == 1 ? forget.y : t % 4 == 2 ? forget.z : forget.w;
    advance_states(s.A, w.steps[token][grad_steps_at(t, pair)], block.B[buffer][token][quad], add, h[t], a[t],
                   h[t + 1]);
  }
  HalfSums sums;
  float y[4], lambda_B[4], local_A[4];
  // A token's rows are read before the sums of the token after it are stored: loads cannot move across that.
  const int last = half * kHalf + kHalf - 1;
  float4 step = w.steps[last][grad_steps_at(last, pair)], row_B = block.B[buffer][last][quad],
         row_C = block.C[buffer][last][quad];
  float2 grad = w.grad[last][grad_steps_at(last, pair)];
#pragma unroll
  for (int t = kHalf - 1; t >= 0; --t) {
    const int odd = t % 2 * 2;
    const float dt[2] = {step.x, step.z}, x[2] = {step.y, step.w}, g[2] = {grad.x, grad.y};
    float B[4], C[4], dB[4], dC[4];
    unpack(row_B, B);
    unpack(row_C, C);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float lambda = fmaf(g[c], C[n], s.adjoint[c][n]);
        y[odd + c] = n == 0 ? C[n] * h[t + 1][c][n] : fmaf(C[n], h[t + 1][c][n], y[odd + c]);
        lambda_B[odd + c] = n == 0 ? lambda * B[n] : fmaf(lambda, B[n], lambda_B[odd + c]);
        dC[n] = c == 0 ? g[c] * h[t + 1][c][n] : fmaf(g[c], h[t + 1][c][n], dC[n]);
        dB[n] = c == 0 ? x[c] * lambda : fmaf(x[c], lambda, dB[n]);
        s.adjoint[c][n] = lambda * a[t][c][n];
        const float local = s.adjoint[c][n] * h[t][c][n];
        s.dA[c][n] = fmaf(dt[c], local, s.dA[c][n]);
        local_A[odd + c] = n == 0 ? local * s.A[c][n] : fmaf(local, s.A[c][n], local_A[odd + c]);
      }
    }
    if (t > 0) {
      const int before = half * kHalf + t - 1;
      step = w.steps[before][grad_steps_at(before, pair)];
      grad = w.grad[before][grad_steps_at(before, pair)];
      row_B = block.B[buffer][before][quad];
      row_C = block.C[buffer][before][quad];
    }
    const int swizzle = pair % 2 * 4;
    w.sums[t][pair][quad ^ swizzle] = make_float4(dB[0], dB[1], dB[2], dB[3]);
    w.sums[t][pair][(quad + 4) ^ swizzle] = make_float4(dC[0], dC[1], dC[2], dC[3]);
    if (t % 2 == 0) {
      sum_states<T>(sums.y, y, t, lane);
      sum_states<T>(sums.lambda_B, lambda_B, t, lane);
      sum_states<T>(sums.local_A, local_A, t, lane);
    }
  }
  return sums;
}

// Adds up the 8 threads' dB and dC of a half; a lane has quad lane % 8 of tokens lane / 8 and 4 more.
template <class T>
__device__ __forceinline__ void add_pairs(const GradWarpShared<T, false>& w, float4 (*to)[8], int half, int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = lane / 8 + i * 4, quad = lane % 8;
    float4 sum = w.sums[t][0][quad];
#pragma unroll
    for (int pair = 1; pair < 8; ++pair) {
      const float4 x = w.sums[t][pair][quad ^ (pair % 2 * 4)];
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    to[half * kHalf + t][quad] = sum;
  }
}

// The adjoint that comes back into a thread's states at the end of its piece; from_carry: not from the sequence's end.
template <class T>
__device__ void enter_piece(const SelectiveScanGradParams<T, float>& g, const ScanSegment& segment,
                            const GradPieces& pieces, std::int64_t d, std::int64_t slot, int piece, bool from_carry,
                            std::int64_t c, int n, const float (&A)[4], float (&adjoint)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (from_carry)
      adjoint[i] = segment.carry[(slot * d + c) * kGradStates + n + i];
    else
      adjoint[i] = g.grad_state_out ? g.grad_state_out(slot, c, n + i) : 0.0f;
  }
  if (pieces.ends == nullptr) return;
  for (int k = pieces.pieces - 1; k > piece; --k) {
    const std::int64_t at = (slot * pieces.pieces + k) * d + c;
    const float sum = pieces.sums[at];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float end = pieces.ends[at * kGradStates + n + i];
      adjoint[i] = sum == INFINITY ? end : fmaf(scan_exp2(sum * A[i]), adjoint[i], end);
    }
  }
}

// Pieces that run one after the other: waits for the one behind this, and lets the one in front of it go.
__device__ __forceinline__ void wait_for_turn(const int* turn, int wanted) {
  if (threadIdx.x == 0) {
    int now;
    do {
      asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(now) : "l"(turn) : "memory");
    } while (now != wanted);
  }
  __syncthreads();
}
__device__ __forceinline__ void end_turn(int* turn, int now) {
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("st.release.gpu.s32 [%0], %1;" ::"l"(turn), "r"(now) : "memory");
}

// Adjoint alone through a chunk.
template <class T>
__device__ __forceinline__ void pass_chunk(GradThread& s, const GradWarpShared<T, true>& w,
                                           const GradBlockShared& block, int buffer, int lane) {
  const int pair = lane / 4;
#pragma unroll
  for (int t = kScanChunk - 1; t >= 0; --t) {
    const float4 step = w.steps[t][grad_steps_at(t, pair)];
    const float2 grad = w.grad[t][grad_steps_at(t, pair)];
    const float dt[2] = {step.x, step.z}, g[2] = {grad.x, grad.y};
    const float forget = reinterpret_cast<const float*>(block.forget[buffer])[t];
    float C[4];
    unpack(block.C[buffer][t][lane % 4], C);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int c = i / 4, n = i % 4;
      s.adjoint[c][n] = fmaf(g[c], C[n], s.adjoint[c][n]) * scan_exp2(fmaf(dt[c], s.A[c][n], forget));
    }
  }
}

template <class T>
__device__ __forceinline__ void grad_chunk(const SelectiveScanParams<T, float>& p,
                                           const SelectiveScanGradParams<T, float>& g, const GradPlace& at, int k,
                                           GradThread& s, GradWarpShared<T, false>& w, const GradBlockShared& block,
                                           int buffer, float4 (*totals)[8]) {
  const int pair = at.lane / 4, quad = at.lane % 4;
  float start[2][4] = {};
  if (k * kScanChunk >= at.begin) {
    unpack(w.start[buffer][2 * pair][quad], start[0]);
    unpack(w.start[buffer][2 * pair + 1][quad], start[1]);
  } else if (p.state_in && 2 * pair < at.channels) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      start[i / 4][i % 4] = p.state_in(at.q.slot, at.channel0 + 2 * pair + i / 4, quad * 4 + i % 4);
  }
  float h[2][4], a[2][4];
#pragma unroll
  for (int i = 0; i < 8; ++i) h[i / 4][i % 4] = start[i / 4][i % 4];
#pragma unroll
  for (int t = 0; t < kHalf; ++t)
    advance_states(s.A, w.steps[t][grad_steps_at(t, pair)], block.B[buffer][t][quad],
                   reinterpret_cast<const float*>(block.forget[buffer])[t], h, a, h);
#pragma unroll
  for (int c = 0; c < 2; ++c) w.middle[c][at.lane] = make_float4(start[c][0], start[c][1], start[c][2], start[c][3]);
#pragma unroll 1
  for (int half = 1; half >= 0; --half) {
    const HalfSums sums = half_chunk<T>(s, w, block, buffer, half, h, at.lane);
    __syncwarp();
    add_pairs(w, totals, half, at.lane);
    GradWriter<T>::write(g, at, k, half, w, buffer, sums);
    __syncwarp();
    unpack(w.middle[0][at.lane], h[0]);
    unpack(w.middle[1][at.lane], h[1]);
  }
}

// Sums over the warps of one chunk.
template <int kWarps>
__device__ __forceinline__ void leave_totals(const float4 (*totals)[kScanChunk][8], const GradPlace& at, int k,
                                             float* slab) {
#pragma unroll
  for (int i = threadIdx.x; i < kScanChunk * 16; i += kWarps * 32) {
    if (!at.has(k, i / 16)) continue;
    float2 sum = make_float2(0, 0);
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float2 x = reinterpret_cast<const float2*>(totals[warp])[i];
      sum.x += x.x, sum.y += x.y;
    }
    reinterpret_cast<float2*>(slab)[i] = sum;
  }
}
__device__ __forceinline__ void leave_totals(const float4 (*totals)[kScanChunk][8], const GradPlace& at, int k,
                                             float* slab) {
  if (blockDim.x == kMostWarps * 32)
    leave_totals<kMostWarps>(totals, at, k, slab);
  else
    leave_totals<kMostWarps / 2>(totals, at, k, slab);
}

template <class T, bool kEndsOnly>
__device__ void leave_piece(const SelectiveScanGradParams<T, float>& g, const ScanSegment& segment,
                            const GradPieces& pieces, const ScanTokenSums& sums, float* carry_out, GradThread& s,
                            float (&dbias)[2], std::int64_t d, std::int64_t slot, int piece, bool is_first,
                            std::int64_t c, int n) {
  const std::int64_t part = slot * pieces.pieces + piece;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float& first = kEndsOnly ? s.dt_sum[i] : s.dD[i];
    first += __shfl_xor_sync(~0u, first, 1);
    first += __shfl_xor_sync(~0u, first, 2);
    dbias[i] += __shfl_xor_sync(~0u, dbias[i], 1);
    dbias[i] += __shfl_xor_sync(~0u, dbias[i], 2);
  }
  if (c >= d) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::int64_t at = part * d + c + i;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (kEndsOnly) {
        pieces.ends[at * kGradStates + n + k] = s.adjoint[i][k];
      } else {
        sums.A[(part * (kGradStates + 1) + n + k) * d + c + i] += s.dA[i][k];
        if (piece == 0 ? !is_first : pieces.turns != nullptr)
          carry_out[(slot * d + c + i) * kGradStates + n + k] = s.adjoint[i][k];
        if (piece == 0 && is_first && g.grad_state_in) g.grad_state_in(slot, c + i, n + k) = s.adjoint[i][k];
      }
    }
    if (n != 0) continue;
    if constexpr (kEndsOnly) {
      pieces.sums[at] = s.dt_sum[i];
    } else {
      sums.A[(part * (kGradStates + 1) + kGradStates) * d + c + i] += s.dD[i];
      sums.dt_bias[at] += dbias[i];
    }
  }
}

template <class T, bool kEndsOnly>
__global__ void __launch_bounds__(kMostWarps * 32, kEndsOnly ? 2 : 1)
    selective_scan_bwd_tiled(const __grid_constant__ SelectiveScanParams<T, float> p,
                             const __grid_constant__ SelectiveScanGradParams<T, float> g, const float* checkpoints,
                             const ScanSegment segment, const GradPieces pieces, const ScanTokenSums sums,
                             float* carry_out) {
  extern __shared__ float4 tiled_shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  auto& block = *reinterpret_cast<GradBlockShared*>(tiled_shared);
  auto* const parts = reinterpret_cast<GradWarpShared<T, kEndsOnly>*>(&block + 1);
  auto& w = parts[warp];
  auto* const totals = reinterpret_cast<float4(*)[kScanChunk][8]>(parts + warps);

  // Pieces from the last to the first.
  __shared__ unsigned ticket;
  if (pieces.tickets != nullptr) {
    if (threadIdx.x == 0) ticket = atomicAdd(pieces.tickets, 1);
    __syncthreads();
  }
  const std::int64_t unit = pieces.tickets != nullptr ? ticket : blockIdx.x, units = scan_slots(p) * segment.tiles;
  const std::int64_t turn = unit % units, slot = turn / segment.tiles, tile = turn - slot * segment.tiles;
  const int piece = pieces.pieces - 1 - static_cast<int>(unit / units);
  GradPlace at;
  at.q = scan_sequence(p, slot);
  at.lane = lane;
  const std::int64_t block_channel0 = tile * warps * kWarpChannels;
  at.channel0 = block_channel0 + warp * kWarpChannels;
  at.channels = static_cast<int>(min(p.d - at.channel0, std::int64_t{kWarpChannels}));
  const std::int64_t begin = at.q.position / kScanChunk;
  const std::int64_t end = max((at.q.position + at.q.length + kScanChunk - 1) / kScanChunk, begin + 1);
  const std::int64_t first = max(begin, segment.first), all = min(end, segment.end) - first;
  if (all <= 0) return;
  const std::int64_t each = (all + pieces.pieces - 1) / pieces.pieces;
  at.first = first + min(piece * each, all);
  at.count = static_cast<int>(first + min((piece + 1) * each, all) - at.first);
  at.begin = static_cast<int>(max(at.q.position - at.first * kScanChunk, std::int64_t{0}));
  at.end =
      static_cast<int>(min(at.q.position + at.q.length - at.first * kScanChunk, std::int64_t{at.count} * kScanChunk));

  if (lane < kWarpChannels) {
    const bool there = lane < at.channels;
    w.bias[lane] = there && p.dt_bias != nullptr ? p.dt_bias[at.channel0 + lane] : 0.0f;
    w.D[lane] = there && p.D != nullptr ? p.D[at.channel0 + lane] : 0.0f;
  }
  w.dbias[0][lane] = w.dbias[1][lane] = 0;
  if (pieces.turns != nullptr) wait_for_turn(pieces.turns + turn, pieces.pieces - 1 - piece);
  GradThread s;
  const std::int64_t c = at.channel0 + lane / 4 * 2;
  const int n = lane % 4 * 4;
  const bool from_carry = end > segment.end || (pieces.turns != nullptr && piece < pieces.pieces - 1);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool valid = c < p.d;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      s.A[i][k] = valid ? p.A(c + i, n + k) * kScanLog2E : 0.0f;
      s.adjoint[i][k] = 0;
    }
    if (valid && !kEndsOnly)
      enter_piece(g, segment, pieces, p.d, slot, piece, from_carry, c + i, n, s.A[i], s.adjoint[i]);
  }
  float* const slab = segment.slab + ((tile * p.u.shape[0] + at.q.row) * segment.positions() +
                                      (at.first - segment.first) * kScanChunk) *
                                         2 * kGradStates;
  constexpr int kChunkNumbers = kScanChunk * 2 * kGradStates;
  GradRows<T> rows;
  if (at.count > 0) {
    GradLoader<T, kEndsOnly>::begin(p, g, checkpoints, at, w);
    if constexpr (!kEndsOnly) GradWriter<T>::begin(g, at, w);
    GradLoader<T, kEndsOnly>::start(p, g, at, at.count - 1, w, 0);
    GradRows<T>::begin(p, at, block_channel0, w, threadIdx.x);
    rows.load(p, at, w, at.count - 1, threadIdx.x);
  }
  int buffer = 0;
#pragma unroll 1
  for (int k = at.count - 1; k >= 0; --k, buffer ^= 1) {
    rows.store(block, buffer, threadIdx.x);
    wait_copies<0>();
    __syncthreads();
    if (!kEndsOnly && k + 1 < at.count)
      leave_totals(totals + (buffer ^ 1) * warps, at, k + 1, slab + (k + 1) * kChunkNumbers);
    if (k > 0) {
      GradLoader<T, kEndsOnly>::start(p, g, at, k - 1, w, buffer ^ 1);
      rows.load(p, at, w, k - 1, threadIdx.x);
    }
    prepare_steps<T, kEndsOnly>(p, at, k, s, w, block, buffer);
    __syncwarp();
    if constexpr (kEndsOnly)
      pass_chunk(s, w, block, buffer, lane);
    else
      grad_chunk(p, g, at, k, s, w, block, buffer, totals[buffer * warps + warp]);
  }
  if (!kEndsOnly && at.count > 0) {
    __syncthreads();
    leave_totals(totals + (buffer ^ 1) * warps, at, 0, slab);
  }
  float dbias[2] = {w.dbias[0][lane], w.dbias[1][lane]};
  leave_piece<T, kEndsOnly>(g, segment, pieces, sums, carry_out, s, dbias, p.d, slot, piece, begin >= segment.first, c,
                            n);
  if (pieces.turns != nullptr) end_turn(pieces.turns + turn, pieces.pieces - piece);
}

}  // namespace coluber::cuda
