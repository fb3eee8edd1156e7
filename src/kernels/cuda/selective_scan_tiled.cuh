// Forward of selective_scan for 16 real states and B, C that change from token to token: what the published models
// have. u, dt, z and y are read and written once, and the limit is the arithmetic: 16 exponentials and 64 other
// operations a token and channel, 3 more exponentials for softplus and gate.
//
// A block has 64 channels of one sequence and walks tiles of 16 tokens. Four scan warps have 16 channels x 16 states
// each, a thread 2 channels x 4 states in registers, so that one 16-byte load of shared memory each of steps, B and C
// serves 8 states. Four helper warps do for the tile after this one what comes before the recurrence (loads, softplus,
// dt u) and for the tile before it what comes after (D u, gate, store): their latencies hide behind the scan.
//
// Few sequences and channels: a sequence is cut into pieces. Pass one finds the state at the end of every piece but the
// last, beginning at zero, and the sum of dt; pass two begins piece k at what pieces 0 to k-1 leave, since the decay of
// a piece is exp(A sum dt). All pieces round alike, but sums are taken in another order: results differ from those of
// one piece by the rounding of exp(A sum dt), relative 2^-22 + |A sum dt| 2^-23 of the state carried in, 4e-6 at most
// before it has decayed below the same digits.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/selective_scan_common.cuh"

namespace coluber::cuda {

inline constexpr int kTiledStates = 16, kTiledChannels = 64, kTileTokens = kScanChunk;
inline constexpr int kScanWarps = 4, kTiledThreads = 2 * kScanWarps * 32;
#ifndef COLUBER_SCAN_BLOCKS
#define COLUBER_SCAN_BLOCKS 2
#endif
inline constexpr int kTiledBlocks = COLUBER_SCAN_BLOCKS;
inline constexpr int kHelperChannels = 8;  // of a helper thread, of one token of a tile

// How sequences are cut. (s,pieces,d,16), (s,pieces,d) and (s,d,16).
struct ScanPieces {
  int pieces = 1;
  float *ends = nullptr, *sums = nullptr;
  float* start = nullptr;  // a copy of state_in: the last piece may overwrite it before the first has read it
};

struct TiledShared {
  float4 steps[2][kTileTokens][kTiledChannels / 2];  // dt, dt u of two channels, swizzled: steps_at
  float4 B[2][kTileTokens][kTiledStates / 4], C[2][kTileTokens][kTiledStates / 4];
  float y[2][kTileTokens][kTiledChannels];
  float bias[kTiledChannels], D[kTiledChannels];
  std::uint8_t resets[2][kTileTokens];
};

// A helper writes four neighbouring pairs, a scan thread reads one: pairs of 8 lines apart must not share banks.
__device__ __forceinline__ int steps_at(int pair) {
  return pair ^ (pair >> 3);
}

// Results below 2^-126 are 0: without that, a division takes five more instructions.
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Neighbouring numbers as words: as an array of 16-bit numbers, each would be moved and widened by itself.
template <class T, int N>
struct Words {
  static constexpr int kCount = N * static_cast<int>(sizeof(T)) / 4;
  std::uint32_t of[kCount];
};

template <int N, class T>
__device__ __forceinline__ Words<T, N> load_words(const T* p) {
  Words<T, N> out;
  constexpr int kCount = Words<T, N>::kCount;
  if constexpr (kCount == 2) {
    const uint2 w = *reinterpret_cast<const uint2*>(p);
    out.of[0] = w.x, out.of[1] = w.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint4 w = reinterpret_cast<const uint4*>(p)[i / 4];
      out.of[i] = w.x, out.of[i + 1] = w.y, out.of[i + 2] = w.z, out.of[i + 3] = w.w;
    }
  }
  return out;
}

template <class T, int N>
__device__ __forceinline__ void widen(const Words<T, N>& in, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < Words<T, N>::kCount; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = __uint_as_float(in.of[i]);
    } else if constexpr (std::is_same_v<T, bfloat16>) {
      out[2 * i] = __uint_as_float(in.of[i] << 16);
      out[2 * i + 1] = __uint_as_float(in.of[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&in.of[i]));
      out[2 * i] = pair.x;
      out[2 * i + 1] = pair.y;
    }
  }
}

