// One token of a Mamba block (kernels/mamba_step.h): norm_linear in f32, and the two kernels in the place of
// mamba_step_mma.cu. What decides their time is the weights, read once, and latency: each kernel asks for weights
// and states, which no kernel near before it writes, before it waits for that one; and loads that do not depend on each
// other are all under way before the first is used.
#include "core/check.h"
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/mamba_step_mma.h"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/mamba_step.h"

namespace coluber::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;

// --- norm_linear -----------------------------------------------------------------------------------------------------

constexpr int kNormTurns = 4, kNormStep = 4 * kThreads;  // a thread has 4 neighbouring channels in each of 4 turns
constexpr int kRowsAtOnce = 2;                           // of which all loads are under way together
constexpr int kOutputs = 2;                              // rows of W a warp: more loads under way than with one

__device__ __forceinline__ float4 load_four(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void store_four(float* p, float4 v) {
  *reinterpret_cast<float4*>(p) = v;
}

// Of kRowsAtOnce rows, over the block. Thread t always sees the same channels: the order does not depend on the rows.
__device__ __forceinline__ void block_sums(float (&sum)[kRowsAtOnce], float (*partial)[kWarps]) {
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const float total = warp_sum(sum[r]);
    if (threadIdx.x % 32 == 0) partial[r][threadIdx.x / 32] = total;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    sum[r] = partial[r][0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum[r] += partial[r][w];
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads) norm_linear_f32(NormLinearParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float partial[2 * (kRows + 1)][kWarps];
  float* normed = reinterpret_cast<float*>(shared);  // (kRows,m)
  const int m = static_cast<int>(p.x.columns);
  std::int64_t first = (std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * kOutputs;
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps * kOutputs;
  GemvF32<kRows, kOutputs> gemv;
  gemv.start(p.weight, first);
  float4 scale[kNormTurns];
#pragma unroll
  for (int j = 0; j < kNormTurns; ++j) {
    const int i = 4 * threadIdx.x + j * kNormStep;
    if (i < m) scale[j] = load_four(p.norm_weight + i);
  }
  let_next_start();
  wait_for_inputs();
#pragma unroll
  for (int begin = 0; begin < kRows; begin += kRowsAtOnce) {
    float4 r_of[kRowsAtOnce][kNormTurns];
    float sum[kRowsAtOnce] = {};
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const std::int64_t row = min(std::int64_t{begin + r}, p.x.rows - 1);
#pragma unroll
      for (int j = 0; j < kNormTurns; ++j) {
        const int i = 4 * threadIdx.x + j * kNormStep;
        float4& v = r_of[r][j];
        v = {0, 0, 0, 0};
        if (i >= m) continue;
        v = load_four(p.residual + row * m + i);
        if (p.x.data != nullptr) {
          const float4 x = load_four(static_cast<const float*>(p.x.data) + row * p.x.ld + i);
          v = {v.x + x.x, v.y + x.y, v.z + x.z, v.w + x.w};
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
      for (int j = 0; j < kNormTurns; ++j) {
        const int i = 4 * threadIdx.x + j * kNormStep;
        const float4 v = r_of[r][j];
        if (i < m && p.residual_out != nullptr && blockIdx.x == 0 && begin + r < p.x.rows)
          store_four(p.residual_out + (begin + r) * m + i, v);
        sum[r] += p.layer_norm ? v.x + v.y + v.z + v.w : v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
    }
    block_sums(sum, &partial[begin]);
    float mean[kRowsAtOnce] = {};
    if (p.layer_norm) {
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        mean[r] = sum[r] / static_cast<float>(m);
        sum[r] = 0;
#pragma unroll
        for (int j = 0; j < kNormTurns; ++j) {
          if (4 * static_cast<int>(threadIdx.x) + j * kNormStep >= m) continue;
          float4& v = r_of[r][j];
          v = {v.x - mean[r], v.y - mean[r], v.z - mean[r], v.w - mean[r]};
          sum[r] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        }
      }
      block_sums(sum, &partial[kRows + 1 + begin]);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (begin + r >= kRows) continue;
      const float factor = 1.0f / sqrtf(sum[r] / static_cast<float>(m) + p.eps);
#pragma unroll
      for (int j = 0; j < kNormTurns; ++j) {
        const int i = 4 * threadIdx.x + j * kNormStep;
        if (i >= m) continue;
        float4 v = r_of[r][j];
        v = {v.x * factor * scale[j].x, v.y * factor * scale[j].y, v.z * factor * scale[j].z,
             v.w * factor * scale[j].w};
        if (p.norm_bias != nullptr) {
          const float4 b = load_four(p.norm_bias + i);
          v = {v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w};
        }
        store_four(normed + (begin + r) * m + i, v);
      }
    }
  }
  __syncthreads();
  for (;;) {  // the next rows of W are on their way while these are multiplied
    const std::int64_t next = first + stride;
    GemvF32<kRows, kOutputs> following;
    if (next < p.weight.rows) following.start(p.weight, next);
    gemv.run(normed, m, m);
    gemv.store(p.y, p.bias, first);
    if (next >= p.weight.rows) break;
    gemv = following;
    first = next;
  }
}

template <int kRows>
void launch_norm_linear(const Stream& stream, const NormLinearParams& p) {
  const auto shared_bytes = static_cast<std::size_t>(kRows * p.x.columns) * sizeof(float);
  const auto kernel = norm_linear_f32<kRows>;
  allow_shared_bytes(kernel, shared_bytes);
  // Every block norms the rows: few blocks, all there at once, that go on with an equal number of turns each.
  const std::int64_t tasks = divide_up(p.weight.rows, kWarps * kOutputs);
  const std::int64_t blocks = divide_up(tasks, divide_up(tasks, 2 * multiprocessors(stream.device)));
  launch_dependent(kernel, {static_cast<unsigned>(blocks), kThreads, shared_bytes}, stream, p);
}

// --- conv_x_proj -----------------------------------------------------------------------------------------------------

constexpr int kMaxRows = 8, kMaxTaps = 8;
constexpr int kLanes = 8;  // of a row of W_x in a slice, 16 bytes each
constexpr int kVector = 4, kSlice = kLanes * kVector;
constexpr int kOutputsPerTurn = kThreads / kLanes;
constexpr int kMaxSlices = 32;  // partial sums that dt_scan adds
constexpr int kMaxOutputs = 512;

// Between the two kernels.
struct Work {
  float* channels = nullptr;  // (b,d): u of the equations, what the convolution gives
  float* dt_B_C = nullptr;    // (slices,b,u+2n): parts of u W_x^T
};

// u of the block's slices of kSlice channels, and what they add to dt, B and C.
template <int kRows>
__global__ void __launch_bounds__(kThreads) conv_x_proj_f32(MambaStepParams p, Work work, int slices_a_block) {
  constexpr int kAhead = 3;
  constexpr int kItems = (kRows * kSlice + kThreads - 1) / kThreads;  // (row, channel) pairs of a thread
  __shared__ __align__(16) float u[kRows][kSlice];
  __shared__ float sums[kRows][kMaxOutputs];
  const int lane = threadIdx.x % kLanes, outputs = static_cast<int>(p.x_proj.rows), taps = static_cast<int>(p.k);
  const int slices = static_cast<int>(p.d) / kSlice;
  const float* W = static_cast<const float*>(p.x_proj.data);
  for (int part = 0; part < slices_a_block; ++part) {
    const int slice = blockIdx.x * slices_a_block + part;
    if (slice >= slices) break;
    const std::int64_t begin = std::int64_t{slice} * kSlice;
    Vector<float> ahead[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int o = threadIdx.x / kLanes + j * kOutputsPerTurn;
      if (o < outputs) ahead[j] = load_vector(W + o * p.x_proj.ld + begin + lane * kVector);
    }
    // kSlice divides kThreads: a thread has one channel, in every kThreads / kSlice-th row.
    const int c = threadIdx.x % kSlice;
    const std::int64_t channel = begin + c;
    float weight[kMaxTaps], before[kItems][kMaxTaps - 1];
#pragma unroll
    for (int j = 0; j < kMaxTaps; ++j) weight[j] = j < taps ? p.conv_weight[channel * taps + j] : 0.0f;
    const float bias = p.conv_bias != nullptr ? p.conv_bias[channel] : 0.0f;
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const int r = threadIdx.x / kSlice + item * (kThreads / kSlice);
#pragma unroll
      for (int j = 0; j < kMaxTaps - 1; ++j)
        before[item][j] = r < p.b && j < taps - 1 ? p.conv_state[(r * p.d + channel) * (taps - 1) + j] : 0.0f;
    }
    if (part == 0) {
      let_next_start();
      wait_for_inputs();
    } else {
      __syncthreads();  // u of the slice before has been read
    }
    float x[kItems];
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const int r = threadIdx.x / kSlice + item * (kThreads / kSlice);
      x[item] = r < p.b ? static_cast<const float*>(p.in_proj.y.data)[r * 2 * p.d + channel] : 0.0f;
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item) {
      const int r = threadIdx.x / kSlice + item * (kThreads / kSlice);
      float sum = bias, current = 0;
#pragma unroll
      for (int j = 0; j < kMaxTaps - 1; ++j) sum = fmaf(weight[j], before[item][j], sum);
#pragma unroll
      for (int j = 0; j < kMaxTaps; ++j) current = j == taps - 1 ? weight[j] : current;
      sum = fmaf(current, x[item], sum);
      const float channel_u = silu(sum);
      if (r < kRows) u[r][c] = channel_u;
      if (r >= p.b) continue;
      float* state = p.conv_state + (r * p.d + channel) * (taps - 1);
#pragma unroll
      for (int j = 1; j < kMaxTaps - 1; ++j) {
        if (j < taps - 1) state[j - 1] = before[item][j];
      }
      if (taps > 1) state[taps - 2] = x[item];
      work.channels[r * p.d + channel] = channel_u;
    }
    __syncthreads();
    auto add = [&](int o, const Vector<float>& w) {
      float sum[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Vector<float> v = load_vector(&u[r][lane * kVector]);
        sum[r] = 0;
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[r] = fmaf(w.values[i], v.values[i], sum[r]);
      }
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], step, kLanes);
      }
      if (lane == 0 && o < outputs) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][o] = part == 0 ? sum[r] : sums[r][o] + sum[r];
      }
    };
    const int turns = (outputs + kOutputsPerTurn - 1) / kOutputsPerTurn;  // the same for all: shuffles need every lane
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (j < turns) add(threadIdx.x / kLanes + j * kOutputsPerTurn, ahead[j]);
    }
    for (int j = kAhead; j < turns; ++j) {
      const int o = threadIdx.x / kLanes + j * kOutputsPerTurn;
      add(o, load_vector(W + min(o, outputs - 1) * p.x_proj.ld + begin + lane * kVector));
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.b * outputs; i += kThreads)
    work.dt_B_C[blockIdx.x * p.b * outputs + i] = sums[i / outputs][i % outputs];
}

