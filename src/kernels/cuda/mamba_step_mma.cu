// A step of a Mamba block up to its last product, for one token of up to 64 sequences in 16 bits
// (kernels/mamba_step.h). Up to 8 sequences conv_x_proj is done where the first product is (conv_step.cuh), over them
// by a kernel of its own. A block of it and of dt_scan has some channels of a group of up to 8 tokens, the rows of a
// tile of a product, so that weights are read once for all of them.
//
// Before its input is there a block asks for all that does not depend on it: columns of W_x, rows of W_dt, A and the
// states. Sums do not depend on how tokens and channels are dealt out to blocks.
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/cuda/mamba_step_mma.h"
#include "kernels/cuda/matmul_stream.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;  // of conv_x_proj
constexpr int kTokens = 8;                             // of a group, at most: half a tile
constexpr int kBlockInputs = 32;                       // of a product: a lane has 16 bytes of them
constexpr int kMaxTaps = 8;
constexpr int kMaxOutputs = 512, kMaxRank = 256;
constexpr int kSlices = 32;  // of the channels in conv_x_proj, more where a slice's W_x would not fit
constexpr int kSliceBytes = 72 << 10;
constexpr int kMaxShare = 512;  // channels of a block of dt_scan, fewer where their W_dt would not fit
constexpr int kShareBytes = 112 << 10;

// How the step is divided, and what is between its kernels.
struct Work {
  int tokens = 0;  // of a group
  int slice = 0;   // channels of a block of conv_x_proj
  int slices = 0;
  int outputs = 0;           // u + 2n rounded up to tiles: columns of parts and their sums
  int share = 0;             // channels of a block of dt_scan
  void* channels = nullptr;  // (b,d): u of the equations, what the convolution gives
  float* parts = nullptr;    // (slices,b,outputs): u W_x^T over some channels
};

// Elements from row to row of a matrix in shared memory: 64 bytes more than a multiple of 128, so that the rows of
// two lanes' loads lie in other banks.
__host__ __device__ inline int padded(int columns) {
  return (columns + 63) / 64 * 64 + 32;
}

__device__ __forceinline__ void ask_for(const void* from, std::int64_t bytes) {
  for (std::int64_t i = threadIdx.x * 128; i < bytes; i += blockDim.x * 128)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(from) + i));
}

// Elements from row to row of W_dt in shared memory: an odd multiple of 64 bytes, for the same reason.
__host__ __device__ inline int rank_stride(int rank) {
  const int blocks = (rank + kBlockInputs - 1) / kBlockInputs;
  return (blocks + 1 - blocks % 2) * kBlockInputs;
}

// 16 bytes of a row of x in shared memory, zeros for lanes without a token.
template <class T>
__device__ __forceinline__ uint4 input_of(const T* x, int stride, int tokens, int at) {
  const int g = threadIdx.x % 32 / 4;
  if (g >= tokens) return {};
  return *reinterpret_cast<const uint4*>(x + g * stride + at);
}

// --- conv_x_proj -----------------------------------------------------------------------------------------------------

constexpr int kConvItems = 2;  // (token, channel) pairs of a thread at a time

