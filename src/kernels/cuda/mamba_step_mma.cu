// What is between the two large products of a Mamba block, for one token of up to 64 sequences in 16 bits
// (kernels/mamba_step.h): conv_x_proj and dt_scan. A block has some channels of a group of up to 8 tokens, the rows of
// a tile of a product, so that weights are read once for all of them.
//
// Before its input is there a block asks for all that does not depend on it: columns of W_x, rows of W_dt, A and the
// states. Sums do not depend on how tokens and channels are dealt out to blocks.
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/cuda/mamba_step_mma.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;  // of conv_x_proj
constexpr int kTokens = 8;                             // of a group, at most: half a tile
constexpr int kBlockInputs = 32;                       // of a product: a lane has 16 bytes of them
constexpr int kMaxTaps = 8;
constexpr int kMaxOutputs = 512, kMaxRank = 256, kRankBlocks = kMaxRank / kBlockInputs;
constexpr int kSlices = 32;  // of the channels in conv_x_proj, more where a slice's W_x would not fit
constexpr int kSliceBytes = 72 << 10;
constexpr int kMaxShare = 512;  // channels of a block of dt_scan

// How the step is divided, and what is between its kernels.
struct Work {
  int tokens = 0;  // of a group
  int slice = 0;   // channels of a block of conv_x_proj
  int slices = 0;
  int share = 0;             // channels of a block of dt_scan
  void* channels = nullptr;  // (b,d): u of the equations, what the convolution gives
  float* parts = nullptr;    // (slices,b,u+2n): u W_x^T over a slice
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
      current[i] = there[i] ? to_float(static_cast<const T*>(p.xz)[row[i] * 2 * p.d + at[i]]) : 0.0f;
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
    float* out = work.parts + (blockIdx.x * p.b + row) * outputs + tile * 8 + t * 2;
    if (tile * 8 + t * 2 < outputs) out[0] = sum[0];
    if (tile * 8 + t * 2 + 1 < outputs) out[1] = sum[1];
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

// Arrays of a block of dt_scan in shared memory.
struct ScanMemory {
  int dt, u, gate;  // (tokens,share) f32
  int bias, D;      // (share) f32
  int sums, dt_in;  // (tokens,u+2n) f32; (tokens,padded(u)) T
  int bytes;
};

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
  m.sums = take(work.tokens * p.x_proj.rows * 4);
  m.dt_in = take(work.tokens * padded(static_cast<int>(p.u)) * 2);
  return m;
}

// dt, B and C of the group's tokens: the slices' parts, added in their order.
template <class T, int kThreads, bool kOne>
__device__ __forceinline__ void add_parts(const MambaStepParams& p, const Work& work, float* sums, T* dt_in) {
  constexpr int kAhead = 32;  // under way together
  const int outputs = static_cast<int>(p.x_proj.rows), rank = static_cast<int>(p.u), n = static_cast<int>(p.n);
  for (int i = threadIdx.x; i < work.tokens * outputs; i += kThreads) {
    const std::int64_t row = min(std::int64_t{blockIdx.y} * work.tokens + (kOne ? 0 : i / outputs), p.b - 1);
    const float* from = work.parts + row * outputs + (kOne ? i : i % outputs);
    float sum = 0;
    for (int begin = 0; begin < work.slices; begin += kAhead) {
      float part[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) part[j] = begin + j < work.slices ? from[(begin + j) * p.b * outputs] : 0.0f;
#pragma unroll
      for (int j = 0; j < kAhead; ++j) sum += part[j];
    }
    sums[i] = to_float(from_float<T>(sum));
  }
  __syncthreads();
  if (p.norm_dt_B_C) {
    for (int i = threadIdx.x / 32; i < 3 * work.tokens; i += kThreads / 32)
      norm_part<T>(sums + i / 3 * outputs + (i % 3 == 0 ? 0 : rank + (i % 3 - 1) * n), i % 3 == 0 ? rank : n,
                   p.norm_dt_B_C_eps);
    __syncthreads();
  }
  const int stride = padded(rank);
  for (int i = threadIdx.x; i < work.tokens * stride; i += kThreads)
    dt_in[i] = kOne ? from_float<T>(i < rank ? sums[i] : 0.0f)
                    : from_float<T>(i % stride < rank ? sums[i / stride * outputs + i % stride] : 0.0f);
  __syncthreads();
}