// --- dt_scan ---------------------------------------------------------------------------------------------------------

constexpr int kChannels = 32, kScanThreads = kChannels * 4;  // four lanes a channel

__device__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// x /= rms(x), by the whole block: dt, B and C of Falcon-Mamba.
__device__ void norm_part(float* x, int n, float eps) {
  __shared__ float sums[kScanThreads / 32];
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += kScanThreads) sum += x[i] * x[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = sums[0] + sums[1] + sums[2] + sums[3];
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(n) + eps);
  for (int i = threadIdx.x; i < n; i += kScanThreads) x[i] *= scale;
  __syncthreads();
}

// A = -exp(A_log)
__device__ __forceinline__ float next_state(float h, float A_log, float dt, float dt_u_B) {
  return fmaf(expf(-expf(A_log) * dt), h, dt_u_B);
}

__global__ void __launch_bounds__(kScanThreads) dt_scan_f32(MambaStepParams p, Work work, int slices) {
  constexpr int kAhead = 2;
  __shared__ __align__(16) float dt_B_C[kMaxOutputs];
  const int outputs = static_cast<int>(p.x_proj.rows), n = static_cast<int>(p.n), rank = static_cast<int>(p.u);
  const std::int64_t row = blockIdx.y, channel = std::int64_t{blockIdx.x} * kChannels + threadIdx.x / 4;
  const int lane = threadIdx.x % 4;
  const float* weight = static_cast<const float*>(p.dt_proj.data) + channel * p.dt_proj.ld;
  float* state = p.ssm_state + (row * p.d + channel) * n;
  const float* A_log = p.A_log + channel * n;
  const float D = p.D[channel], dt_bias = p.dt_bias[channel];
  const bool wide = rank % kVector == 0;  // rows of W_dt start at multiples of 16 bytes then
  Vector<float> ahead[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    const int i = (lane + 4 * j) * kVector;
    if (wide && i < rank) ahead[j] = load_vector(weight + i);
  }
  float4 first_A{}, first_h{};
  if (lane * 4 < n) {
    first_A = *reinterpret_cast<const float4*>(A_log + lane * 4);
    first_h = *reinterpret_cast<const float4*>(state + lane * 4);
  }
  let_next_start();
  wait_for_inputs();
  const float u = work.channels[row * p.d + channel];
  const float z = static_cast<const float*>(p.in_proj.y.data)[row * 2 * p.d + p.d + channel];
  for (int o = threadIdx.x; o < outputs; o += kScanThreads) {
    float part[kMaxSlices], sum = 0;  // all loads under way, then added in order
#pragma unroll
    for (int s = 0; s < kMaxSlices; ++s) part[s] = s < slices ? work.dt_B_C[(s * p.b + row) * outputs + o] : 0.0f;
#pragma unroll
    for (int s = 0; s < kMaxSlices; ++s) sum += part[s];
    dt_B_C[o] = sum;
  }
  __syncthreads();
  if (p.norm_dt_B_C) {
    norm_part(dt_B_C, rank, p.norm_dt_B_C_eps);
    norm_part(dt_B_C + rank, n, p.norm_dt_B_C_eps);
    norm_part(dt_B_C + rank + n, n, p.norm_dt_B_C_eps);
  }
  float dt = 0;
  if (wide) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int i = (lane + 4 * j) * kVector;
      if (i >= rank) continue;
#pragma unroll
      for (int e = 0; e < kVector; ++e) dt = fmaf(ahead[j].values[e], dt_B_C[i + e], dt);
    }
    for (int i = (lane + 4 * kAhead) * kVector; i < rank; i += 4 * kVector) {
      const Vector<float> w = load_vector(weight + i);
#pragma unroll
      for (int e = 0; e < kVector; ++e) dt = fmaf(w.values[e], dt_B_C[i + e], dt);
    }
  } else {
    for (int j = lane; j < rank; j += 4) dt = fmaf(weight[j], dt_B_C[j], dt);
  }
  dt = quad_sum(dt) + dt_bias;
  dt = dt > 20.0f ? dt : log1pf(expf(dt));
  const float* B = dt_B_C + rank;
  const float* C = B + n;
  const float dt_u = dt * u;
  float y = 0;
  for (int s = lane * 4; s < n; s += 16) {
    const float4 a = s < 16 ? first_A : *reinterpret_cast<const float4*>(A_log + s);
    float4 h = s < 16 ? first_h : *reinterpret_cast<const float4*>(state + s);
    h.x = next_state(h.x, a.x, dt, dt_u * B[s]);
    h.y = next_state(h.y, a.y, dt, dt_u * B[s + 1]);
    h.z = next_state(h.z, a.z, dt, dt_u * B[s + 2]);
    h.w = next_state(h.w, a.w, dt, dt_u * B[s + 3]);
    *reinterpret_cast<float4*>(state + s) = h;
    y = fmaf(h.x, C[s], y);
    y = fmaf(h.y, C[s + 1], y);
    y = fmaf(h.z, C[s + 2], y);
    y = fmaf(h.w, C[s + 3], y);
  }
  y = fmaf(D, u, quad_sum(y));
  if (lane == 0) static_cast<float*>(p.y)[row * p.d + channel] = y * silu(z);
}