// Two numbers are rounded by one instruction.
template <class T>
__device__ __forceinline__ void store_packed(T* to, const float (&y)[8]) {
  if constexpr (sizeof(T) == 4) {
    store_floats(to, y);
  } else {
    std::uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, bfloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pairs[i]) : "f"(y[2 * i + 1]), "f"(y[2 * i]));
      else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pairs[i]) : "f"(y[2 * i + 1]), "f"(y[2 * i]));
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// 2^x on the other units, relative error 1.5e-7, for -126 <= x < 128 (beyond: the value there). 10 instructions where
// the special function unit takes one of a sixteenth of the rate: worth it for one exponential in 8 or 16.
__device__ __forceinline__ float exp2_by_polynomial(float x) {
  const float bounded = fminf(fmaxf(x, -126.0f), 127.99f);
  const float shifted = bounded + 12582912.0f;  // 1.5 2^23: the integer part in the low bits
  const float f = bounded - (shifted - 12582912.0f);
  float y = fmaf(f, 0.00132647f, 0.00967151f);
  y = fmaf(f, y, 0.05550734f);
  y = fmaf(f, y, 0.24022242f);
  y = fmaf(f, y, 0.69314698f);
  y = fmaf(f, y, 1.0f);
  return __int_as_float(__float_as_int(y) + (__float_as_int(shifted) << 23));
}

// Whether an exponential of token t goes there: one of 8 kPolynomialEvery.
#ifndef COLUBER_SCAN_POLYNOMIAL
#define COLUBER_SCAN_POLYNOMIAL 2
#endif
inline constexpr int kPolynomialEvery = COLUBER_SCAN_POLYNOMIAL;
__device__ __forceinline__ constexpr bool by_polynomial(int t, int c, int n) {
  return kPolynomialEvery > 0 && t % kPolynomialEvery == 0 && c * 4 + n == t / kPolynomialEvery % 8;
}

// The tiles of one piece of a sequence.
struct TiledRange {
  std::int64_t first, end;
};
__device__ __forceinline__ TiledRange tiles_of(const ScanSequence& q, int piece, int pieces) {
  const std::int64_t first = q.position / kTileTokens;
  const std::int64_t tiles = (q.position + q.length + kTileTokens - 1) / kTileTokens - first;
  const std::int64_t each = (tiles + pieces - 1) / pieces;
  return {first + min(piece * each, tiles), first + min((piece + 1) * each, tiles)};
}

// What a helper thread has of tensor rows: its 8 channels of one token of a tile after the other.
template <class T>
struct HelperRow {
  T* at = nullptr;  // of its token in the tile that comes next
  std::int64_t step = 0;

  HelperRow() = default;
  __device__ HelperRow(const View<T, 3>& view, const ScanSequence& q, std::int64_t token, std::int64_t c) {
    if (!view) return;
    at = view.ptr(q.row, token, c);
    step = view.strides[1] * q.sign * kTileTokens;
  }
};

template <class T, bool kStateOnly>
class TiledHelper {
 public:
  __device__ TiledHelper(const SelectiveScanParams<T, float>& p, TiledShared& shared, const ScanSequence& q,
                         std::int64_t tile, std::int64_t channel0, int thread)
      : p_(p),
        shared_(shared),
        token_(thread / 8),
        lane_(thread % 8),
        position_(thread / 8),
        begin_(static_cast<int>(max(q.position - tile * kTileTokens, std::int64_t{0}))),
        end_(static_cast<int>(q.position + q.length - tile * kTileTokens)),
        valid_(channel0 + lane_ * kHelperChannels < p.d) {
    const std::int64_t t = q.token(tile * kTileTokens + token_ - q.position);
    const std::int64_t c = channel0 + lane_ * kHelperChannels;
    dt_ = HelperRow<const T>(p.dt, q, t, c);
    u_ = HelperRow<const T>(p.u, q, t, c);
    z_ = HelperRow<const T>(p.z, q, t, c);
    y_ = HelperRow<T>(p.y, q, t, c);
    if (p.resets && lane_ == 0) resets_ = p.resets.ptr(q.row, t);
    resets_step_ = p.resets.strides[1] * q.sign * kTileTokens;
    if (thread < kTiledChannels) {
      const bool has = channel0 + thread < p.d;
      shared.bias[thread] = has && p.dt_bias != nullptr ? p.dt_bias[channel0 + thread] : 0.0f;
      shared.D[thread] = has && p.D != nullptr ? p.D[channel0 + thread] : 0.0f;
    }
    // Rows of B and C: 64 threads each, 4 states of one token.
    const bool is_C = thread >= 64;
    const auto& view = is_C ? p.C : p.B;
    const std::int64_t group = channel0 / (p.d / view.shape[2]);
    row_token_ = thread % 64 / 4;
    rows_ = view.ptr(q.row, q.token(tile * kTileTokens + row_token_ - q.position), group, thread % 4 * 4);
    rows_step_ = view.strides[1] * q.sign * kTileTokens;
    rows_to_ = is_C ? &shared.C[0][row_token_][thread % 4] : &shared.B[0][row_token_][thread % 4];
    rows_wanted_ = !kStateOnly || !is_C;
  }