// u = silu(conv(x)) of `count` channels of the block's tokens, also in shared memory, zeros up to a whole slice; the
// states move on. Waits for x when weights and states are on their way.
template <class T, bool kOne>
__device__ __forceinline__ void convolve(const MambaStepParams& p, const Work& work, T* u, std::int64_t first_channel,
                                         int count) {
  const int taps = static_cast<int>(p.k), pairs = work.tokens * work.slice;
  for (int begin = 0; begin < pairs; begin += kConvItems * kThreads) {
    float weight[kConvItems][kMaxTaps], before[kConvItems][kMaxTaps - 1], bias[kConvItems], current[kConvItems];
    std::int64_t at[kConvItems], row[kConvItems];
    int to[kConvItems];
    bool there[kConvItems];
#pragma unroll
    for (int i = 0; i < kConvItems; ++i) {
      const int pair = begin + i * kThreads + static_cast<int>(threadIdx.x);
      const int token = kOne ? 0 : pair / work.slice, c = kOne ? pair : pair % work.slice;
      row[i] = std::int64_t{blockIdx.y} * work.tokens + token;
      at[i] = first_channel + c;
      to[i] = token * padded(work.slice) + c;
      there[i] = pair < pairs && row[i] < p.b && c < count;
      bias[i] = there[i] && p.conv_bias != nullptr ? p.conv_bias[at[i]] : 0.0f;
#pragma unroll
      for (int j = 0; j < kMaxTaps; ++j) weight[i][j] = there[i] && j < taps ? p.conv_weight[at[i] * taps + j] : 0.0f;
#pragma unroll
      for (int j = 0; j < kMaxTaps - 1; ++j)
        before[i][j] = there[i] && j < taps - 1 ? p.conv_state[(row[i] * p.d + at[i]) * (taps - 1) + j] : 0.0f;
    }
    if (begin == 0) wait_for_inputs();
#pragma unroll
    for (int i = 0; i < kConvItems; ++i)
      current[i] = there[i] ? to_float(static_cast<const T*>(p.in_proj.y.data)[row[i] * 2 * p.d + at[i]]) : 0.0f;
#pragma unroll
    for (int i = 0; i < kConvItems; ++i) {
      const int pair = begin + i * kThreads + static_cast<int>(threadIdx.x);
      if (pair >= pairs) continue;
      float sum = bias[i], last = 0;
#pragma unroll
      for (int j = 0; j < kMaxTaps - 1; ++j) sum = fmaf(weight[i][j], before[i][j], sum);
#pragma unroll
      for (int j = 0; j < kMaxTaps; ++j) last = j == taps - 1 ? weight[i][j] : last;
      const T channel_u = from_float<T>(silu(fmaf(last, current[i], sum)));
      u[to[i]] = channel_u;
      if (!there[i]) continue;
      static_cast<T*>(work.channels)[row[i] * p.d + at[i]] = channel_u;
      float* state = p.conv_state + (row[i] * p.d + at[i]) * (taps - 1);
#pragma unroll
      for (int j = 1; j < kMaxTaps - 1; ++j) {
        if (j < taps - 1) state[j - 1] = before[i][j];
      }
      if (taps > 1) state[taps - 2] = current[i];
    }
  }
}

// u of a slice of channels, and what they add to dt, B and C. A warp has 8 outputs at a time, their columns of W_x in
// places of its lanes' own.
template <class T, bool kOne>
__global__ void __launch_bounds__(kThreads) conv_x_proj_mma(MambaStepParams p, Work work) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  const int outputs = static_cast<int>(p.x_proj.rows), tiles = (outputs + 7) / 8, blocks = work.slice / kBlockInputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const std::int64_t first_channel = std::int64_t{blockIdx.x} * work.slice;
  const int count = static_cast<int>(min(std::int64_t{work.slice}, p.d - first_channel));
  T* u = reinterpret_cast<T*>(shared + tiles * blocks * 512);
  const unsigned ring = shared_address(shared) + lane * 16;
  for (int tile = warp; tile < tiles; tile += kWarps) {
    const T* W = static_cast<const T*>(p.x_proj.data) + min(tile * 8 + g, outputs - 1) * p.x_proj.ld + first_channel;
    for (int j = 0; j < blocks; ++j) {
      const int at = j * kBlockInputs + t * 8;
      copy_16_bytes(ring + (tile * blocks + j) * 512, W + at, at < count);
    }
  }
  commit_copies();
  convolve<T, kOne>(p, work, u, first_channel, count);
  wait_copies<0>();
  __syncthreads();
  for (int tile = warp; tile < tiles; tile += kWarps) {
    float sum[4] = {};
    for (int j = 0; j < blocks; ++j) {
      const uint4 x = input_of(u, padded(work.slice), work.tokens, j * kBlockInputs + t * 8);
      multiply_block<T>(sum, x, uint4{}, load_shared(ring + (tile * blocks + j) * 512));
    }
    const std::int64_t row = std::int64_t{blockIdx.y} * work.tokens + g;
    if (g >= work.tokens || row >= p.b) continue;
    *reinterpret_cast<float2*>(work.parts + (blockIdx.x * p.b + row) * work.outputs + tile * 8 + t * 2) = {sum[0],
                                                                                                           sum[1]};
  }
}

