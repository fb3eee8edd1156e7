// Backward of selective_scan for 16 real states and B, C that change from token to token.
//
// A block has up to 128 channels: scan warps with 16 channels x 16 states each, a thread 2 channels x 4 states (lane /
// 4 is the pair of channels, lane % 4 the four states), and a helper warp for every two of them, which does what comes
// before and after the recurrence (selective_scan_backward_helper.cuh). Sums over channels are made by as many adder
// warps (selective_scan_backward_adder.cuh) where registers move between warps and 128 channels of 16-bit numbers fit,
// else by the helpers. Chunks of 16 tokens are walked from the end:
// states of tokens 0 to 11 once, to know those before each quarter, then each quarter again with its 4 x 8 states and
// decays in registers, and the adjoint back through it: 1.75 exponentials an element, in registers for three warps
// a scheduler.
//
// Sums over states (C h for the gate, lambda B, lambda a h A) take tensor cores instead of shuffles. bf16: C h and
// lambda B are products of the states as they lie in the registers (operand A, m16n8k8) with the rows of 8 tokens as
// the columns of operand B, of which the token's own column counts. lambda a h A, and f16 and f32 all three: the
// partial sums of a thread's 4 states are operand A, and operand B has ones in the columns of the tokens. bf16: the
// operands are cut to tf32, relative error 2^-10 of a term at most, a quarter of the rounding of the gradients that
// come of it; f16 and f32 take the rest of the operands through a second step, 2^-20. Sums over channels (dB, dC) are
// f32 additions: 2 channels in a thread, 8 threads and two warps by a helper through shared memory, helpers, blocks
// through the slab.
//
// Few sequences and channels: a segment is cut into pieces. Pass one walks all pieces but the first, in one or several
// parts each, from an adjoint of zero and leaves what a part sends back and its sum of dt; pass two begins piece k with
// what the parts after it leave. The first piece may be shorter: it takes the places that are left when the others run.
// Blocks for two waves and a bit: pieces too, but one after the other, so that the last wave is short. Blocks take
// tickets, and those of the last pieces come first: whoever is waited for has started.
#pragma once

#include "kernels/cuda/common/registers.cuh"
#include "kernels/cuda/selective_scan_backward_adder.cuh"

