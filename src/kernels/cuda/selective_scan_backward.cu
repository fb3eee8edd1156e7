// The scan backward. A block has a few channels of one sequence and goes through its chunks of kScanChunk tokens from
// the last to the first. From a chunk's checkpoint it computes the states again, kSub tokens at a time, which stay in
// registers with their decays while the adjoint (reference/selective_scan.h) walks back over them.
//
// dB and dC are sums over channels: within a warp by shuffles that halve, among warps in shared memory, and among
// blocks by one more kernel over slabs in device memory. dA, dD, ddt_bias and the gradients of constant B and C are
// sums over tokens: in registers, then over sequences and splits in their order. No atomics: the same bits on every
// run.
//
// Where sequences x channels do not fill the device, a length is cut into splits; a first pass finds what each split
// makes of an adjoint that was zero behind it and by what it multiplies one, and a small kernel carries adjoints
// forward.
#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/selective_scan_common.cuh"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr float kLn2 = 0.69314718056f;
constexpr std::int64_t kSlabBytes = std::int64_t{512} << 20;  // of dB and dC parts, at most about

template <bool kComplex>
struct Num {
  float re = 0, im = 0;
};
template <>
struct Num<false> {
  float re = 0;
};

template <bool C>
__device__ __forceinline__ Num<C> load_num(const float* p) {
  Num<C> x;
  x.re = p[0];
  if constexpr (C) x.im = p[1];
  return x;
}
template <bool C>
__device__ __forceinline__ void store_num(float* p, Num<C> x) {
  p[0] = x.re;
  if constexpr (C) p[1] = x.im;
}
// a b + c
template <bool C>
__device__ __forceinline__ Num<C> mad(Num<C> a, Num<C> b, Num<C> c) {
  if constexpr (C) {
    c.re = fmaf(a.re, b.re, fmaf(-a.im, b.im, c.re));
    c.im = fmaf(a.re, b.im, fmaf(a.im, b.re, c.im));
  } else {
    c.re = fmaf(a.re, b.re, c.re);
  }
  return c;
}
template <bool C>
__device__ __forceinline__ Num<C> times(float s, Num<C> x) {
  x.re *= s;
  if constexpr (C) x.im *= s;
  return x;
}
template <bool C>
__device__ __forceinline__ Num<C> conj(Num<C> x) {
  if constexpr (C) x.im = -x.im;
  return x;
}
template <bool C>
__device__ __forceinline__ Num<C> plus(Num<C> a, Num<C> b) {
  a.re += b.re;
  if constexpr (C) a.im += b.im;
  return a;
}
// Re(a conj(b))
template <bool C>
__device__ __forceinline__ float dot(Num<C> a, Num<C> b) {
  if constexpr (C)
    return fmaf(a.re, b.re, a.im * b.im);
  else
    return a.re * b.re;
}
template <bool C>
__device__ __forceinline__ float output_term(Num<C> c, Num<C> h) {
  if constexpr (C)
    return 2.0f * fmaf(c.re, h.re, -c.im * h.im);
  else
    return c.re * h.re;
}
// g x, or 2 g conj(x)
template <bool C>
__device__ __forceinline__ Num<C> output_grad(float g, Num<C> x) {
  return times(C ? 2.0f * g : g, conj(x));
}
// exp(dt A); A's real part is times log2 e.
template <bool C>
__device__ __forceinline__ Num<C> decay_of(float dt, Num<C> A) {
  Num<C> a;
  a.re = scan_exp2(dt * A.re);
  if constexpr (C) {
    float sine, cosine;
    sincosf(dt * A.im, &sine, &cosine);
    a.im = a.re * sine;
    a.re *= cosine;
  }
  return a;
}

struct BackwardParams {
  const float* checkpoints = nullptr;
  std::int64_t splits = 1, split_chunks = 0;  // chunks of a split; one split takes all
  std::int64_t groups = 1;                    // of channels that share both B and C
  std::int64_t super_blocks = 1;              // blocks that share the channels of a group of B and C
  float* slab = nullptr;                      // (groups, super_blocks, b, l, 2 n e)
  float* adjoints = nullptr;                  // (slot,split,d,n e): first pass: what a split makes; then what enters it
  float* decays = nullptr;                    // (slot,split,d,n e)
  float *A = nullptr, *B = nullptr, *C = nullptr;  // (slot,split,d,n e): parts of dA and of constant dB and dC
  float *D = nullptr, *dt_bias = nullptr;          // (slot,split,d)
};

