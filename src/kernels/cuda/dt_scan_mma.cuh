// dt_scan of kernels/mamba_step.h in 16 bits, on tensor cores.
//
// A warp has tiles of 8 channels, each for all tokens of a group (mamba_step_work.cuh), and the block meets once: when
// the parts of dt, B and C have been added. In a product with W_dt lane 4 g + t has channels 2 t and 2 t + 1 of token
// g; in the scan channel g, and of its states four from 4 t on, every 16. Before its input is there a warp asks for all
// that does not depend on it: its first rows of W_dt and as many states as have room.
//
// Sums do not depend on how tokens and channels are dealt out to blocks, and up to 8 sequences not on their number.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/cuda/mamba_step_work.cuh"
#include "kernels/cuda/selective_scan_common.cuh"
#include "kernels/mamba_step.h"

namespace coluber::cuda {

constexpr int kMostScanWarps = 12;
constexpr int kMaxRank = 256;
constexpr int kMostUnits = 8;
constexpr int kExchangeBytes = kStepTokens * 8 * 12;  // of a warp: dt and dt u, then y, of its tokens and channels

// Arrays of a block in shared memory, offsets in bytes.
struct ScanMemory {
  int dt_in;     // (tokens,padded(u)) T: what W_dt multiplies, zeros past the rank
  int B_C;       // (tokens,2n) f32
  int exchange;  // (warps) kExchangeBytes
  int states;    // (warps,units,kAhead,lanes) 16 bytes: a lane's own
  int bytes;
};

__host__ __device__ inline ScanMemory scan_memory(const MambaStepParams& p, const StepWork& work, int ahead,
                                                  int warps) {
  ScanMemory m{};
  m.B_C = (work.tokens * padded(static_cast<int>(p.u)) * 2 + 15) / 16 * 16;
  m.exchange = m.B_C + work.tokens * 2 * static_cast<int>(p.n) * 4;
  m.states = m.exchange + warps * kExchangeBytes;
  m.bytes = m.states + warps * work.units * ahead * 512;
  return m;
}

template <class T>
__device__ __forceinline__ float2 two_floats(std::uint32_t both) {
  Raw<T, 2> raw;
  *reinterpret_cast<std::uint32_t*>(&raw) = both;
  float values[2];
  widen(raw, values);
  return {values[0], values[1]};
}

// 8 numbers of a row of `count` from `at` on, zeros past its end, where 16 bytes are not aligned.
template <class T>
__device__ __noinline__ uint4 load_unaligned(const T* row, int at, int count) {
  std::uint64_t words[2] = {};
#pragma unroll 1
  for (int i = 0; i < 4; ++i) {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(row) + at + i;
    if (at + i < count) words[0] |= std::uint64_t{bits[0]} << (16 * i);
    if (at + i + 4 < count) words[1] |= std::uint64_t{bits[4]} << (16 * i);
  }
  return {static_cast<unsigned>(words[0]), static_cast<unsigned>(words[0] >> 32), static_cast<unsigned>(words[1]),
          static_cast<unsigned>(words[1] >> 32)};
}

// What a lane needs of 8 channels, counted from the block's first, beside their states. kWide: rows of W_dt are whole
// numbers of 16 bytes.
template <class T, bool kWide>
class ScanTile {
 public:
  uint4 W_dt[kMaxRank / kStepInputs];  // of channel g
  float4 A_log;                        // of channel g, the lane's first four states
  float2 dt_bias, D;                   // of channels 2 t and 2 t + 1
  std::uint32_t u, z;                  // the same, of token g