// 8 rows of W_dt over 32 of its inputs each: 16 bytes a lane, zeros past the end.
template <class T>
__device__ __forceinline__ void load_dt_weights(uint4 (&w)[kRankBlocks], const MambaStepParams& p, std::int64_t channel,
                                                bool wide) {
  const int rank = static_cast<int>(p.u), t = threadIdx.x % 4;
  const T* row = static_cast<const T*>(p.dt_proj.data) + min(channel, p.d - 1) * p.dt_proj.ld;
#pragma unroll
  for (int j = 0; j < kRankBlocks; ++j) {
    const int at = j * kBlockInputs + t * 8;
    w[j] = {};
    if (at >= rank) continue;
    if (wide) {
      w[j] = *reinterpret_cast<const uint4*>(row + at);
      continue;
    }
    Vector<T> v{};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (at + i < rank) v.values[i] = row[at + i];
    }
    w[j] = *reinterpret_cast<const uint4*>(&v);
  }
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
  const ScanMemory memory = scan_memory(p, work);
  constexpr bool kOne = kAhead == 1;  // token
  let_next_start();
  float *bias_of = reinterpret_cast<float*>(shared + memory.bias), *D_of = reinterpret_cast<float*>(shared + memory.D),
        *dt_of = reinterpret_cast<float*>(shared + memory.dt), *u_of = reinterpret_cast<float*>(shared + memory.u),
        *gate_of = reinterpret_cast<float*>(shared + memory.gate),
        *sums = reinterpret_cast<float*>(shared + memory.sums);
  T* dt_in = reinterpret_cast<T*>(shared + memory.dt_in);
  const int rank = static_cast<int>(p.u), n = static_cast<int>(p.n), outputs = static_cast<int>(p.x_proj.rows);
  const std::int64_t first = std::int64_t{blockIdx.x} * work.share, first_row = std::int64_t{blockIdx.y} * work.tokens;
  const int share = static_cast<int>(min(std::int64_t{work.share}, p.d - first));
  const int tokens = static_cast<int>(min(std::int64_t{work.tokens}, p.b - first_row));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  uint4 w[kRankBlocks];
  load_dt_weights<T>(w, p, first + warp * 8 + g, wide);
  // An item is a channel of kAhead tokens.
  const int items = share * ((tokens + kAhead - 1) / kAhead);
  auto channel_of = [&](int i) { return kOne ? i : i % share; };
  auto token_of = [&](int i) { return kOne ? 0 : i / share * kAhead; };
  auto state_at = [&](int c, int token, int j) {
    return p.ssm_state + ((first_row + min(token, tokens - 1)) * p.d + first + c) * n + j;
  };
  float4 first_A{}, first_h[kAhead]{};
  const int first_item = min(static_cast<int>(threadIdx.x) / 4, items - 1);
  if (t * 4 < n) {
    const int c = channel_of(first_item), token = token_of(first_item);
    first_A = *reinterpret_cast<const float4*>(p.A_log + (first + c) * n + t * 4);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) first_h[a] = *reinterpret_cast<const float4*>(state_at(c, token + a, t * 4));
  }
  if (share > kWarps * 8)
    ask_for(static_cast<const T*>(p.dt_proj.data) + first * p.dt_proj.ld, share * p.dt_proj.ld * 2);
  if (items > kThreads / 4) {
    ask_for(p.A_log + first * n, share * n * 4);
    for (int token = 0; token < tokens; ++token)
      ask_for(p.ssm_state + ((first_row + token) * p.d + first) * n, share * n * 4);
  }
  for (int c = threadIdx.x; c < share; c += kThreads) {
    bias_of[c] = p.dt_bias[first + c];
    D_of[c] = p.D[first + c];
  }
  first_A = minus_exp(first_A);
  wait_for_inputs();