// Sums of V numbers over G neighbouring groups of `stride` lanes, V a multiple of G: in the end v[0 .. V/G) of group c
// are sums of the numbers [c' V/G, ...), c' the bits of c in the order of the steps.
template <int V, int G>
__device__ __forceinline__ void reduce_scatter(float (&v)[V], int stride, int c) {
  int width = V;
#pragma unroll
  for (int step = G / 2; step > 0; step /= 2) {
    width /= 2;
    const bool upper = (c & step) != 0;
#pragma unroll
    for (int i = 0; i < V / 2; ++i) {
      if (i >= width) continue;
      const float mine = upper ? v[i + width] : v[i], other = upper ? v[i] : v[i + width];
      v[i] = mine + __shfl_xor_sync(0xffffffffu, other, step * stride);
    }
  }
}

template <class T, bool kComplex, int kLanes, int kStates, int kSub, bool kEnds>
__global__ void __launch_bounds__(kThreads)
    selective_scan_bwd_chunks(SelectiveScanParams<T, float> p, SelectiveScanGradParams<T, float> g, BackwardParams w) {
  using N = Num<kComplex>;
  constexpr int kE = kComplex ? 2 : 1, kChannels = kThreads / kLanes, kRow = kLanes * kStates * kE;
  constexpr int kGroups = 32 / kLanes;  // channels of a warp
  constexpr int kValues = 2 * kStates * kE, kKept = kValues / kGroups;
  __shared__ float dt_of[kScanChunk][kChannels], u_of[kScanChunk][kChannels], g_of[kScanChunk][kChannels];
  __shared__ float y_of[kScanChunk][kChannels], sum_B[kScanChunk][kChannels], sum_A[kScanChunk][kChannels];
  __shared__ std::uint8_t reset_at[kScanChunk];
  extern __shared__ __align__(16) float dynamic[];
  float* B_of = dynamic;                    // (kScanChunk,kRow)
  float* C_of = B_of + kScanChunk * kRow;   // (kScanChunk,kRow)
  float* parts = C_of + kScanChunk * kRow;  // (kSub,kWarps,2 kRow)
  const int width = static_cast<int>(p.n) * kE;

  // Group of B and C, and the channels in it that this block has, kChannels at a time.
  const std::int64_t groups_B = p.B_is_constant ? 1 : p.B.shape[2], groups_C = p.C_is_constant ? 1 : p.C.shape[2];
  const std::int64_t per_group = p.d / w.groups;
  const std::int64_t group = blockIdx.x / w.super_blocks, super = blockIdx.x % w.super_blocks;
  const std::int64_t slot = blockIdx.y / w.splits, split = blockIdx.y % w.splits;
  const ScanSequence s = scan_sequence(p, slot);
  const std::int64_t tiles = (per_group + kChannels - 1) / kChannels;
  const std::int64_t first_chunk = s.position / kScanChunk,
                     end_chunk = (s.position + s.length + kScanChunk - 1) / kScanChunk;
  const std::int64_t chunk_begin = w.splits == 1 ? first_chunk : min(first_chunk + split * w.split_chunks, end_chunk);
  const std::int64_t chunk_end = w.splits == 1 ? end_chunk : min(chunk_begin + w.split_chunks, end_chunk);
  const int lane = threadIdx.x % kLanes, c = threadIdx.x / kLanes, warp = threadIdx.x / 32;
  const int in_warp = threadIdx.x % 32 / kLanes;

  for (std::int64_t tile = super; tile < tiles; tile += w.super_blocks) {
    const std::int64_t first = group * per_group + tile * kChannels;
    const int channels = static_cast<int>(min(std::int64_t{kChannels}, per_group - tile * kChannels));
    const bool active = c < channels;
    const std::int64_t channel = first + (active ? c : 0);
    const std::int64_t group_B = p.B_is_constant ? 0 : first / (p.d / groups_B);
    const std::int64_t group_C = p.C_is_constant ? 0 : first / (p.d / groups_C);
    const std::int64_t state_at = (blockIdx.y * p.d + channel) * width;
    N A[kStates], lambda[kStates], grad_A[kStates], const_B[kStates], const_C[kStates], grad_B[kStates],
        grad_C[kStates];
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = (lane * kStates + j) * kE;
      lambda[j] = grad_A[j] = const_B[j] = const_C[j] = grad_B[j] = grad_C[j] = A[j] = N{};
      if (n >= width) continue;
      A[j] = load_num<kComplex>(p.A.ptr(channel) + n);
      A[j].re *= kScanLog2E;
      if (p.B_is_constant) {
        const_B[j].re = to_float(p.B(0, 0, channel, n));
        if constexpr (kComplex) const_B[j].im = to_float(p.B(0, 0, channel, n + 1));
      }
      if (p.C_is_constant) {
        const_C[j].re = to_float(p.C(0, 0, channel, n));
        if constexpr (kComplex) const_C[j].im = to_float(p.C(0, 0, channel, n + 1));
      }
      if constexpr (kEnds) {
        grad_A[j].re = 1;  // the product of decays
      } else if (w.splits > 1) {
        lambda[j] = load_num<kComplex>(w.adjoints + state_at + n);
      } else if (g.grad_state_out) {
        lambda[j] = load_num<kComplex>(g.grad_state_out.ptr(slot, channel) + n * g.grad_state_out.strides[2]);
      }
    }
    const float D = p.D != nullptr ? p.D[channel] : 0.0f;
    float grad_D = 0, grad_dt_bias = 0;

    for (std::int64_t chunk = chunk_end - 1; chunk >= chunk_begin; --chunk) {
      // Steps [begin, begin + count) of the sequence lie in this chunk.
      const std::int64_t begin = max(chunk * kScanChunk - s.position, std::int64_t{0});
      const std::int64_t end = min((chunk + 1) * kScanChunk - s.position, s.length);
      const int count = static_cast<int>(end - begin);
      __syncthreads();
      for (int i = threadIdx.x; i < kScanChunk * kChannels; i += kThreads) {
        const int t = i / kChannels, k = i % kChannels;
        if (t >= count || k >= channels) {
          dt_of[t][k] = u_of[t][k] = g_of[t][k] = 0;
          continue;
        }
        const std::int64_t token = s.token(begin + t), at = first + k;
        const float x = to_float(p.dt(s.row, token, at)) + (p.dt_bias != nullptr ? p.dt_bias[at] : 0.0f);
        dt_of[t][k] = scan_step_size<T>(x, p.dt_softplus);
        u_of[t][k] = to_float(p.u(s.row, token, at));
        float grad = to_float(g.grad_y(s.row, token, at));
        if (p.z) {
          const float z = to_float(p.z(s.row, token, at));
          grad *= z / (1.0f + __expf(-z));
        }
        g_of[t][k] = grad;
      }
      for (int i = threadIdx.x; i < kScanChunk * kRow; i += kThreads) {
        const int t = i / kRow, k = i % kRow;
        const bool there = t < count && k < width;
        const std::int64_t token = t < count ? s.token(begin + t) : 0;
        if (!kEnds && !p.B_is_constant) B_of[i] = there ? to_float(p.B(s.row, token, group_B, k)) : 0.0f;
        if (!p.C_is_constant) C_of[i] = there ? to_float(p.C(s.row, token, group_C, k)) : 0.0f;
      }
      if (threadIdx.x < kScanChunk)
        reset_at[threadIdx.x] =
            p.resets && static_cast<int>(threadIdx.x) < count ? p.resets(s.row, s.token(begin + threadIdx.x)) : 0;
      __syncthreads();
      auto B_at = [&](int t, int j) {
        return p.B_is_constant ? const_B[j] : load_num<kComplex>(B_of + t * kRow + (lane * kStates + j) * kE);
      };
      auto C_at = [&](int t, int j) {
        return p.C_is_constant ? const_C[j] : load_num<kComplex>(C_of + t * kRow + (lane * kStates + j) * kE);
      };
      if constexpr (kEnds) {
        for (int t = count - 1; t >= 0; --t) {
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            const N decay = conj(decay_of(dt_of[t][c], A[j]));
            lambda[j] = mad(plus(lambda[j], output_grad(g_of[t][c], C_at(t, j))), decay, N{});
            grad_A[j] = mad(grad_A[j], decay, N{});
            if (reset_at[t] != 0) lambda[j] = grad_A[j] = N{};
          }
        }
        continue;
      }
      N start[kStates];
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        const int n = (lane * kStates + j) * kE;
        start[j] = N{};
        if (n >= width) continue;
        if (begin > 0)  // the sequence goes on from the chunk before
          start[j] = load_num<kComplex>(w.checkpoints + scan_checkpoint_at(p, s.row, chunk, channel) + n);
        else if (p.state_in)
          start[j] = load_num<kComplex>(p.state_in.ptr(slot, channel) + n * p.state_in.strides[2]);
      }
      for (int sub = (count - 1) / kSub * kSub; sub >= 0; sub -= kSub) {
        N h[kSub + 1][kStates], a[kSub][kStates];
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[0][j] = start[j];
        for (int t = 0; t < sub; ++t) {
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            if (reset_at[t] != 0) h[0][j] = N{};
            h[0][j] = mad(decay_of(dt_of[t][c], A[j]), h[0][j], times(dt_of[t][c] * u_of[t][c], B_at(t, j)));
          }
        }
