// The helper warps of selective_scan's tiled backward (selective_scan_backward_tiled.cuh). A helper warp serves two
// scan warps: before the recurrence of a chunk it copies their inputs and makes step sizes, gradients before the gate
// and slopes, after each half of a chunk the gradients of u, dt and z. Scan warps have 2 of 4 warps' registers full of
// states and no time for any of this. Sums over channels are in selective_scan_backward_adder.cuh.
//
// Chunks are walked from the last to the first, and a chunk's upper half before its lower one; where only the ends of
// pieces are wanted, the other way (see walk_ends). `turn` counts chunks as they are walked. A helper thread has one
// token of a half and 8 of the 32 channels: what it copies and what it needs for the gradients is seen by no other
// thread.
#pragma once

#include <cmath>

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/meeting.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/selective_scan_backward_sums.cuh"

namespace coluber::cuda {

inline constexpr int kGradStates = 16, kWarpChannels = 16, kPairChannels = 2 * kWarpChannels;
inline constexpr int kHalf = 8, kQuarter = 4;  // tokens
inline constexpr int kLaneChannels = 8;        // of a helper thread
inline constexpr int kMostWarps = 8;           // scan warps of a block, or half of them
template <bool kAdders>
inline constexpr int kThreadsOfWarp = kAdders ? 64 : 48;  // of a scan warp and its halves of a helper and an adder

// How a segment is cut: each piece has `large` of every `total` chunks, rounded up, and the first what is left.
// ends and sums, (s,parts,d,16) and (s,parts,d): pieces run side by side, after a pass that finds their ends, of
// `finer` parts of a piece each. turns, (s,tiles) zeros, and tickets, a zero: pieces run one after the other and hand
// on what they carry.
struct GradPieces {
  int pieces = 1, finer = 1;
  std::int64_t large = 1, total = 1;
  float *ends = nullptr, *sums = nullptr;
  int *turns = nullptr, *tickets = nullptr;

  COLUBER_HD int parts() const { return pieces * finer; }
};

// What a scan warp reads. Pairs of channels of a token are swizzled: grad_steps_at, grad_pair_at.
template <int kHalves>
struct GradWarpInputs {
  float4 steps[kHalves][kHalf][kWarpChannels / 2];  // dt, dt u of two channels
  float2 grad[kHalves][kHalf][kWarpChannels / 2];   // of y before the gate
};
// Halves that wait for their gradients, are walked or are being prepared.
template <bool kEndsOnly>
inline constexpr int kGradHalves = kEndsOnly ? 4 : 3;

// Sums over states: C h, lambda B, lambda a h A.
enum StateSum { kSumY, kSumLambdaB, kSumLocalA, kStateSums };

template <bool kEndsOnly>
struct GradWarpShared : GradWarpInputs<kGradHalves<true>> {};
template <>
struct GradWarpShared<false> : GradWarpInputs<kGradHalves<false>> {
  float4 sums[2][kQuarter][kWarpChannels / 2][8];           // dB, dC of a pair of channels, of two quarters
  float2 out[kStateSums][kHalf / 2][2][kWarpChannels / 2];  // swizzled: grad_out_at
  float4 start[2][32], middle[2][2][32];                    // of a thread: states before tokens 0, 4, 8
};

enum RawInputs { kRawDt, kRawGradY, kRawZ, kRawKinds };

// Of a helper warp and its two scan warps.
template <class T, bool kEndsOnly>
struct GradPairShared {
  T raw[2][kRawKinds][kScanChunk][kPairChannels];
  T u[kEndsOnly ? 1 : 4][kScanChunk][kPairChannels];
  float4 slopes[kEndsOnly ? 1 : kGradHalves<false>][4][32];  // of dt, and of z times grad_y, of a helper thread
  GradWarpShared<kEndsOnly> warps[2];
  Meeting full[2], free[2];  // upper and lower quarters of halves; ends only: even and odd chunks
  Meeting out_free;          // of halves: GradWarpShared::out has been read
};

struct GradBlockShared {
  float4 B[2][kScanChunk][kGradStates / 4], C[2][kScanChunk][kGradStates / 4];
  float4 forget[2][kScanChunk / 4];  // what is added to exponents: 0, or -1e30 where a reset makes the decay 0
  float bias[kMostWarps * kWarpChannels], D[kMostWarps * kWarpChannels];
  Meeting ready[2];
  // Ends only, of even and odd turns: warps whose states all have decayed, and whether the turn is not walked any more.
  std::uint8_t decayed[2][kMostWarps], stop[2];
};

// Sums of a helper's pair of warps, [2][helpers][token][quad], follow the pairs' parts.
template <class T, bool kEndsOnly>
std::int64_t grad_shared_bytes(int warps) {
  const std::size_t totals = kEndsOnly ? 0 : 2 * kScanChunk * 8 * sizeof(float4);
  return static_cast<std::int64_t>(sizeof(GradBlockShared) +
                                   warps / 2 * (sizeof(GradPairShared<T, kEndsOnly>) + totals));
}

// Swizzles, so that 8 neighbouring helper lanes, which have two tokens of two warps, write to all banks. warp: % 2.
__device__ __forceinline__ int grad_steps_at(int token, int pair, int warp) {
  return pair ^ (token & 1) ^ (warp << 1);
}
__device__ __forceinline__ int grad_pair_at(int pair, int warp) {
  return pair ^ (warp << 1);
}
// Of a scan thread, which has tokens 2 (lane % 4) and the next: the second and third index of `out`.
__device__ __forceinline__ int grad_out_half(int token) {
  return (token ^ token >> 1) & 1;
}
__device__ __forceinline__ int grad_out_pair(int token, int pair) {
  return pair ^ (token & 4);
}

// Where a warp is: its channels, and the chunks of its piece. Positions count from the first of these chunks.
struct GradPlace {
  ScanSequence q;
  std::int64_t channel0, first;  // chunk
  int count, begin, end;         // chunks; positions of the sequence