  __device__ __forceinline__ void ask_for_weights(const MambaStepParams& p, std::int64_t first, int channel) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, rank = static_cast<int>(p.u), n = static_cast<int>(p.n);
    const T* row = static_cast<const T*>(p.dt_proj.data) + (first + channel + g) * p.dt_proj.ld;
#pragma unroll
    for (int j = 0; j < kMaxRank / kStepInputs; ++j) {
      const int at = j * kStepInputs + t * 8;
      W_dt[j] = {};
      if (at < rank) W_dt[j] = kWide ? *reinterpret_cast<const uint4*>(row + at) : load_unaligned(row, at, rank);
    }
    if (t * 4 < n) A_log = *reinterpret_cast<const float4*>(p.A_log + (first + channel + g) * n + t * 4);
    dt_bias = *reinterpret_cast<const float2*>(p.dt_bias + first + channel + t * 2);
    D = *reinterpret_cast<const float2*>(p.D + first + channel + t * 2);
  }

  // From the lane's first two channels of its token.
  __device__ __forceinline__ void ask_for_inputs(const T* u_from, const T* z_from, int channel, bool there) {
    u = there ? *reinterpret_cast<const std::uint32_t*>(u_from + channel) : 0;
    z = there ? *reinterpret_cast<const std::uint32_t*>(z_from + channel) : 0;
  }
};

// x /= rms(x), rounded, by a warp: dt, B and C of Falcon-Mamba.
template <class T, class Number>
__device__ __forceinline__ void norm_part(Number* x, int n, float eps) {
  float sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x % 32; i < n; i += 32) sum = fmaf(to_float(x[i]), to_float(x[i]), sum);
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(n) + eps);
#pragma unroll 1
  for (int i = threadIdx.x % 32; i < n; i += 32)
    x[i] = from_float<Number>(to_float(from_float<T>(to_float(x[i]) * scale)));
}

// dt, B and C of all tokens, between barriers.
template <class T>
__device__ __noinline__ void norm_parts(T* dt_in, float* B_C, int tokens, int rank, int n, float eps) {
  for (int i = threadIdx.x / 32; i < 3 * tokens; i += blockDim.x / 32) {
    if (i % 3 == 0)
      norm_part<T>(dt_in + i / 3 * padded(rank), rank, eps);
    else
      norm_part<T>(B_C + (i / 3 * 2 + i % 3 - 1) * n, n, eps);
  }
  __syncthreads();
}

// Adds kCount parts in order, all of them under way together, of which the first `there` are read.
template <int kCount>
__device__ __forceinline__ void add_slices(float4& sum, const float* from, std::uint32_t stride, int there) {
  float4 part[kCount];
#pragma unroll
  for (int a = 0; a < kCount; ++a)
    part[a] = a < there ? *reinterpret_cast<const float4*>(from + static_cast<std::uint64_t>(stride) * a) : float4{};
#pragma unroll
  for (int a = 0; a < kCount; ++a) sum = {sum.x + part[a].x, sum.y + part[a].y, sum.z + part[a].z, sum.w + part[a].w};
}