int slices_a_block(const MambaStepParams& p) {
  return static_cast<int>(divide_up(p.d / kSlice, kMaxSlices));
}

}  // namespace

bool takes_norm_linear(int device, const NormLinearParams& p) {
  if (dtype_size(p.weight.dtype) == 2)
    return (p.x.data == nullptr || p.x.dtype == p.weight.dtype) && takes_norm_stream(device, p);
  return p.x.rows >= 1 && p.x.rows <= kMaxRows && p.x.columns <= kNormTurns * kNormStep && p.x.columns % 4 == 0 &&
         p.weight.ld % 4 == 0 && is_aligned(p.weight.data, 16) &&
         (p.x.data == nullptr || p.x.dtype == p.weight.dtype) && is_aligned(p.x.data, 16) && is_aligned(p.residual, 16);
}

void norm_linear(const Stream& stream, const NormLinearParams& p) {
  const DeviceScope scope(stream.device);
  if (dtype_size(p.weight.dtype) == 2) return norm_stream(stream, p);
  if (p.x.rows == 1) return launch_norm_linear<1>(stream, p);
  if (p.x.rows == 2) return launch_norm_linear<2>(stream, p);
  if (p.x.rows <= 4) return launch_norm_linear<4>(stream, p);
  launch_norm_linear<kMaxRows>(stream, p);
}