// --- dt_scan ---------------------------------------------------------------------------------------------------------

// x /= rms(x), rounded, by a warp: dt, B and C of Falcon-Mamba.
template <class T>
__device__ __forceinline__ void norm_part(float* x, int n, float eps) {
  float sum = 0;
  for (int i = threadIdx.x % 32; i < n; i += 32) sum = fmaf(x[i], x[i], sum);
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(n) + eps);
  for (int i = threadIdx.x % 32; i < n; i += 32) x[i] = to_float(from_float<T>(x[i] * scale));
}

// Warps' shares of the slices for one or two tokens a block, so that all loads are under way together; one share for
// more. Sums of a share are added in the order of slices, then shares in theirs.
template <int kThreads, int kAhead>
__host__ __device__ inline int slice_shares(const Work& work) {
  return kAhead > 2 ? 1 : kThreads / (kAhead * work.outputs / 4);
}

// Arrays of a block of dt_scan in shared memory.
struct ScanMemory {
  int dt, u, gate;  // (tokens,share) f32
  int bias, D;      // (share) f32
  int sums, dt_in;  // (tokens,outputs) f32; (tokens,padded(u)) T
  int shares;       // what add_parts adds (slice_shares,tokens,outputs) f32
  int W_dt;         // (share,rank_stride(u)) T
  int bytes;
};

template <int kAhead, int kThreads>
__host__ __device__ inline ScanMemory scan_memory(const MambaStepParams& p, const Work& work) {
  ScanMemory m{};
  auto take = [&](std::int64_t bytes) {
    const int begin = m.bytes;
    m.bytes += static_cast<int>((bytes + 15) / 16 * 16);
    return begin;
  };
  m.dt = take(work.tokens * work.share * 4);
  m.u = take(work.tokens * work.share * 4);
  m.gate = take(work.tokens * work.share * 4);
  m.bias = take(work.share * 4);
  m.D = take(work.share * 4);
  m.sums = take(work.tokens * work.outputs * 4);
  m.dt_in = take(work.tokens * padded(static_cast<int>(p.u)) * 2);
  m.W_dt = take(std::int64_t{work.share} * rank_stride(static_cast<int>(p.u)) * 2);
  if (kAhead <= 2) m.shares = take(slice_shares<kThreads, kAhead>(work) * work.tokens * work.outputs * 4);
  return m;
}