  __device__ bool has(int k, int i) const { return k * kScanChunk + i >= begin && k * kScanChunk + i < end; }
  __device__ std::int64_t token(int k, int i) const { return q.token((first + k) * kScanChunk + i - q.position); }
};

// A helper thread's 8 channels of one token of a chunk.
template <class T>
struct GradRow {
  T* at = nullptr;
  std::int64_t position = 0;  // numbers from a position to the next

  GradRow() = default;
  __device__ GradRow(const View<T, 3>& view, const GradPlace& place, std::int64_t token, std::int64_t c) {
    if (!view) return;
    at = view.ptr(place.q.row, token, c);
    position = view.strides[1] * place.q.sign;
  }
  __device__ __forceinline__ void next(int chunks) { at += chunks * kScanChunk * position; }
};

template <class T, bool kEndsOnly>
class GradHelper {
 public:
  using Pair = GradPairShared<T, kEndsOnly>;

  // index: of the helper warp.
  __device__ GradHelper(const SelectiveScanParams<T, float>& p, const SelectiveScanGradParams<T, float>& g,
                        const GradPlace& place, GradBlockShared& block, Pair& pair, int index)
      : p_(p), place_(place), block_(block), pair_(pair), index_(index) {
    lane_ = threadIdx.x % 32;
    quad_ = lane_ % 4;
    const std::int64_t c = place.channel0 + channel();
    valid_ = c < p.d;
    const std::int64_t token = place.token(chunk_of(0), lane_ / 4);
    dt_ = GradRow<const T>(p.dt, place, token, c);
    grad_y_ = GradRow<const T>(g.grad_y, place, token, c);
    z_ = GradRow<const T>(p.z, place, token, c);
    if constexpr (!kEndsOnly) {
      u_ = GradRow<const T>(p.u, place, token, c);
      du_ = GradRow<T>(g.grad_u, place, token, c);
      ddt_ = GradRow<T>(g.grad_dt, place, token, c);
      dz_ = GradRow<T>(g.grad_z, place, token, c);
    }
  }

  // Copies the inputs of the next chunk, if there is one; a group of copies in any case.
  __device__ __forceinline__ void ask() {
    if (asked_ < place_.count) {
      const int k = chunk_of(asked_);
      copy(pair_.raw[asked_ & 1][kRawDt], dt_, k);
      copy(pair_.raw[asked_ & 1][kRawGradY], grad_y_, k);
      if (z_.at != nullptr) copy(pair_.raw[asked_ & 1][kRawZ], z_, k);
      if constexpr (!kEndsOnly) copy(pair_.u[asked_ & 3], u_, k);
    }
    ++asked_;
    commit_copies();
  }