// dt, B and C of the group's tokens, rounded: the sums of the slices' parts. Ends with a barrier.
template <class T, int kAhead>
__device__ __forceinline__ void add_parts(const MambaStepParams& p, const StepWork& work, std::int64_t first_row,
                                          int tokens, T* dt_in, float* B_C) {
  const int columns = work.outputs / 4, rank = static_cast<int>(p.u), n = static_cast<int>(p.n);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const auto stride = static_cast<std::uint32_t>(p.b * work.outputs);
  auto put = [&](int token, int column, float sum) {
    const T value = from_float<T>(sum);
    if (column < rank)
      dt_in[token * padded(rank) + column] = value;
    else if (column < rank + 2 * n)
      B_C[token * 2 * n + column - rank] = to_float(value);
  };
  if constexpr (kAhead <= 2) {
    // Few sums, so that all their parts are under way together: a lane adds every eighth slice of four columns, then
    // the lanes of these columns add theirs and are left with one column.
    constexpr int kUnderWay = 8;
    const int groups = (columns + 3) / 4;
#pragma unroll 1
    for (int i = warp; i < tokens * groups; i += warps) {
      const int token = kAhead == 1 ? 0 : i / groups, column = ((kAhead == 1 ? i : i % groups) * 4 + lane % 4) * 4;
      const float* from = work.parts + (first_row + token) * work.outputs + min(column, work.outputs - 4) +
                          static_cast<std::uint64_t>(stride) * (lane / 4);
      float4 sum{};
#pragma unroll 1
      for (int begin = lane / 4; begin < work.slices; begin += 8 * kUnderWay) {
        add_slices<kUnderWay>(sum, from, 8 * stride, (work.slices - begin + 7) / 8);
        from += static_cast<std::uint64_t>(stride) * (8 * kUnderWay);
      }
      const bool upper = lane & 16, odd = lane & 8;
      float2 two = upper ? float2{sum.z, sum.w} : float2{sum.x, sum.y};
      two.x += __shfl_xor_sync(0xffffffffu, upper ? sum.x : sum.z, 16);
      two.y += __shfl_xor_sync(0xffffffffu, upper ? sum.y : sum.w, 16);
      float one = odd ? two.y : two.x;
      one += __shfl_xor_sync(0xffffffffu, odd ? two.x : two.y, 8);
      one += __shfl_xor_sync(0xffffffffu, one, 4);
      if ((lane & 4) == 0) put(token, column + (upper ? 2 : 0) + (odd ? 1 : 0), one);
    }
  } else {
    constexpr int kUnderWay = 16;
#pragma unroll 1
    for (int i = threadIdx.x; i < tokens * columns; i += blockDim.x) {
      const int token = i / columns, column = i % columns * 4;
      const float* from = work.parts + (first_row + token) * work.outputs + column;
      float4 sum{};
#pragma unroll 1
      for (int begin = 0; begin < work.slices; begin += kUnderWay) {
        add_slices<kUnderWay>(sum, from, stride, work.slices - begin);
        from += static_cast<std::uint64_t>(stride) * kUnderWay;
      }
      put(token, column, sum.x);
      put(token, column + 1, sum.y);
      put(token, column + 2, sum.z);
      put(token, column + 3, sum.w);
    }
  }
  __syncthreads();
  if (p.norm_dt_B_C) norm_parts<T>(dt_in, B_C, tokens, rank, n, p.norm_dt_B_C_eps);
}

// Four states a lane of kAhead tokens on their way to shared memory, `units` times. In the order of a warp's channels,
// 8 at a time, of tokens, of states.
template <int kAhead>
class StateStream {
 public:
  // `states`: of the lane's first channel and the group's first token. There are `channels`, `stride` apart.
  __device__ __forceinline__ StateStream(const float* states, std::int64_t token_stride, int n, int tokens, int channel,
                                         int channels, int stride, int units, unsigned ring)
      : states_(states),
        token_stride_(token_stride),
        n_(n),
        tokens_(tokens),
        channel_(channel),
        channels_(channels),
        stride_(stride),
        units_(units),
        ring_(ring + threadIdx.x % 32 * 16) {
#pragma unroll 1
    for (int i = 0; i < units; ++i) ask();
  }

  __device__ __forceinline__ void take(float4 (&h)[kAhead]) {
    if (units_ == 8)
      wait_copies<7>();
    else if (units_ == 4)
      wait_copies<3>();
    else if (units_ == 2)
      wait_copies<1>();
    else
      wait_copies<0>();
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const uint4 v = load_shared(ring_ + (stage_ * kAhead + a) * 512);
      h[a] = {__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
    }
    ask();
  }

 private:
  __device__ __forceinline__ void ask() {
    if (channel_ < channels_) {
      const int state = state_ + static_cast<int>(threadIdx.x) % 4 * 4;
      const float* from = states_ + token_ * token_stride_ + channel_ * n_ + state;
#pragma unroll
      for (int a = 0; a < kAhead; ++a, from += token_stride_)
        copy_16_bytes(ring_ + (stage_ * kAhead + a) * 512, from, state < n_ && token_ + a < tokens_);
      state_ += 16;
      if (state_ >= n_) {
        state_ = 0;
        token_ += kAhead;
      }
      if (token_ >= tokens_) {
        token_ = 0;
        channel_ += stride_;
      }
    }
    commit_copies();
    stage_ = stage_ + 1 == units_ ? 0 : stage_ + 1;
  }