#pragma unroll
        for (int i = 0; i < kSub; ++i) {  // steps beyond count have dt 0: they change nothing
          const int t = sub + i;
          float y = 0;
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            a[i][j] = reset_at[t] != 0 ? N{} : decay_of(dt_of[t][c], A[j]);
            h[i + 1][j] = mad(a[i][j], h[i][j], times(dt_of[t][c] * u_of[t][c], B_at(t, j)));
            y += output_term(C_at(t, j), h[i + 1][j]);
          }
          if (p.z) {
#pragma unroll
            for (int step = kLanes / 2; step > 0; step /= 2) y += __shfl_xor_sync(0xffffffffu, y, step);
            if (lane == 0) y_of[t][c] = y;
          }
        }
#pragma unroll
        for (int i = kSub - 1; i >= 0; --i) {
          const int t = sub + i;
          if (t >= count) continue;  // the same for the whole block
          const float dt = dt_of[t][c], u = u_of[t][c], grad = active ? g_of[t][c] : 0.0f;
          float to_B = 0, to_A = 0, values[kValues];
#pragma unroll
          for (int j = 0; j < kStates; ++j) {
            const N B = B_at(t, j), C = C_at(t, j);
            lambda[j] = plus(lambda[j], output_grad(grad, C));
            const N dC = output_grad(grad, h[i + 1][j]), dB = times(active ? dt * u : 0.0f, lambda[j]);
            const N local = mad(lambda[j], conj(mad(a[i][j], h[i][j], N{})), N{});
            grad_A[j] = plus(grad_A[j], times(dt, local));
            to_B += dot(lambda[j], B);
            if constexpr (kComplex) {
              N unscaled = A[j];
              unscaled.re *= kLn2;
              to_A += dot(local, unscaled);
            } else {
              to_A = fmaf(local.re, A[j].re, to_A);
            }
            if (p.B_is_constant) grad_B[j] = plus(grad_B[j], dB);
            if (p.C_is_constant) grad_C[j] = plus(grad_C[j], dC);
            values[j * kE] = dB.re;
            values[(kStates + j) * kE] = dC.re;
            if constexpr (kComplex) values[j * kE + 1] = dB.im, values[(kStates + j) * kE + 1] = dC.im;
            lambda[j] = mad(lambda[j], conj(a[i][j]), N{});
          }
#pragma unroll
          for (int step = kLanes / 2; step > 0; step /= 2) {
            to_B += __shfl_xor_sync(0xffffffffu, to_B, step);
            to_A += __shfl_xor_sync(0xffffffffu, to_A, step);
          }
          if (lane == 0) sum_B[t][c] = to_B, sum_A[t][c] = kComplex ? to_A : kLn2 * to_A;
          if (!p.B_is_constant || !p.C_is_constant) {
            reduce_scatter<kValues, kGroups>(values, kLanes, in_warp);
            float* part = parts + (i * kWarps + warp) * 2 * kRow;
#pragma unroll
            for (int k = 0; k < kKept; ++k) {  // values [0, kStates kE) are dB's, the rest dC's
              const int at = in_warp * kKept + k, of_C = at / (kStates * kE), in_lane = at % (kStates * kE);
              part[of_C * kRow + lane * kStates * kE + in_lane] = values[k];
            }
          }
        }
        __syncthreads();
        if (!p.B_is_constant || !p.C_is_constant) {
          for (int k = threadIdx.x; k < kSub * 2 * width; k += kThreads) {
            const int i = k / (2 * width), in = k % (2 * width), t = sub + i;
            if (t >= count) continue;
            const float* part = parts + i * kWarps * 2 * kRow + (in < width ? in : kRow + in - width);
            float sum = part[0];
#pragma unroll
            for (int v = 1; v < kWarps; ++v) sum += part[v * 2 * kRow];
            float* slab =
                w.slab +
                (((group * w.super_blocks + super) * p.u.shape[0] + s.row) * p.u.shape[1] + s.token(begin + t)) * 2 *
                    width +
                in;
            *slab = tile == super ? sum : *slab + sum;
          }
          __syncthreads();
        }
      }
      for (int i = threadIdx.x; i < kScanChunk * kChannels; i += kThreads) {
        const int t = i / kChannels, k = i % kChannels;
        if (t >= count || k >= channels) continue;
        const std::int64_t token = s.token(begin + t), at = first + k;
        const float D_at = p.D != nullptr ? p.D[at] : 0.0f, dt = dt_of[t][k], u = u_of[t][k];
        float grad_dt = fmaf(sum_B[t][k], u, sum_A[t][k]);
        if (p.dt_softplus)
          grad_dt *=
              scan_softplus_slope(to_float(p.dt(s.row, token, at)) + (p.dt_bias != nullptr ? p.dt_bias[at] : 0.0f));
        if (g.grad_u) g.grad_u(s.row, token, at) = from_float<T>(fmaf(dt, sum_B[t][k], D_at * g_of[t][k]));
        if (g.grad_dt) g.grad_dt(s.row, token, at) = from_float<T>(grad_dt);
        if (p.z && g.grad_z) {
          const float z = to_float(p.z(s.row, token, at)), gate = 1.0f / (1.0f + __expf(-z));
          const float y = fmaf(D_at, u, y_of[t][k]);
          g.grad_z(s.row, token, at) =
              from_float<T>(to_float(g.grad_y(s.row, token, at)) * y * gate * (1.0f + z * (1.0f - gate)));
        }
        sum_A[t][k] = grad_dt;  // for the bias
      }
      __syncthreads();
      if (lane == 0) {
        for (int t = 0; t < count; ++t) {
          grad_D = fmaf(g_of[t][c], u_of[t][c], grad_D);
          grad_dt_bias += sum_A[t][c];
        }
      }
    }
    (void)D;
    if (!active) continue;
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = (lane * kStates + j) * kE;
      if (n >= width) continue;
      if constexpr (kEnds) {
        store_num(w.adjoints + state_at + n, lambda[j]);
        store_num(w.decays + state_at + n, grad_A[j]);
      } else {
        store_num(w.A + state_at + n, grad_A[j]);
        if (p.B_is_constant) store_num(w.B + state_at + n, grad_B[j]);
        if (p.C_is_constant) store_num(w.C + state_at + n, grad_C[j]);
        if (g.grad_state_in && split == 0) {
          float* to = g.grad_state_in.ptr(slot, channel) + n * g.grad_state_in.strides[2];
          store_num(to, lambda[j]);
        }
      }
    }
    if (!kEnds && lane == 0) {
      w.D[blockIdx.y * p.d + channel] = grad_D;
      w.dt_bias[blockIdx.y * p.d + channel] = grad_dt_bias;
    }
  }
}