  // The first chunk, and asks for the second.
  __device__ __forceinline__ void begin() {
    ask();
    ask();
    prepare_half(0, 1);
    prepare_half(0, 0);
  }
  // A half of a chunk, the upper one first; the lower one completes it.
  __device__ __forceinline__ void prepare_half(int turn, int half) {
    if (half == 1) wait_copies<1>();
    prepare(turn, half);
    if (half == 0) block_.ready[turn & 1].arrive();
  }

  // Step sizes, gradients before the gate and slopes of half `half` of a chunk. Tokens that are none change nothing:
  // dt = dt u = 0 and no gradient.
  __device__ __forceinline__ void prepare(int turn, int half) {
    const int k = chunk_of(turn), token = half * kHalf + lane_ / 4, slot = slot_of(turn, half);
    const bool there = place_.has(k, token);
    float dt[8], grad[8], bias[8], slope[8], slope_z[8];
    load_floats(&block_.bias[index_ * kPairChannels + channel_in_pair()], bias);
    load_floats(&pair_.raw[turn & 1][kRawDt][token][channel_in_pair()], dt);
    load_floats(&pair_.raw[turn & 1][kRawGradY][token][channel_in_pair()], grad);
#pragma unroll
    for (int i = 0; i < 8; ++i) dt[i] += bias[i], slope[i] = 1, slope_z[i] = 0;
    // One branch for all, so that their latencies overlap.
    if (p_.dt_softplus) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (!kEndsOnly) slope[i] = scan_softplus_slope(dt[i]);
        dt[i] = scan_step_size<T>(dt[i], true);
      }
    }
    if (z_.at != nullptr) {
      float z[8];
      load_floats(&pair_.raw[turn & 1][kRawZ][token][channel_in_pair()], z);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float gate = sigmoid(z[i]), part = grad[i] * gate;
        grad[i] = part * z[i];
        slope_z[i] = fmaf(grad[i], 1.0f - gate, part);  // grad_y gate (1 + z (1 - gate))
      }
    }
    float x[8] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) dt[i] = there ? dt[i] : 0.0f;
    if constexpr (kEndsOnly) {
      const bool reset = p_.resets && there && p_.resets(place_.q.row, place_.token(k, token)) != 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sums_[0][i] += reset ? INFINITY : dt[i];  // nothing gets past a reset
    } else {
      float u[8];
      load_floats(&pair_.u[turn & 3][token][channel_in_pair()], u);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = dt[i] * u[i];
        sums_[0][i] = fmaf(grad[i], u[i], sums_[0][i]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        pair_.slopes[slot][i][lane_] = make_float4(slope[2 * i], slope[2 * i + 1], slope_z[2 * i], slope_z[2 * i + 1]);
    }
    auto& w = pair_.warps[quad_ / 2];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      w.steps[slot][lane_ / 4][grad_steps_at(lane_ / 4, quad_ % 2 * 4 + i, quad_ / 2)] =
          make_float4(dt[2 * i], x[2 * i], dt[2 * i + 1], x[2 * i + 1]);
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      *reinterpret_cast<float4*>(&w.grad[slot][lane_ / 4][grad_pair_at(quad_ % 2 * 4 + i / 2, quad_ / 2)]) =
          make_float4(grad[i], grad[i + 1], grad[i + 2], grad[i + 3]);
  }

  // Gradients of a half that has been walked.
  __device__ __forceinline__ void finish(int turn, int half) {
    const int k = chunk_of(turn), token = half * kHalf + lane_ / 4, slot = slot_of(turn, half);
    const auto& w = pair_.warps[quad_ / 2];
    float y[8], lambda_B[8], local_A[8], dt[8], grad[8], D[8], u[8], result[8];
    auto load_sums = [&](StateSum which, float(&to)[8]) {
      const int t = lane_ / 4;
      const float* from =
          reinterpret_cast<const float*>(&w.out[which][t / 2][grad_out_half(t)][grad_out_pair(t, quad_ % 2 * 4)]);
      load_floats(from, to);
    };
    load_sums(kSumLambdaB, lambda_B);
    load_sums(kSumLocalA, local_A);
    load_sums(kSumY, y);
    load_floats(&pair_.u[turn & 3][token][channel_in_pair()], u);
    load_floats(&block_.D[index_ * kPairChannels + channel_in_pair()], D);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 x = w.steps[slot][lane_ / 4][grad_steps_at(lane_ / 4, quad_ % 2 * 4 + i, quad_ / 2)];
      dt[2 * i] = x.x, dt[2 * i + 1] = x.z;
    }
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const float4 x =
          *reinterpret_cast<const float4*>(&w.grad[slot][lane_ / 4][grad_pair_at(quad_ % 2 * 4 + i / 2, quad_ / 2)]);
      grad[i] = x.x, grad[i + 1] = x.y, grad[i + 2] = x.z, grad[i + 3] = x.w;
    }
    const bool there = valid_ && place_.has(k, token);