namespace coluber::cuda {

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
  for (int k = pieces.parts() - 1; k >= (piece + 1) * pieces.finer; --k) {
    const std::int64_t at = (slot * pieces.parts() + k) * d + c;
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

inline constexpr int kScanRegisters = 168, kHelperRegisters = 112, kAdderRegisters = 64;
inline constexpr int kEndsTogether = 2;  // blocks of a multiprocessor in pass one

// A thread's numbers over the whole piece.
struct GradThread {
  float A[2][4];  // times log2 e
  float adjoint[2][4];
  float dA[2][4] = {};
};

// Where a scan thread is in its warp, and its swizzled places.
struct GradLane {
  int lane, warp;  // of the pair

  __device__ int pair() const { return lane / 4; }
  __device__ int quad() const { return lane % 4; }
  template <int kHalves>
  __device__ float4 step(const GradWarpInputs<kHalves>& w, int slot, int token) const {
    return w.steps[slot][token][grad_steps_at(token, pair(), warp)];
  }
  template <int kHalves>
  __device__ float2 grad(const GradWarpInputs<kHalves>& w, int slot, int token) const {
    return w.grad[slot][token][grad_pair_at(pair(), warp)];
  }
};

// Sums over states of one half: two channels x tokens 2 (lane % 4) and the next.
struct HalfSums {
  float of[kStateSums][4] = {};
};

// Sum over the states of x times row, of the token whose column is t: column: a lane's rows of token lane / 4.
__device__ __forceinline__ void sum_products(float (&sums)[4], const float (&x)[2][4], float4 column, int t, int lane) {
  float d[4] = {};
  const float low[4] = {x[0][0], x[1][0], x[0][1], x[1][1]}, high[4] = {x[0][2], x[1][2], x[0][3], x[1][3]};
  multiply(d, low, column.x, column.y);
  multiply(d, high, column.z, column.w);
  const bool mine = lane % 4 == t / 2;
  sums[t % 2] = mine ? d[t % 2] : sums[t % 2];
  sums[2 + t % 2] = mine ? d[2 + t % 2] : sums[2 + t % 2];
}

// One quarter, tokens kFirst to kFirst + 3 of a half: its states from those before it, then the adjoint back through
// it.
template <class T, int kFirst>
__device__ __forceinline__ void grad_quarter(GradThread& s, HalfSums& sums, GradWarpShared<false>& w,
                                             const float4 (*rows_B)[4], const float4 (*rows_C)[4], const float4* forget,
                                             int slot, Meeting* free, int turn, int half, const float (&start)[2][4],
                                             const GradLane& at, float4 column_B, float4 column_C) {
  constexpr bool kProducts = std::is_same_v<T, bfloat16>;
  constexpr int kPart = kFirst == 0;
  const int quad = at.quad();
  float h[kQuarter + 1][2][4], a[kQuarter][2][4];
#pragma unroll
  for (int i = 0; i < 8; ++i) h[0][i / 4][i % 4] = start[i / 4][i % 4];
  const float4 add = forget[kFirst / 4];
#pragma unroll
  for (int t = 0; t < kQuarter; ++t)
    advance_states(s.A, at.step(w, slot, kFirst + t), rows_B[kFirst + t][quad],
                   t == 0   ? add.x
                   : t == 1 ? add.y
                   : t == 2 ? add.z
                            : add.w,
                   h[t], a[t], h[t + 1]);
  float y[4], lambda_B[4], local_A[4];
  // A token's rows are read before the sums of the token after it are stored: loads cannot move across that.
  constexpr int kLast = kFirst + kQuarter - 1;
  float4 step = at.step(w, slot, kLast), row_B = rows_B[kLast][quad], row_C = rows_C[kLast][quad];
  float2 grad = at.grad(w, slot, kLast);
  free[kPart].wait(2 * turn - half);  // the half before this one
#pragma unroll
  for (int t = kQuarter - 1; t >= 0; --t) {
    const int odd = t % 2 * 2;
    const float dt[2] = {step.x, step.z}, x[2] = {step.y, step.w}, g[2] = {grad.x, grad.y};
    float B[4], C[4], dB[4], dC[4], lambda[2][4];
    unpack(row_B, B);
    unpack(row_C, C);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        lambda[c][n] = fmaf(g[c], C[n], s.adjoint[c][n]);
        if constexpr (!kProducts) {
          y[odd + c] = n == 0 ? C[n] * h[t + 1][c][n] : fmaf(C[n], h[t + 1][c][n], y[odd + c]);
          lambda_B[odd + c] = n == 0 ? lambda[c][n] * B[n] : fmaf(lambda[c][n], B[n], lambda_B[odd + c]);
        }
        dC[n] = c == 0 ? g[c] * h[t + 1][c][n] : fmaf(g[c], h[t + 1][c][n], dC[n]);
        dB[n] = c == 0 ? x[c] * lambda[c][n] : fmaf(x[c], lambda[c][n], dB[n]);
        s.adjoint[c][n] = lambda[c][n] * a[t][c][n];
        const float local = s.adjoint[c][n] * h[t][c][n];
        s.dA[c][n] = fmaf(dt[c], local, s.dA[c][n]);
        local_A[odd + c] = n == 0 ? local * s.A[c][n] : fmaf(local, s.A[c][n], local_A[odd + c]);
      }
    }
    if constexpr (kProducts) {
      sum_products(sums.of[kSumY], h[t + 1], column_C, kFirst + t, at.lane);
      sum_products(sums.of[kSumLambdaB], lambda, column_B, kFirst + t, at.lane);
    }
    if (t > 0) {
      const int before = kFirst + t - 1;
      step = at.step(w, slot, before);
      grad = at.grad(w, slot, before);
      if constexpr (!kProducts) row_B = rows_B[before][quad];
      row_C = rows_C[before][quad];
    }
    const int swizzle = at.pair() % 2 * 4;
    w.sums[kPart][t][at.pair()][quad ^ swizzle] = make_float4(dB[0], dB[1], dB[2], dB[3]);
    w.sums[kPart][t][at.pair()][(quad + 4) ^ swizzle] = make_float4(dC[0], dC[1], dC[2], dC[3]);
    if (t % 2 == 0) {
      if constexpr (!kProducts) {
        sum_states<T>(sums.of[kSumY], y, kFirst + t, at.lane);
        sum_states<T>(sums.of[kSumLambdaB], lambda_B, kFirst + t, at.lane);
      }
      sum_states<T>(sums.of[kSumLocalA], local_A, kFirst + t, at.lane);
    }
  }
}