  // Starts the loads of the tile that comes next.
  __device__ __forceinline__ void load() {
    const bool is_token = position_ >= begin_ && position_ < end_;
    loaded_ = valid_ && is_token;
    u_raw_ = {};
    if (loaded_) {
      dt_raw_ = load_words<kHelperChannels>(dt_.at);
      u_raw_ = load_words<kHelperChannels>(u_.at);
    }
    const int row_position = position_ - token_ + row_token_;
    rows_raw_ = {};
    if (rows_wanted_ && row_position >= begin_ && row_position < end_) rows_raw_ = load_words<4>(rows_);
    reset_raw_ = resets_ != nullptr && is_token && *resets_ != 0;
    resets_ = resets_ == nullptr ? nullptr : resets_ + resets_step_;
    dt_.at += dt_.step;
    u_.at += u_.step;
    rows_ += rows_step_;
    position_ += kTileTokens;
  }

  // Step sizes of what was loaded, into one of the two buffers. Tokens that are none change nothing: dt = dt u = 0.
  __device__ __forceinline__ void prepare(int buffer) {
    float dt[kHelperChannels], u[kHelperChannels], bias[kHelperChannels];
    load_floats(&shared_.bias[lane_ * kHelperChannels], bias);
    widen(dt_raw_, dt);
    widen(u_raw_, u);
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) dt[i] += bias[i];
    if (p_.dt_softplus) {
#pragma unroll
      for (int i = 0; i < kHelperChannels; ++i) dt[i] = scan_step_size<T>(dt[i], true);
    }
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) dt[i] = loaded_ ? dt[i] : 0.0f;
#pragma unroll
    for (int i = 0; i < kHelperChannels; i += 2)
      shared_.steps[buffer][token_][steps_at(lane_ * 4 + i / 2)] =
          make_float4(dt[i], u[i] * dt[i], dt[i + 1], u[i + 1] * dt[i + 1]);
    if (rows_wanted_) {
      float row[4];
      widen(rows_raw_, row);
      rows_to_[buffer * kTileTokens * (kTiledStates / 4)] = make_float4(row[0], row[1], row[2], row[3]);
    }
    if (lane_ == 0) shared_.resets[buffer][token_] = reset_raw_;
    u_before_ = u_now_;
    u_now_ = u_next_;
    u_next_ = u_raw_;
    output_before_ = output_now_;
    output_now_ = output_next_;
    output_next_ = loaded_;
  }
  // The next tile's turn without one.
  __device__ __forceinline__ void prepare_none() {
    u_before_ = u_now_;
    u_now_ = u_next_;
    output_before_ = output_now_;
    output_now_ = output_next_;
  }

  // z of the tile whose outputs come at the next turn.
  __device__ __forceinline__ void load_gate() {
    if (z_.at == nullptr) return;
    if (output_now_) z_raw_ = load_words<kHelperChannels>(z_.at);
    z_.at += z_.step;
  }

  // Outputs of the tile before the one that is scanned.
  __device__ __forceinline__ void finish(int buffer) {
    float y[kHelperChannels], u[kHelperChannels], D[kHelperChannels];
    load_floats(&shared_.y[buffer][token_][lane_ * kHelperChannels], y);
    load_floats(&shared_.D[lane_ * kHelperChannels], D);
    widen(u_before_, u);
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) y[i] = fmaf(D[i], u[i], y[i]);
    if (z_.at != nullptr) {
      float z[kHelperChannels];
      widen(z_raw_, z);
#pragma unroll
      for (int i = 0; i < kHelperChannels; ++i) y[i] *= z[i] * fast_reciprocal(1.0f + scan_exp2(-kScanLog2E * z[i]));
    }
    if (output_before_) store_packed(y_.at, y);
    y_.at += y_.step;
  }

 private:
  const SelectiveScanParams<T, float>& p_;
  TiledShared& shared_;
  int token_, lane_;
  int position_, begin_, end_;  // counted from the first tile
  bool valid_;
  HelperRow<const T> dt_, u_, z_;
  HelperRow<T> y_;
  const std::uint8_t* resets_ = nullptr;
  std::int64_t resets_step_;
  const T* rows_;
  std::int64_t rows_step_;
  int row_token_;
  float4* rows_to_;
  bool rows_wanted_, loaded_ = false, reset_raw_ = false;
  bool output_before_ = false, output_now_ = false, output_next_ = false;
  Words<T, 4> rows_raw_{};
  Words<T, kHelperChannels> dt_raw_{}, u_raw_{}, z_raw_{};
  Words<T, kHelperChannels> u_before_{}, u_now_{}, u_next_{};
};