#pragma unroll
    for (int i = 0; i < 8; ++i) result[i] = fmaf(dt[i], lambda_B[i], D[i] * grad[i]);
    store(du_, half, result, there);
    float slope_z[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 slopes = pair_.slopes[slot][i][lane_];
      const float slope[2] = {slopes.x, slopes.y};
      slope_z[2 * i] = slopes.z, slope_z[2 * i + 1] = slopes.w;
#pragma unroll
      for (int j = 2 * i; j < 2 * i + 2; ++j) {
        result[j] = slope[j % 2] * fmaf(u[j], lambda_B[j], 0.69314718056f * local_A[j]);
        sums_[1][j] += there ? result[j] : 0.0f;
      }
    }
    store(ddt_, half, result, there);
#pragma unroll
    for (int i = 0; i < 8; ++i) result[i] = slope_z[i] * fmaf(D[i], u[i], y[i]);
    store(dz_, half, result, there);
    if (half == 0) du_.next(kStep), ddt_.next(kStep), dz_.next(kStep);
  }

  // Sums over tokens of a lane's channels, left to the lanes of token 0: dD and d dt_bias; ends only: of dt.
  template <class F>
  __device__ __forceinline__ void leave_sums(F&& leave) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int which = 0; which < (kEndsOnly ? 1 : 2); ++which)
#pragma unroll
        for (int other = 4; other < 32; other *= 2) sums_[which][i] += __shfl_xor_sync(~0u, sums_[which][i], other);
      if (valid_ && lane_ < 4) leave(place_.channel0 + channel() + i, sums_[0][i], sums_[kEndsOnly ? 0 : 1][i]);
    }
  }

  // Where a half waits among kGradHalves.
  static __device__ __forceinline__ int slot_of(int turn, int half) {
    return (2 * turn + 1 - half) % kGradHalves<kEndsOnly>;
  }

 private:
  static constexpr int kStep = kEndsOnly ? 1 : -1;

  __device__ __forceinline__ int chunk_of(int turn) const {
    return kEndsOnly ? turn : place_.count - 1 - turn;
  }

  __device__ __forceinline__ int channel_in_pair() const {
    return quad_ * kLaneChannels;
  }
  __device__ __forceinline__ int channel() const {
    return index_ * kPairChannels + channel_in_pair();
  }

  __device__ __forceinline__ void copy(T (&tile)[kScanChunk][kPairChannels], GradRow<const T>& row, int k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = valid_ && place_.has(k, half * kHalf + lane_ / 4);
#pragma unroll
      for (int i = 0; i < kLaneChannels; i += 16 / static_cast<int>(sizeof(T)))
        copy_async<16>(&tile[half * kHalf + lane_ / 4][channel_in_pair()] + i, row.at + half * kHalf * row.position + i,
                       there);
    }
    row.next(kStep);
  }
  static __device__ __forceinline__ void store(const GradRow<T>& row, int half, const float (&x)[8], bool there) {
    if (row.at != nullptr && there) store_floats(row.at + half * kHalf * row.position, x);
  }

  const SelectiveScanParams<T, float>& p_;
  const GradPlace& place_;
  GradBlockShared& block_;
  Pair& pair_;
  int index_, lane_, quad_, asked_ = 0;
  bool valid_;
  GradRow<const T> dt_, grad_y_, z_, u_;
  GradRow<T> du_, ddt_, dz_;
  float sums_[2][8] = {};
};

}  // namespace coluber::cuda