// The states before a chunk: a checkpoint, or where the sequence begins.
template <class T>
__device__ __forceinline__ void enter_chunk(const SelectiveScanParams<T, float>& p, const GradPlace& place, int k,
                                            const GradWarpShared<false>& w, std::int64_t c, const GradLane& at,
                                            float (&h)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) h[i / 4][i % 4] = 0;
  if (k * kScanChunk >= place.begin) {
    unpack(w.start[0][at.lane], h[0]);
    unpack(w.start[1][at.lane], h[1]);
  } else if (p.state_in && c < p.d) {
#pragma unroll
    for (int i = 0; i < 8; ++i) h[i / 4][i % 4] = p.state_in(place.q.slot, c + i / 4, at.quad() * 4 + i % 4);
  }
}

template <class T>
__device__ __forceinline__ void leave_half(GradPairShared<T, false>& pair, GradWarpShared<false>& w,
                                           const HalfSums& sums, const GradLane& at, int halves_before) {
  pair.out_free.wait(halves_before - 1);
#pragma unroll
  for (int which = 0; which < kStateSums; ++which)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = at.quad() * 2 + i;
      w.out[which][at.quad()][grad_out_half(token)][grad_out_pair(token, at.pair())] =
          make_float2(sums.of[which][i], sums.of[which][2 + i]);
    }
  pair.full[1].arrive();
}

// The chunks of a piece for a scan warp.
template <class T>
__device__ __forceinline__ void walk_chunks(const SelectiveScanParams<T, float>& p, const float* checkpoints,
                                            const GradPlace& place, std::int64_t c, const GradLane& at, GradThread& s,
                                            GradBlockShared& block, GradPairShared<T, false>& pair) {
  auto& w = pair.warps[at.warp];
  const float* from =
      checkpoints + scan_checkpoint_at(p, place.q.row, place.first + place.count - 1, c) + at.quad() * 4;
  auto ask = [&](int k) {
    const bool there = k >= 0 && k * kScanChunk >= place.begin && c < p.d;
    copy_async<16>(&w.start[0][at.lane], from, there);
    copy_async<16>(&w.start[1][at.lane], from + kGradStates, there);
    from -= p.d * kGradStates;
    commit_copies();
  };
  ask(place.count - 1);
#pragma unroll 1
  for (int turn = 0; turn < place.count; ++turn) {
    const int k = place.count - 1 - turn, buffer = turn & 1;
    block.ready[buffer].wait(turn >> 1);
    wait_copies<0>();
    float h[2][4], a[2][4];
    enter_chunk(p, place, k, w, c, at, h);
    const int upper = GradHelper<T, false>::slot_of(turn, 1), lower = GradHelper<T, false>::slot_of(turn, 0);
#pragma unroll
    for (int t = 0; t < kScanChunk - kQuarter; ++t) {
      if (t == 4 || t == 8) {
        w.middle[t / 4 - 1][0][at.lane] = make_float4(h[0][0], h[0][1], h[0][2], h[0][3]);
        w.middle[t / 4 - 1][1][at.lane] = make_float4(h[1][0], h[1][1], h[1][2], h[1][3]);
      }
      const float4 forget = block.forget[buffer][t / 4];
      advance_states(s.A, at.step(w, t < kHalf ? lower : upper, t % kHalf), block.B[buffer][t][at.quad()],
                     t % 4 == 0   ? forget.x
                     : t % 4 == 1 ? forget.y
                     : t % 4 == 2 ? forget.z
                                  : forget.w,
                     h, a, h);
    }
#pragma unroll 1
    for (int half = 1; half >= 0; --half) {
      const int slot = half == 1 ? upper : lower;
      const auto* rows_B = &block.B[buffer][half * kHalf];
      const auto* rows_C = &block.C[buffer][half * kHalf];
      float4 column_B{}, column_C{};  // of bf16 alone
      if constexpr (std::is_same_v<T, bfloat16>) {
        column_B = rows_B[at.lane / 4][at.quad()];
        column_C = rows_C[at.lane / 4][at.quad()];
      }
      HalfSums sums;
      grad_quarter<T, 4>(s, sums, w, rows_B, rows_C, block.forget[buffer] + half * 2, slot, pair.free, turn, half, h,
                         at, column_B, column_C);
      pair.full[0].arrive();
      if (half == 1) {
        unpack(w.middle[1][0][at.lane], h[0]);
        unpack(w.middle[1][1][at.lane], h[1]);
      } else {
        enter_chunk(p, place, k, w, c, at, h);
        ask(k - 1);
      }
      grad_quarter<T, 0>(s, sums, w, rows_B, rows_C, block.forget[buffer] + half * 2, slot, pair.free, turn, half, h,
                         at, column_B, column_C);
      leave_half(pair, w, sums, at, 2 * turn + 1 - half);
      if (half == 1) {
        unpack(w.middle[0][0][at.lane], h[0]);
        unpack(w.middle[0][1][at.lane], h[1]);
      }
    }
  }
}