// dt, B and C of the group's tokens, rounded: the slices' parts, four columns a thread.
template <class T, int kAhead, int kThreads>
__device__ __forceinline__ void add_parts(const MambaStepParams& p, const Work& work, float4* shares, float* sums,
                                          T* dt_in) {
  constexpr int kUnderWay = 16;
  const int columns = work.outputs / 4, items = work.tokens * columns, count = slice_shares<kThreads, kAhead>(work);
  const int rank = static_cast<int>(p.u), n = static_cast<int>(p.n), stride = padded(rank);
  auto rounded = [&](int i, const float4& sum) {
    const float4 value = {to_float(from_float<T>(sum.x)), to_float(from_float<T>(sum.y)),
                          to_float(from_float<T>(sum.z)), to_float(from_float<T>(sum.w))};
    *reinterpret_cast<float4*>(sums + i * 4) = value;
    if (p.norm_dt_B_C) return;
    const int column = (kAhead == 1 ? i : i % columns) * 4;
    T* to = dt_in + (kAhead == 1 ? 0 : i / columns * stride) + column;
    if (column < rank) to[0] = from_float<T>(value.x);
    if (column + 1 < rank) to[1] = from_float<T>(value.y);
    if (column + 2 < rank) to[2] = from_float<T>(value.z);
    if (column + 3 < rank) to[3] = from_float<T>(value.w);
  };
  const int share = (work.slices + count - 1) / count;
  for (int j = threadIdx.x; j < items * count; j += kThreads) {
    const int i = j % items, first = j / items * share, end = min(first + share, work.slices);
    const std::int64_t row = min(std::int64_t{blockIdx.y} * work.tokens + (kAhead == 1 ? 0 : i / columns), p.b - 1);
    const float* from = work.parts + row * work.outputs + (kAhead == 1 ? i : i % columns) * 4;
    float4 sum{};
    for (int begin = first; begin < end; begin += kUnderWay) {
      float4 part[kUnderWay];
#pragma unroll
      for (int a = 0; a < kUnderWay; ++a)
        part[a] =
            begin + a < end ? *reinterpret_cast<const float4*>(from + (begin + a) * p.b * work.outputs) : float4{};
#pragma unroll
      for (int a = 0; a < kUnderWay; ++a)
        sum = {sum.x + part[a].x, sum.y + part[a].y, sum.z + part[a].z, sum.w + part[a].w};
    }
    if (count == 1)
      rounded(i, sum);
    else
      shares[j] = sum;
  }
  __syncthreads();
  if (count > 1) {
    for (int i = threadIdx.x; i < items; i += kThreads) {
      float4 sum = shares[i];
      for (int a = 1; a < count; ++a) {
        const float4 v = shares[a * items + i];
        sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
      }
      rounded(i, sum);
    }
    __syncthreads();
  }
  if (!p.norm_dt_B_C) return;
  for (int i = threadIdx.x / 32; i < 3 * work.tokens; i += kThreads / 32)
    norm_part<T>(sums + i / 3 * work.outputs + (i % 3 == 0 ? 0 : rank + (i % 3 - 1) * n), i % 3 == 0 ? rank : n,
                 p.norm_dt_B_C_eps);
  __syncthreads();
  for (int i = threadIdx.x; i < work.tokens * rank; i += kThreads)
    dt_in[i / rank * stride + i % rank] = from_float<T>(sums[i / rank * work.outputs + i % rank]);
  __syncthreads();
}

// `share` rows of W_dt to shared memory, zeros past their ends; 16 bytes at a time where they are so aligned (`wide`).
template <class T, int kThreads>
__device__ __forceinline__ void load_dt_weights(T* to, const MambaStepParams& p, std::int64_t first, int share,
                                                bool wide) {
  const int rank = static_cast<int>(p.u), stride = rank_stride(rank), vectors = stride / 8;
  const T* from = static_cast<const T*>(p.dt_proj.data) + first * p.dt_proj.ld;
  if (wide) {
    for (int i = threadIdx.x; i < share * vectors; i += kThreads) {
      const int row = i / vectors, at = i % vectors * 8;
      copy_16_bytes(shared_address(to + row * stride + at), from + row * p.dt_proj.ld + at, at < rank);
    }
  } else {
    for (int i = threadIdx.x; i < share * stride; i += kThreads) {
      const int row = i / stride, at = i % stride;
      to[i] = at < rank ? from[row * p.dt_proj.ld + at] : T{};
    }
  }
  commit_copies();
}

__device__ __forceinline__ float4 minus_exp(const float4& x) {
  return {-expf(x.x), -expf(x.y), -expf(x.z), -expf(x.w)};
}