#pragma unroll 4
  for (int i = threadIdx.x; i < tokens * share; i += kThreads) {
    const std::int64_t row = first_row + (kOne ? 0 : i / share), channel = first + channel_of(i);
    u_of[i] = to_float(static_cast<const T*>(work.channels)[row * p.d + channel]);
    gate_of[i] = silu(to_float(static_cast<const T*>(p.xz)[row * 2 * p.d + p.d + channel]));
  }
  add_parts<T, kThreads, kOne>(p, work, sums, dt_in);
  for (int tile = warp; tile * 8 < share; tile += kWarps) {
    if (tile != warp) load_dt_weights<T>(w, p, first + tile * 8 + g, wide);
    float sum[4] = {};
#pragma unroll
    for (int j = 0; j < kRankBlocks; ++j) {
      if (j * kBlockInputs >= rank) break;
      multiply_block<T>(sum, input_of(dt_in, padded(rank), work.tokens, j * kBlockInputs + t * 8), uint4{}, w[j]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int c = tile * 8 + t * 2 + i;
      if (g >= tokens || c >= share) continue;
      const float dt = to_float(from_float<T>(sum[i])) + bias_of[c];
      dt_of[g * share + c] = dt > 20.0f ? dt : log1pf(expf(dt));
    }
  }
  __syncthreads();
  for (int begin = 0; begin < items; begin += kThreads / 4) {
    const int i = min(begin + static_cast<int>(threadIdx.x) / 4, items - 1), c = channel_of(i), token0 = token_of(i);
    const bool mine = begin + static_cast<int>(threadIdx.x) / 4 < items;  // shuffles need every lane
    float y[kAhead] = {}, dt[kAhead], dt_u[kAhead];
    const float* B[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int token = min(token0 + a, tokens - 1);
      dt[a] = dt_of[token * share + c];
      dt_u[a] = dt[a] * u_of[token * share + c];
    }
    for (int j = t * 4; j < n; j += 16) {
      float4 h[kAhead];
      const bool loaded = begin == 0 && j < 16;
      const float4 A = loaded ? first_A : minus_exp(*reinterpret_cast<const float4*>(p.A_log + (first + c) * n + j));
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        h[a] = loaded ? first_h[a] : *reinterpret_cast<const float4*>(state_at(c, token0 + a, j));
        B[a] = sums + min(token0 + a, tokens - 1) * outputs + rank + j;
      }
      scan_states<kAhead>(y, h, A, dt, dt_u, B, n);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (mine && token0 + a < tokens) *reinterpret_cast<float4*>(state_at(c, token0 + a, j)) = h[a];
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

template <class T>
void launch(const Stream& stream, const MambaStepParams& p) {
  Work work;
  // Few tokens a group read more weights, many read more parts of the sums.
  work.tokens = static_cast<int>(std::min<std::int64_t>(divide_up(p.b, 4), kTokens));
  const int tiles = static_cast<int>(divide_up(p.x_proj.rows, 8));
  const std::int64_t blocks = std::min<std::int64_t>(divide_up(p.d, kSlices * kBlockInputs), kSliceBytes / 512 / tiles);
  work.slice = static_cast<int>(blocks) * kBlockInputs;
  work.slices = static_cast<int>(divide_up(p.d, work.slice));
  const std::int64_t groups = divide_up(p.b, work.tokens);
  const std::int64_t share = divide_up(divide_up(p.d * groups, multiprocessors(stream.device)), 8) * 8;
  work.share = static_cast<int>(std::min<std::int64_t>(share, kMaxShare));
  Scratch scratch(stream);
  work.channels = scratch.allocate<T>(p.b * p.d);
  work.parts = scratch.allocate<float>(work.slices * p.b * p.x_proj.rows);
  const auto y = static_cast<unsigned>(groups);

  const auto conv_bytes = static_cast<std::size_t>(tiles * blocks * 512 + work.tokens * padded(work.slice) * 2);
  const auto conv = work.tokens == 1 ? conv_x_proj_mma<T, true> : conv_x_proj_mma<T, false>;
  allow_shared_bytes(conv, conv_bytes);
  launch_dependent(conv, {dim3(static_cast<unsigned>(work.slices), y), kThreads, conv_bytes}, stream, p, work);

  const auto scan_bytes = static_cast<std::size_t>(scan_memory(p, work).bytes);
  const bool wide = p.u % 8 == 0 && p.dt_proj.ld % 8 == 0 && is_aligned(p.dt_proj.data, 16);
  auto launch_scan = [&](auto scan, unsigned threads) {
    allow_shared_bytes(scan, scan_bytes);
    const dim3 grid(static_cast<unsigned>(divide_up(p.d, work.share)), y);
    launch_dependent(scan, {grid, threads, scan_bytes}, stream, p, work, wide);
  };
  if (work.tokens == 1) return launch_scan(dt_scan_mma<T, 1, 256>, 256);
  if (work.tokens == 2) return launch_scan(dt_scan_mma<T, 2, 512>, 512);
  launch_scan(dt_scan_mma<T, 4, 512>, 512);
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