  const float* states_;
  std::int64_t token_stride_;
  int n_, tokens_, channel_, channels_, stride_, units_;
  unsigned ring_;
  int stage_ = 0, token_ = 0, state_ = 0;
};

// h = 2^(dt A) h + dt u B and C h of four states of a token.
__device__ __forceinline__ void scan_states(float& y, float4& h, const float4& A, float dt, float dt_u, const float4& B,
                                            const float4& C) {
  h = {fmaf(scan_exp2(A.x * dt), h.x, dt_u * B.x), fmaf(scan_exp2(A.y * dt), h.y, dt_u * B.y),
       fmaf(scan_exp2(A.z * dt), h.z, dt_u * B.z), fmaf(scan_exp2(A.w * dt), h.w, dt_u * B.w)};
  y = fmaf(h.w, C.w, fmaf(h.z, C.z, fmaf(h.y, C.y, fmaf(h.x, C.x, y))));
}

// Sums over the four lanes of a channel: of token a in lane a, and maybe in others.
template <int kAhead>
__device__ __forceinline__ float sum_of_lanes(const float (&y)[kAhead]) {
  constexpr unsigned kAll = 0xffffffffu;
  if constexpr (kAhead == 1) {
    const float sum = y[0] + __shfl_xor_sync(kAll, y[0], 1);
    return sum + __shfl_xor_sync(kAll, sum, 2);
  } else {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    const float low = (odd ? y[1] : y[0]) + __shfl_xor_sync(kAll, odd ? y[0] : y[1], 1);
    if constexpr (kAhead == 2) {
      return low + __shfl_xor_sync(kAll, low, 2);
    } else {
      const float high = (odd ? y[3] : y[2]) + __shfl_xor_sync(kAll, odd ? y[2] : y[3], 1);
      return (upper ? high : low) + __shfl_xor_sync(kAll, upper ? low : high, 2);
    }
  }
}

// A in powers of 2 of four states, from their A_log.
__device__ __forceinline__ float4 decay_rates(const float4& A_log) {
  auto rate = [](float x) { return -kScanLog2E * scan_exp2(x * kScanLog2E); };
  return {rate(A_log.x), rate(A_log.y), rate(A_log.z), rate(A_log.w)};
}

// A block's tiles begin at tile blockIdx.x work.tiles.
template <class T, int kAhead, bool kWide>
__global__ void __launch_bounds__(kMostScanWarps * 32) dt_scan_mma(MambaStepParams p, StepWork work) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warps = blockDim.x / 32;
  const int rank = static_cast<int>(p.u), n = static_cast<int>(p.n);
  const ScanMemory memory = scan_memory(p, work, kAhead, warps);
  const std::int64_t first = std::int64_t{blockIdx.x} * work.tiles * 8;
  const std::int64_t first_row = std::int64_t{blockIdx.y} * work.tokens;
  const int channels = static_cast<int>(min(std::int64_t{work.tiles} * 8, p.d - first)), stride = warps * 8;
  const int tokens = kAhead == 1 ? 1 : static_cast<int>(min(std::int64_t{work.tokens}, p.b - first_row));
  T* dt_in = reinterpret_cast<T*>(shared + memory.dt_in);
  float* B_C = reinterpret_cast<float*>(shared + memory.B_C);
  float2* steps = reinterpret_cast<float2*>(shared + memory.exchange + warp * kExchangeBytes);  // (8,8): dt, dt u
  float* outputs = reinterpret_cast<float*>(steps + kStepTokens * 8);                           // (8,8): C h
  float* states = p.ssm_state + (first_row * p.d + first + g) * n;
  const std::int64_t token_stride = p.d * n, at = (first_row + g) * p.d + first + t * 2;
  const T* u_from = static_cast<const T*>(work.channels) + at;
  const T* z_from = static_cast<const T*>(p.in_proj.y.data) + at + (first_row + g + 1) * p.d;

  int channel = warp * 8;
  ScanTile<T, kWide> tile;
  if (channel < channels) tile.ask_for_weights(p, first, channel);
  StateStream<kAhead> stream(states, token_stride, n, tokens, channel, channels, stride, work.units,
                             shared_address(shared) + memory.states + warp * work.units * kAhead * 512);
  if (channels > stride) {
    ask_for(static_cast<const T*>(p.dt_proj.data) + first * p.dt_proj.ld, channels * p.dt_proj.ld * 2);
    ask_for(p.A_log + first * n, channels * n * 4);
  }
  for (int token = warp; token < work.tokens; token += warps)
    for (int i = rank + lane; i < padded(rank); i += 32) dt_in[token * padded(rank) + i] = T{};
  wait_for_inputs();
  if (channel < channels) tile.ask_for_inputs(u_from, z_from, channel, g < tokens);
  add_parts<T, kAhead>(p, work, first_row, tokens, dt_in, B_C);