// h = exp(dt A) h + dt B u and C h of four states of kAhead tokens.
template <int kAhead>
__device__ __forceinline__ void scan_states(float (&y)[kAhead], float4 (&h)[kAhead], const float4& A,
                                            const float (&dt)[kAhead], const float (&dt_u)[kAhead],
                                            const float* (&B)[kAhead], int n) {
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const float *b = B[i], *c = B[i] + n;
    h[i] = {fmaf(expf(A.x * dt[i]), h[i].x, dt_u[i] * b[0]), fmaf(expf(A.y * dt[i]), h[i].y, dt_u[i] * b[1]),
            fmaf(expf(A.z * dt[i]), h[i].z, dt_u[i] * b[2]), fmaf(expf(A.w * dt[i]), h[i].w, dt_u[i] * b[3])};
    y[i] = fmaf(h[i].w, c[3], fmaf(h[i].z, c[2], fmaf(h[i].y, c[1], fmaf(h[i].x, c[0], y[i]))));
  }
}

// A thread has 4 states at a time of a channel of kAhead tokens; four lanes a channel.
template <class T, int kAhead, int kThreads>
__global__ void __launch_bounds__(kThreads) dt_scan_mma(MambaStepParams p, Work work, bool wide) {
  constexpr int kWarps = kThreads / 32;
  extern __shared__ __align__(128) unsigned char shared[];
  const ScanMemory memory = scan_memory<kAhead, kThreads>(p, work);
  constexpr bool kOne = kAhead == 1;  // token
  let_next_start();
  float *bias_of = reinterpret_cast<float*>(shared + memory.bias), *D_of = reinterpret_cast<float*>(shared + memory.D),
        *dt_of = reinterpret_cast<float*>(shared + memory.dt), *u_of = reinterpret_cast<float*>(shared + memory.u),
        *gate_of = reinterpret_cast<float*>(shared + memory.gate),
        *sums = reinterpret_cast<float*>(shared + memory.sums);
  T* dt_in = reinterpret_cast<T*>(shared + memory.dt_in);
  const int rank = static_cast<int>(p.u), n = static_cast<int>(p.n);
  const std::int64_t first = std::int64_t{blockIdx.x} * work.share, first_row = std::int64_t{blockIdx.y} * work.tokens;
  const int share = static_cast<int>(min(std::int64_t{work.share}, p.d - first));
  const int tokens = static_cast<int>(min(std::int64_t{work.tokens}, p.b - first_row));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  T* W_dt = reinterpret_cast<T*>(shared + memory.W_dt);
  load_dt_weights<T, kThreads>(W_dt, p, first, share, wide);
  // An item is a channel of kAhead tokens, four lanes each; a lane has 4 states of it at a time, every 16.
  constexpr int kItems = kThreads / 4;
  const int items = share * ((tokens + kAhead - 1) / kAhead), my_item = static_cast<int>(threadIdx.x) / 4;
  auto channel_of = [&](int i) { return kOne ? i : i % share; };
  auto token_of = [&](int i) { return kOne ? 0 : i / share * kAhead; };
  float4 next_A{}, next_h[kAhead]{};  // A_log
  auto ask = [&](int i, int j) {
    i = min(i, items - 1);
    if (j >= n) return;
    const int c = channel_of(i), token = token_of(i);
    next_A = *reinterpret_cast<const float4*>(p.A_log + (first + c) * n + j);
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      next_h[a] = *reinterpret_cast<const float4*>(
          p.ssm_state + ((first_row + min(token + a, tokens - 1)) * p.d + first + c) * n + j);
  };
  ask(my_item, t * 4);
  if (items > kItems) ask_for(p.A_log + first * n, share * n * 4);
  for (int c = threadIdx.x; c < share; c += kThreads) {
    bias_of[c] = p.dt_bias[first + c];
    D_of[c] = p.D[first + c];
  }
  for (int i = threadIdx.x; i < work.tokens * padded(rank); i += kThreads) dt_in[i] = T{};  // zeros past the rank
  __syncthreads();
  wait_for_inputs();
  constexpr int kTogether = kOne ? 1 : 8;  // channels of a thread
  for (int i = threadIdx.x; i < tokens * share / kTogether; i += kThreads) {
    const int token = kOne ? 0 : i / (share / kTogether), c = (kOne ? i : i % (share / kTogether)) * kTogether;
    const std::int64_t row = first_row + token, channel = first + c;
    float u[kTogether], z[kTogether];
    load_floats(static_cast<const T*>(work.channels) + row * p.d + channel, u);
    load_floats(static_cast<const T*>(p.in_proj.y.data) + row * 2 * p.d + p.d + channel, z);
#pragma unroll
    for (int j = 0; j < kTogether; ++j) z[j] = silu(z[j]);
    store_shared(u_of + token * share + c, u);
    store_shared(gate_of + token * share + c, z);
  }
  add_parts<T, kAhead, kThreads>(p, work, reinterpret_cast<float4*>(shared + memory.shares), sums, dt_in);
  wait_copies<0>();
  __syncthreads();
  for (int tile = warp; tile * 8 < share; tile += kWarps) {
    const unsigned from = shared_address(W_dt + (tile * 8 + g) * rank_stride(rank) + t * 8);
    float sum[4] = {};
    for (int j = 0; j * kBlockInputs < rank; ++j)
      multiply_block<T>(sum, input_of(dt_in, padded(rank), work.tokens, j * kBlockInputs + t * 8), uint4{},
                        load_shared(from + j * kBlockInputs * 2));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int c = tile * 8 + t * 2 + i;
      if (g >= tokens || c >= share) continue;
      const float dt = to_float(from_float<T>(sum[i])) + bias_of[c];
      dt_of[g * share + c] = dt > 20.0f ? dt : log1pf(expf(dt));
    }
  }
  __syncthreads();
  for (int begin = 0; begin < items; begin += kItems) {
    const int i = min(begin + my_item, items - 1), c = channel_of(i), token0 = token_of(i);
    const bool mine = begin + my_item < items;  // shuffles need every lane
    float y[kAhead] = {}, dt[kAhead], dt_u[kAhead];
    const float* B[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int token = min(token0 + a, tokens - 1);
      dt[a] = dt_of[token * share + c];
      dt_u[a] = dt[a] * u_of[token * share + c];
    }
    for (int j = t * 4; j < n; j += 16) {
      const float4 A = minus_exp(next_A);
      float4 h[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        h[a] = next_h[a];
        B[a] = sums + min(token0 + a, tokens - 1) * work.outputs + rank + j;
      }
      if (j + 16 < n)
        ask(begin + my_item, j + 16);
      else if (begin + kItems < items)
        ask(begin + kItems + my_item, t * 4);
      scan_states<kAhead>(y, h, A, dt, dt_u, B, n);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (mine && token0 + a < tokens)
          *reinterpret_cast<float4*>(p.ssm_state + ((first_row + token0 + a) * p.d + first + c) * n + j) = h[a];
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      y[a] += __shfl_xor_sync(0xffffffffu, y[a], 1);
      y[a] += __shfl_xor_sync(0xffffffffu, y[a], 2);
      const int at = (token0 + a) * share + c;
      if (t == 0 && mine && token0 + a < tokens)
        static_cast<T*>(p.y)[(first_row + token0 + a) * p.d + first + c] =
            from_float<T>(fmaf(D_of[c], u_of[at], y[a]) * gate_of[at]);
    }
  }
}