// From the last split to the first: what a split makes becomes the adjoint that enters it.
template <class T, bool kComplex>
__global__ void selective_scan_bwd_carry(SelectiveScanParams<T, float> p, SelectiveScanGradParams<T, float> g,
                                         BackwardParams w) {
  constexpr int kE = kComplex ? 2 : 1;
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x, slot = blockIdx.y;
  if (i >= p.d * p.n) return;
  const std::int64_t channel = i / p.n, n = i % p.n * kE;
  Num<kComplex> lambda;
  if (g.grad_state_out)
    lambda = load_num<kComplex>(g.grad_state_out.ptr(slot, channel) + n * g.grad_state_out.strides[2]);
  for (std::int64_t split = w.splits - 1; split >= 0; --split) {
    const std::int64_t at = ((slot * w.splits + split) * p.d + channel) * p.n * kE + n;
    const Num<kComplex> made = load_num<kComplex>(w.adjoints + at), decay = load_num<kComplex>(w.decays + at);
    store_num(w.adjoints + at, lambda);
    lambda = mad(decay, lambda, made);
  }
}

// y_i = sum over `rows` of x (rows,n), in their order.
template <class T>
__global__ void sum_rows(const float* x, std::int64_t rows, std::int64_t n, T* y) {
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= n) return;
  float sum = 0;
  for (std::int64_t r = 0; r < rows; ++r) sum += x[r * n + i];
  y[i] = from_float<T>(sum);
}