#pragma unroll 1
  for (; channel < channels; channel += stride) {
    float sum[4] = {};
#pragma unroll
    for (int j = 0; j < kMaxRank / kStepInputs; ++j) {
      if (j * kStepInputs >= rank) break;
      multiply_block<T>(sum, input_of(dt_in, padded(rank), tokens, j * kStepInputs + t * 8), uint4{}, tile.W_dt[j]);
    }
    const float2 u = two_floats<T>(tile.u), z = two_floats<T>(tile.z);
    const float2 dt = {scan_softplus(to_float(from_float<T>(sum[0])) + tile.dt_bias.x),
                       scan_softplus(to_float(from_float<T>(sum[1])) + tile.dt_bias.y)};
    const float2 skip = {tile.D.x * u.x, tile.D.y * u.y}, gate = {silu(z.x), silu(z.y)};
    const float4 first_A = decay_rates(tile.A_log);
    *reinterpret_cast<float4*>(steps + g * 8 + t * 2) = {dt.x, dt.x * u.x, dt.y, dt.y * u.y};
    if (channel + stride < channels) {
      tile.ask_for_weights(p, first, channel + stride);
      tile.ask_for_inputs(u_from, z_from, channel + stride, g < tokens);
    }
    __syncwarp();
#pragma unroll 1
    for (int token0 = 0; token0 < tokens; token0 += kAhead) {
      float y[kAhead] = {};
#pragma unroll 1
      for (int state = t * 4; state - t * 4 < n; state += 16) {
        float4 h[kAhead];
        stream.take(h);
        if (state >= n) continue;
        float4 A = first_A;
        if (state >= 16) A = decay_rates(*reinterpret_cast<const float4*>(p.A_log + (first + channel + g) * n + state));
        float* to = states + token0 * token_stride + channel * n + state;
#pragma unroll
        for (int a = 0; a < kAhead; ++a, to += token_stride) {
          const int token = min(token0 + a, tokens - 1);
          const float2 step = steps[token * 8 + g];
          const float* B = B_C + token * 2 * n + state;
          scan_states(y[a], h[a], A, step.x, step.y, *reinterpret_cast<const float4*>(B),
                      *reinterpret_cast<const float4*>(B + n));
          if (token0 + a < tokens) *reinterpret_cast<float4*>(to) = h[a];
        }
      }
      const float sum_of_states = sum_of_lanes<kAhead>(y);
      if (t < kAhead) outputs[(token0 + t) * 8 + g] = sum_of_states;
    }
    __syncwarp();
    const float2 y = *reinterpret_cast<const float2*>(outputs + g * 8 + t * 2);
    if (g < tokens)
      *reinterpret_cast<std::uint32_t*>(static_cast<T*>(p.y) + at + channel) =
          packed<T>((y.x + skip.x) * gate.x, (y.y + skip.y) * gate.y);
    __syncwarp();
  }
}

}  // namespace coluber::cuda