// What a piece sends back when nothing comes into it: the sum over its tokens of g C exp(A P), P the sum of dt from the
// piece's first token on. From the first chunk on, until all exponentials of the block are 0 in f32: what more tokens
// would add are zeros, since softplus makes no step size negative.
template <class T>
__device__ __forceinline__ void walk_ends(const GradPlace& place, bool softplus, bool valid, int warp,
                                          const GradLane& at, GradThread& s, GradBlockShared& block,
                                          GradPairShared<T, true>& pair) {
  constexpr float kLeast = -127;  // scan_exp2 of less is 0
  const auto& w = pair.warps[at.warp];
  float sum[2] = {}, add = 0, slowest[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) slowest[c] = fmaxf(fmaxf(s.A[c][0], s.A[c][1]), fmaxf(s.A[c][2], s.A[c][3]));
#pragma unroll 1
  for (int turn = 0; turn < place.count; ++turn) {
    const int buffer = turn & 1;
    block.ready[buffer].wait(turn >> 1);
    if (block.stop[buffer] != 0) break;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int slot = GradHelper<T, true>::slot_of(turn, half);
      const float4 forgets[2] = {block.forget[buffer][2 * half], block.forget[buffer][2 * half + 1]};
#pragma unroll
      for (int t = 0; t < kHalf; ++t) {
        const float4 step = at.step(w, slot, t);
        const float2 grad = at.grad(w, slot, t);
        const float g[2] = {grad.x, grad.y};
        const float4 four = forgets[t / 4];
        add += t % 4 == 0 ? four.x : t % 4 == 1 ? four.y : t % 4 == 2 ? four.z : four.w;
        sum[0] += step.x;
        sum[1] += step.z;
        float C[4];
        unpack(block.C[buffer][half * kHalf + t][at.quad()], C);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int c = i / 4, n = i % 4;
          s.adjoint[c][n] = fmaf(g[c] * C[n], scan_exp2(fmaf(sum[c], s.A[c][n], add)), s.adjoint[c][n]);
        }
      }
    }
    const bool decayed = !valid || (fmaf(sum[0], slowest[0], add) < kLeast && fmaf(sum[1], slowest[1], add) < kLeast);
    const bool all = softplus && __all_sync(~0u, decayed);
    if (at.lane == 0) block.decayed[buffer][warp] = all;
    __syncwarp();
    pair.full[buffer].arrive();
  }
}