// dB and dC of variable and grouped ones from the slabs. Several groups of the kernel may share one of B or of C.
template <class T>
__global__ void selective_scan_bwd_slabs(SelectiveScanParams<T, float> p, SelectiveScanGradParams<T, float> g,
                                         BackwardParams w) {
  const std::int64_t width = p.is_complex ? 2 * p.n : p.n, tokens = p.u.shape[0] * p.u.shape[1];
  const std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  const bool of_C = blockIdx.y == 1;
  if (of_C ? p.C_is_constant : p.B_is_constant) return;
  const View<T, 4>& to = of_C ? g.grad_C : g.grad_B;
  if (!to) return;
  const std::int64_t own = to.shape[2], share = w.groups / own;
  if (i >= tokens * own * width) return;
  const std::int64_t k = i % width, mine = i / width % own, token = i / width / own;
  float sum = 0;
  for (std::int64_t part = mine * share * w.super_blocks; part < (mine + 1) * share * w.super_blocks; ++part)
    sum += w.slab[(part * tokens + token) * 2 * width + (of_C ? width : 0) + k];
  to(token / p.u.shape[1], token % p.u.shape[1], mine, k) = from_float<T>(sum);
}

unsigned blocks_of(std::int64_t n) {
  return static_cast<unsigned>(divide_up(n, 256));
}