// conv_x_proj by itself, after norm_linear.
template <class T>
void launch_conv(const Stream& stream, const MambaStepParams& p, const Work& work) {
  const auto bytes = static_cast<std::size_t>(work.outputs / 8 * (work.slice / kBlockInputs) * 512 +
                                              work.tokens * padded(work.slice) * 2);
  const auto conv = work.tokens == 1 ? conv_x_proj_mma<T, true> : conv_x_proj_mma<T, false>;
  allow_shared_bytes(conv, bytes);
  const dim3 grid(static_cast<unsigned>(work.slices), static_cast<unsigned>(divide_up(p.b, work.tokens)));
  launch_dependent(conv, {grid, kThreads, bytes}, stream, p, work);
}

template <class T, int kAhead, int kThreads>
void launch_scan(const Stream& stream, const MambaStepParams& p, const Work& work) {
  const auto bytes = static_cast<std::size_t>(scan_memory<kAhead, kThreads>(p, work).bytes);
  const auto scan = dt_scan_mma<T, kAhead, kThreads>;
  allow_shared_bytes(scan, bytes);
  const bool wide = p.u % 8 == 0 && p.dt_proj.ld % 8 == 0 && is_aligned(p.dt_proj.data, 16);
  const dim3 grid(static_cast<unsigned>(divide_up(p.d, work.share)),
                  static_cast<unsigned>(divide_up(p.b, work.tokens)));
  launch_dependent(scan, {grid, kThreads, bytes}, stream, p, work, wide);
}