// What a scan thread leaves of its piece; at: of all pieces or, ends only, parts of pieces.
template <bool kEndsOnly, class T>
__device__ void leave_piece(const SelectiveScanGradParams<T, float>& g, const GradPieces& pieces,
                            const ScanTokenSums& sums, float* carry_out, const GradThread& s, std::int64_t d,
                            std::int64_t slot, int piece, std::int64_t at, bool is_first, std::int64_t c, int n) {
  if (c >= d) return;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (kEndsOnly) {
        pieces.ends[(at * d + c + i) * kGradStates + n + k] = s.adjoint[i][k];
      } else {
        sums.A[(at * (kGradStates + 1) + n + k) * d + c + i] += s.dA[i][k];
        if (piece == 0 ? !is_first : pieces.turns != nullptr)
          carry_out[(slot * d + c + i) * kGradStates + n + k] = s.adjoint[i][k];
        if (piece == 0 && is_first && g.grad_state_in) g.grad_state_in(slot, c + i, n + k) = s.adjoint[i][k];
      }
    }
}

// kAdders: warps of their own add up dB and dC; of 128 registers that a warp starts with, scan warps get 168, helpers
// 112 and adders 64.
template <class T, bool kEndsOnly, bool kAdders>
__global__ void __launch_bounds__(kMostWarps* kThreadsOfWarp<kAdders && kMovesRegisters>, kEndsOnly ? kEndsTogether : 1)
    selective_scan_bwd_tiled(const __grid_constant__ SelectiveScanParams<T, float> p,
                             const __grid_constant__ SelectiveScanGradParams<T, float> g, const float* checkpoints,
                             const ScanSegment segment, const GradPieces pieces, const ScanTokenSums sums,
                             float* carry_out) {
  if constexpr (kAdders && !kMovesRegisters) return;  // not launched
  extern __shared__ float4 tiled_shared[];
  let_next_start();
  const int warp = threadIdx.x / 32, warps = blockDim.x / kThreadsOfWarp<kAdders>, helpers = warps / 2;
  auto& block = *reinterpret_cast<GradBlockShared*>(tiled_shared);
  auto* const pairs = reinterpret_cast<GradPairShared<T, kEndsOnly>*>(&block + 1);

  // Pieces from the last to the first.
  __shared__ unsigned ticket;
  if (pieces.tickets != nullptr) {
    if (threadIdx.x == 0) ticket = atomicAdd(pieces.tickets, 1);
    __syncthreads();
  }
  const std::int64_t unit = pieces.tickets != nullptr ? ticket : blockIdx.x, units = scan_slots(p) * segment.tiles;
  const std::int64_t turn = unit % units, slot = turn / segment.tiles, tile = turn - slot * segment.tiles;
  const int from_last = static_cast<int>(unit / units), finer = kEndsOnly ? pieces.finer : 1;
  const int piece = pieces.pieces - 1 - from_last / finer, part = from_last % finer;
  GradPlace place;
  place.q = scan_sequence(p, slot);
  place.channel0 = tile * warps * kWarpChannels;
  const std::int64_t begin = place.q.position / kScanChunk;
  const std::int64_t end = max((place.q.position + place.q.length + kScanChunk - 1) / kScanChunk, begin + 1);
  const std::int64_t first = max(begin, segment.first), all = min(end, segment.end) - first;
  if (all <= 0) return;
  const std::int64_t each = (all * pieces.large + pieces.total - 1) / pieces.total;
  const std::int64_t behind = max(all - (pieces.pieces - 1 - piece) * each, std::int64_t{0});  // chunks up to its end
  const std::int64_t before = piece == 0 ? 0 : max(behind - each, std::int64_t{0});
  const std::int64_t fine = (each + finer - 1) / finer;
  place.first = first + min(before + part * fine, behind);
  place.count = static_cast<int>(first + (finer == 1 ? behind : min(before + (part + 1) * fine, behind)) - place.first);
  const std::int64_t at_part = kEndsOnly ? slot * pieces.parts() + piece * finer + part : slot * pieces.pieces + piece;
  place.begin = static_cast<int>(max(place.q.position - place.first * kScanChunk, std::int64_t{0}));
  place.end = static_cast<int>(
      min(place.q.position + place.q.length - place.first * kScanChunk, std::int64_t{place.count} * kScanChunk));

  if (threadIdx.x < warps * kWarpChannels) {
    const std::int64_t c = place.channel0 + threadIdx.x;
    block.bias[threadIdx.x] = c < p.d && p.dt_bias != nullptr ? p.dt_bias[c] : 0.0f;
    block.D[threadIdx.x] = c < p.d && p.D != nullptr ? p.D[c] : 0.0f;
  }
  if (threadIdx.x < 2) {
    block.stop[threadIdx.x] = 0;
    block.ready[threadIdx.x].init((kAdders ? 2 : 1) * helpers * 32);
    for (int i = 0; i < helpers; ++i) {
      pairs[i].full[threadIdx.x].init(64);
      pairs[i].free[threadIdx.x].init(32);
      if (threadIdx.x == 0) pairs[i].out_free.init(32);
    }
  }
  if (pieces.turns != nullptr)
    wait_for_turn(pieces.turns + turn, pieces.pieces - 1 - piece);
  else
    __syncthreads();
  float* const slab = segment.slab + ((tile * p.u.shape[0] + place.q.row) * segment.positions() +
                                      (place.first - segment.first) * kScanChunk) *
                                         2 * kGradStates;
  auto* const totals = reinterpret_cast<float4(*)[kScanChunk][8]>(pairs + helpers);
  if (kAdders && warp >= warps + helpers) {
    if constexpr (kAdders) {
      leave_registers<kAdderRegisters>();
      const int index = warp - warps - helpers;
      GradAdder<T, kEndsOnly> adder(p, place, block, pairs[index], totals, index, helpers);
      if (place.count > 0) add_chunks(adder, block, pairs[index], place.count, slab);
    }
  } else if (warp >= warps) {
    if constexpr (kAdders) leave_registers<kHelperRegisters>();
    const int index = warp - warps;
    GradHelper<T, kEndsOnly> helper(p, g, place, block, pairs[index], index);
    if constexpr (kAdders) {
      if (place.count > 0) help_chunks<T>(helper, nullptr, pairs[index], place.count, slab);
    } else {
      GradAdder<T, kEndsOnly> adder(p, place, block, pairs[index], totals, index, helpers);
      if constexpr (kEndsOnly) {
        if (place.count > 0) help_ends(helper, adder, block, pairs[index], place.count, warps);
      } else {
        if (place.count > 0) help_chunks(helper, &adder, pairs[index], place.count, slab);
      }
    }
    helper.leave_sums([&](std::int64_t c, float first_sum, float second_sum) {
      if constexpr (kEndsOnly) {
        pieces.sums[at_part * p.d + c] = first_sum;
      } else {
        sums.A[(at_part * (kGradStates + 1) + kGradStates) * p.d + c] += first_sum;
        sums.dt_bias[at_part * p.d + c] += second_sum;
      }
    });
  } else {
    if constexpr (kAdders) take_registers<kScanRegisters>();
    if constexpr (!kEndsOnly) wait_for_inputs();  // ends of pieces; nothing is written before
    const GradLane at{static_cast<int>(threadIdx.x % 32), warp % 2};
    GradThread s;
    const std::int64_t c = place.channel0 + warp * kWarpChannels + at.pair() * 2;
    const int n = at.quad() * 4;
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
    if constexpr (kEndsOnly)
      walk_ends(place, p.dt_softplus, c < p.d, warp, at, s, block, pairs[warp / 2]);
    else
      walk_chunks(p, checkpoints, place, c, at, s, block, pairs[warp / 2]);
    leave_piece<kEndsOnly>(g, pieces, sums, carry_out, s, p.d, slot, piece, at_part, begin >= segment.first, c, n);
  }
  if (pieces.turns != nullptr) end_turn(pieces.turns + turn, pieces.pieces - piece);
}

}  // namespace coluber::cuda