bool takes_mamba_step(int device, const MambaStepParams& p) {
  if (!takes_norm_linear(device, p.in_proj)) return false;
  if (dtype_size(p.dtype) == 2) return takes_mamba_step_mma(p);
  return p.b >= 1 && p.b <= kMaxRows && p.d % kChannels == 0 && p.n % 4 == 0 && p.k <= kMaxTaps &&
         p.x_proj.rows <= kMaxOutputs && p.x_proj.dtype == p.dtype && p.dt_proj.dtype == p.dtype &&
         p.x_proj.ld % 4 == 0 && is_aligned(p.x_proj.data, 16);
}

void mamba_step(const Stream& stream, const MambaStepParams& p) {
  const DeviceScope scope(stream.device);
  if (dtype_size(p.dtype) == 2) return mamba_step_mma(stream, p);
  norm_linear(stream, p.in_proj);
  Scratch scratch(stream);
  const int slices = slices_a_block(p);
  const auto parts = static_cast<unsigned>(divide_up(p.d / kSlice, slices));
  const Work work{scratch.allocate<float>(p.b * p.d), scratch.allocate<float>(parts * p.b * p.x_proj.rows)};
  auto conv = [&](auto kernel) { launch_dependent(kernel, {parts, kThreads}, stream, p, work, slices); };
  if (p.b == 1)
    conv(conv_x_proj_f32<1>);
  else if (p.b == 2)
    conv(conv_x_proj_f32<2>);
  else if (p.b <= 4)
    conv(conv_x_proj_f32<4>);
  else
    conv(conv_x_proj_f32<kMaxRows>);
  const dim3 grid(static_cast<unsigned>(p.d / kChannels), static_cast<unsigned>(p.b));
  launch_dependent(dt_scan_f32, {grid, kScanThreads}, stream, p, work, static_cast<int>(parts));
}

}  // namespace coluber::cuda