template <class T>
void launch(const Stream& stream, const MambaStepParams& p) {
  Work work;
  // Few tokens a group read more weights, many read more parts of the sums.
  work.tokens = static_cast<int>(std::min<std::int64_t>(divide_up(p.b, 4), kTokens));
  work.outputs = static_cast<int>(divide_up(p.x_proj.rows, 8)) * 8;
  // All blocks of dt_scan are there at once.
  const std::int64_t blocks_a_group =
      std::max<std::int64_t>(multiprocessors(stream.device) / divide_up(p.b, work.tokens), 1);
  const std::int64_t most =
      std::min<std::int64_t>(kShareBytes / 2 / rank_stride(static_cast<int>(p.u)) / 8 * 8, kMaxShare);
  work.share = static_cast<int>(std::min<std::int64_t>(divide_up(divide_up(p.d, blocks_a_group), 8) * 8, most));
  Scratch scratch(stream);
  work.channels = scratch.allocate<T>(p.b * p.d);

  ConvXProj conv{p.d, p.k, p.conv_weight, p.conv_bias, p.conv_state, p.x_proj, work.channels};
  work.slices = conv_stream_parts(stream.device, p.in_proj, conv);
  const bool together = work.slices > 0;
  if (!together) {
    const std::int64_t blocks =
        std::min<std::int64_t>(divide_up(p.d, kSlices * kBlockInputs), kSliceBytes / 64 / work.outputs);
    work.slice = static_cast<int>(blocks) * kBlockInputs;
    work.slices = static_cast<int>(divide_up(p.d, work.slice));
  }
  work.parts = scratch.allocate<float>(work.slices * p.b * work.outputs);
  if (together) {
    conv.parts = work.parts;
    norm_conv_stream(stream, p.in_proj, conv);
  } else {
    norm_stream(stream, p.in_proj);
    launch_conv<T>(stream, p, work);
  }
  if (work.tokens == 1) return launch_scan<T, 1, 256>(stream, p, work);
  if (work.tokens == 2) return launch_scan<T, 2, 512>(stream, p, work);
  launch_scan<T, 4, 512>(stream, p, work);
}

}  // namespace

bool takes_mamba_step_mma(const MambaStepParams& p) {
  return p.b >= 1 && p.b <= kMaxMmaRows && dtype_size(p.dtype) == 2 && p.d % 8 == 0 && p.n % 4 == 0 &&
         p.k <= kMaxTaps && p.u <= kMaxRank && p.x_proj.rows <= kMaxOutputs && p.x_proj.dtype == p.dtype &&
         p.dt_proj.dtype == p.dtype && p.x_proj.ld % 8 == 0 && is_aligned(p.x_proj.data, 16);
}

void mamba_step_mma(const Stream& stream, const MambaStepParams& p) {
  if (p.dtype == DType::kBF16) return launch<bfloat16>(stream, p);
  launch<float16>(stream, p);
}

}  // namespace coluber::cuda