template <class T, bool kComplex, int kLanes, int kStates, int kSub>
void launch(const Stream& stream, const SelectiveScanParams<T, float>& p, const float* checkpoints,
            const SelectiveScanGradParams<T, float>& g) {
  constexpr int kE = kComplex ? 2 : 1, kChannels = kThreads / kLanes, kRow = kLanes * kStates * kE;
  const std::int64_t groups =
      std::lcm(p.B_is_constant ? std::int64_t{1} : p.B.shape[2], p.C_is_constant ? std::int64_t{1} : p.C.shape[2]);
  const std::int64_t tiles = divide_up(p.d / groups, kChannels), width = p.n * kE;
  const std::int64_t slots = scan_slots(p), chunks = scan_chunks(p), tokens = p.u.shape[0] * p.u.shape[1];
  BackwardParams w;
  w.checkpoints = checkpoints;
  w.groups = groups;
  w.super_blocks =
      std::clamp<std::int64_t>(kSlabBytes / std::max<std::int64_t>(groups * tokens * 2 * width * 4, 1), 1, tiles);
  if (p.sequences == nullptr) {
    const std::int64_t blocks = groups * w.super_blocks * slots,
                       full = std::int64_t{6} * multiprocessors(stream.device);
    w.splits =
        std::clamp<std::int64_t>(full / std::max<std::int64_t>(blocks, 1), 1, std::max<std::int64_t>(chunks / 8, 1));
    w.split_chunks = divide_up(chunks, w.splits);
    w.splits = divide_up(chunks, w.split_chunks);
  }
  const std::int64_t rows = slots * w.splits;
  if (rows > 65535) {
    refuse_value(ErrorCode::kUnsupported, "selective_scan", "sequences of a backward on a GPU", "at most 65535",
                 std::to_string(rows));
  }
  Scratch scratch(stream);
  w.slab =
      scratch.allocate<float>(p.B_is_constant && p.C_is_constant ? 1 : groups * w.super_blocks * tokens * 2 * width);
  w.A = scratch.allocate<float>(rows * p.d * width);
  if (p.B_is_constant) w.B = scratch.allocate<float>(rows * p.d * width);
  if (p.C_is_constant) w.C = scratch.allocate<float>(rows * p.d * width);
  w.D = scratch.allocate<float>(rows * p.d);
  w.dt_bias = scratch.allocate<float>(rows * p.d);
  const dim3 grid(static_cast<unsigned>(groups * w.super_blocks), static_cast<unsigned>(rows));
  const std::size_t shared_bytes = sizeof(float) * (2 * kScanChunk * kRow + kSub * kWarps * 2 * kRow);
  auto run = [&](auto kernel) {
    allow_shared_bytes(kernel, shared_bytes);
    kernel<<<grid, kThreads, shared_bytes, handle_of(stream)>>>(p, g, w);
    check_launch("selective_scan_bwd_chunks");
  };
  if (w.splits > 1) {
    w.adjoints = scratch.allocate<float>(rows * p.d * width);
    w.decays = scratch.allocate<float>(rows * p.d * width);
    run(selective_scan_bwd_chunks<T, kComplex, kLanes, kStates, kSub, true>);
    const dim3 carry(blocks_of(p.d * p.n), static_cast<unsigned>(slots));
    selective_scan_bwd_carry<T, kComplex><<<carry, 256, 0, handle_of(stream)>>>(p, g, w);
    check_launch("selective_scan_bwd_carry");
  }
  run(selective_scan_bwd_chunks<T, kComplex, kLanes, kStates, kSub, false>);
  auto sum = [&](const float* parts, std::int64_t n, auto* to) {
    if (to == nullptr) return;
    sum_rows<<<blocks_of(n), 256, 0, handle_of(stream)>>>(parts, rows, n, to);
    check_launch("sum_rows");
  };
  sum(w.A, p.d * width, g.grad_A.data);
  sum(w.D, p.d, g.grad_D);
  sum(w.dt_bias, p.d, g.grad_dt_bias);
  if (p.B_is_constant) sum(w.B, p.d * width, g.grad_B.data);
  if (p.C_is_constant) sum(w.C, p.d * width, g.grad_C.data);
  const std::int64_t most = std::max(p.B_is_constant ? 0 : p.B.shape[2], p.C_is_constant ? 0 : p.C.shape[2]);
  if (most > 0) {
    const dim3 slabs(blocks_of(tokens * most * width), 2);
    selective_scan_bwd_slabs<<<slabs, 256, 0, handle_of(stream)>>>(p, g, w);
    check_launch("selective_scan_bwd_slabs");
  }
}