// 2 channels x 4 states of a scan thread. Lanes: channels % 8, states / 8, so that 8 neighbouring lanes read one
// address of B and C.
struct TiledStates {
  float A[2][4];  // times log2 e
  float h[2][4];
  float dt_sum[2] = {};
};

// 8 tokens, their outputs in registers: a store to shared memory among them would hold up the loads after it.
template <bool kStateOnly, bool kResets>
__device__ __forceinline__ void scan_tokens(TiledStates& s, const float4 (*steps)[kTiledChannels / 2],
                                            const float4 (*B)[kTiledStates / 4], const float4 (*C)[kTiledStates / 4],
                                            const std::uint8_t* resets, float (&y)[8][2]) {
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    const float4 step = steps[t][0], b = B[t][0];
    const float dt[2] = {step.x, step.z}, x[2] = {step.y, step.w}, B4[4] = {b.x, b.y, b.z, b.w};
    if constexpr (kResets) {
      if (resets[t] != 0) {
#pragma unroll
        for (int i = 0; i < 8; ++i) s.h[i / 4][i % 4] = 0;
        s.dt_sum[0] = s.dt_sum[1] = INFINITY;  // nothing gets past a reset
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float rate = dt[c] * s.A[c][n];
        const float decay = by_polynomial(t, c, n) ? exp2_by_polynomial(rate) : scan_exp2(rate);
        s.h[c][n] = fmaf(decay, s.h[c][n], x[c] * B4[n]);
      }
    if constexpr (kStateOnly) {
      s.dt_sum[0] += dt[0];
      s.dt_sum[1] += dt[1];
    } else {
      const float4 row = C[t][0];
#pragma unroll
      for (int c = 0; c < 2; ++c)
        y[t][c] = fmaf(row.w, s.h[c][3], fmaf(row.z, s.h[c][2], fmaf(row.y, s.h[c][1], row.x * s.h[c][0])));
    }
  }
}

// Sums over the four lanes that share channels; a lane is left with tokens 2 (lane / 8) and the next.
__device__ __forceinline__ void reduce_outputs(float (&y)[8][2], int lane, float* to) {
  const bool high = lane & 16, odd = lane & 8;
  float half[4][2];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float mine = high ? y[i + 4][c] : y[i][c], other = high ? y[i][c] : y[i + 4][c];
      half[i][c] = mine + __shfl_xor_sync(~0u, other, 16);
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float out[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float mine = odd ? half[i + 2][c] : half[i][c], other = odd ? half[i][c] : half[i + 2][c];
      out[c] = mine + __shfl_xor_sync(~0u, other, 8);
    }
    *reinterpret_cast<float2*>(to + (lane / 8 * 2 + i) * kTiledChannels) = make_float2(out[0], out[1]);
  }
}