template <class T, bool kComplex>
void launch_states(const Stream& stream, const SelectiveScanParams<T, float>& p, const float* checkpoints,
                   const SelectiveScanGradParams<T, float>& g) {
  if (p.n <= 16) return launch<T, kComplex, 4, 4, 8>(stream, p, checkpoints, g);
  if (p.n <= 128) return launch<T, kComplex, 32, 4, 8>(stream, p, checkpoints, g);
  launch<T, kComplex, 32, 8, 4>(stream, p, checkpoints, g);
}

}  // namespace

template <class T>
void selective_scan_backward(const Stream& stream, const SelectiveScanParams<T, float>& p, const float* checkpoints,
                             const SelectiveScanGradParams<T, float>& g) {
  if (p.d == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  if (checkpoints == nullptr) {
    float* made = scratch.allocate<float>(selective_scan_checkpoint_elems(stream, p));
    SelectiveScanParams<T, float> again = p;
    again.state_out = {};
    again.y = {scratch.allocate<T>(p.u.shape[0] * p.u.shape[1] * p.d),
               {p.u.shape[0], p.u.shape[1], p.d},
               {p.u.shape[1] * p.d, p.d, 1}};
    selective_scan_forward(stream, again, made);
    checkpoints = made;
  }
  p.is_complex ? launch_states<T, true>(stream, p, checkpoints, g) : launch_states<T, false>(stream, p, checkpoints, g);
}

template void selective_scan_backward(const Stream&, const SelectiveScanParams<float, float>&, const float*,
                                      const SelectiveScanGradParams<float, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<bfloat16, float>&, const float*,
                                      const SelectiveScanGradParams<bfloat16, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<float16, float>&, const float*,
                                      const SelectiveScanGradParams<float16, float>&);

}  // namespace coluber::cuda