// One tile of 16 tokens for a scan warp.
template <bool kStateOnly>
__device__ __forceinline__ void scan_tile(TiledStates& s, TiledShared& shared, int buffer, int warp, int lane) {
  const int pair = warp * 8 + lane % 8;
  const uint4 flags = *reinterpret_cast<const uint4*>(shared.resets[buffer]);
  const bool any_reset = (flags.x | flags.y | flags.z | flags.w) != 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float y[8][2];
    const auto* steps =
        reinterpret_cast<const float4(*)[kTiledChannels / 2]>(&shared.steps[buffer][half * 8][steps_at(pair)]);
    const auto* B = reinterpret_cast<const float4(*)[kTiledStates / 4]>(&shared.B[buffer][half * 8][lane / 8]);
    const auto* C = reinterpret_cast<const float4(*)[kTiledStates / 4]>(&shared.C[buffer][half * 8][lane / 8]);
    const std::uint8_t* resets = shared.resets[buffer] + half * 8;
    if (any_reset)
      scan_tokens<kStateOnly, true>(s, steps, B, C, resets, y);
    else
      scan_tokens<kStateOnly, false>(s, steps, B, C, resets, y);
    if constexpr (!kStateOnly) reduce_outputs(y, lane, &shared.y[buffer][half * 8][pair * 2]);
  }
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
template <class T, bool kStateOnly>
__device__ void enter_piece(const SelectiveScanParams<T, float>& p, const ScanPieces& pieces, std::int64_t slot,
                            int piece, std::int64_t c, int n, const float (&A)[4], float (&h)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = 0;
  if (p.state_in && (!kStateOnly || piece == 0)) {
    float* start = pieces.start + (slot * p.d + c) * kTiledStates + n;
    if (pieces.pieces == 1 || kStateOnly)
      load_states(p.state_in.ptr(slot, c) + n * p.state_in.strides[2], p.state_in.strides[2], h);
    else if (piece == 0)
      load_states(start, 1, h);
    if (kStateOnly) store_states(start, 1, h);
  }
  for (int k = 0; !kStateOnly && k < piece; ++k) {
    const std::int64_t at = (slot * pieces.pieces + k) * p.d + c;
    const float sum = pieces.sums[at];
    const float4 end = *reinterpret_cast<const float4*>(pieces.ends + at * kTiledStates + n);
    const float ends[4] = {end.x, end.y, end.z, end.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = sum == INFINITY ? ends[i] : fmaf(scan_exp2(sum * A[i]), h[i], ends[i]);
  }
}

template <class T, bool kStateOnly>
__global__ void __launch_bounds__(kTiledThreads, kStateOnly ? 3 : kTiledBlocks)
    selective_scan_fwd_tiled(const __grid_constant__ SelectiveScanParams<T, float> p, float* checkpoints,
                             const ScanPieces pieces) {
  __shared__ TiledShared shared;
  const std::int64_t channel_blocks = (p.d + kTiledChannels - 1) / kTiledChannels;
  const int launched = kStateOnly ? pieces.pieces - 1 : pieces.pieces;
  const std::int64_t rest = blockIdx.x / channel_blocks;
  const std::int64_t channel0 = (blockIdx.x - rest * channel_blocks) * kTiledChannels;
  const std::int64_t slot = rest / launched;
  const int piece = static_cast<int>(rest - slot * launched);
  const ScanSequence q = scan_sequence(p, slot);
  const TiledRange tiles = tiles_of(q, piece, pieces.pieces);
  const int count = static_cast<int>(tiles.end - tiles.first);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (warp >= kScanWarps) {
    TiledHelper<T, kStateOnly> helper(p, shared, q, tiles.first, channel0, threadIdx.x - kScanWarps * 32);
    helper.load();
    __syncthreads();
    helper.prepare(0);
    if (count > 1) helper.load();
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      // Outputs of tile k - 1, then steps of tile k + 1 and the loads of tile k + 2.
      const bool more = k + 1 < count;
      if (more)
        helper.prepare((k + 1) & 1);
      else
        helper.prepare_none();
      if constexpr (!kStateOnly) {
        if (k > 0) helper.finish((k - 1) & 1);
        helper.load_gate();
      }
      if (k + 2 < count) helper.load();
      __syncthreads();
    }
    if constexpr (!kStateOnly) {
      helper.prepare_none();
      if (count > 0) helper.finish((count - 1) & 1);
    }
    return;
  }

  TiledStates s;
  const std::int64_t c = channel0 + warp * 16 + lane % 8 * 2;
  const int n = lane / 8 * 4;
  const bool valid = c < p.d;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) s.A[i][j] = valid ? p.A(c + i, n + j) * kScanLog2E : 0.0f;
    if (valid)
      enter_piece<T, kStateOnly>(p, pieces, slot, piece, c + i, n, s.A[i], s.h[i]);
    else
      s.h[i][0] = s.h[i][1] = s.h[i][2] = s.h[i][3] = 0;
  }
  __syncthreads();
  __syncthreads();
  for (int k = 0; k < count; ++k) {
    if (!kStateOnly && checkpoints != nullptr && valid && (tiles.first + k) * kTileTokens >= q.position) {
      float* to = checkpoints + scan_checkpoint_at(p, q.row, tiles.first + k, c) + n;
      *reinterpret_cast<float4*>(to) = make_float4(s.h[0][0], s.h[0][1], s.h[0][2], s.h[0][3]);
      *reinterpret_cast<float4*>(to + kTiledStates) = make_float4(s.h[1][0], s.h[1][1], s.h[1][2], s.h[1][3]);
    }
    scan_tile<kStateOnly>(s, shared, k & 1, warp, lane);
    __syncthreads();
  }
  if (!valid) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if constexpr (kStateOnly) {
      const std::int64_t at = (slot * pieces.pieces + piece) * p.d + c + i;
      store_states(pieces.ends + at * kTiledStates + n, 1, s.h[i]);
      if (n == 0) pieces.sums[at] = s.dt_sum[i];
    } else if (p.state_out && piece == pieces.pieces - 1) {
      store_states(p.state_out.ptr(slot, c + i) + n * p.state_out.strides[2], p.state_out.strides[2], s.h[i]);
    }
  }
}

}  // namespace coluber::cuda
