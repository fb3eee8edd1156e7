// Backward of selective_scan for any shape: `lanes` (a power of two) neighbouring lanes have one channel, K states
// each. Chunk by chunk from the end: the states of its 16 tokens are computed again from the checkpoint and wait in
// shared memory, then the adjoint walks back through them. dB and dC of a token take the place of its state, so that
// the block can add up its channels once a chunk.
#pragma once

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/selective_scan_backward_sums.cuh"

namespace coluber::cuda {

inline constexpr int kAnyThreads = 128;
inline constexpr float kScanLn2 = 0.69314718056f, kScanPi = 3.14159265359f;

// Through the read-only cache: the compiler may move such a load across stores to shared memory.
template <class T>
__device__ __forceinline__ float load_constant(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return __ldg(p);
  } else {
    T out;
    out.bits = __ldg(&p->bits);
    return to_float(out);
  }
}

// A number of the state: real ones leave im alone.
template <int K>
struct AnyStates {
  float re[K], im[K];
};

template <class T, int K, bool kComplex>
struct AnyChannel {
  static constexpr int kNumbers = kComplex ? 2 * K : K;  // of a lane

  const SelectiveScanParams<T, float>& p;
  const SelectiveScanGradParams<T, float>& g;
  std::int64_t c, group_B, group_C;
  int lane, lanes;
  float bias, D;
  AnyStates<K> A;  // re times log2 e, im divided by pi

  __device__ std::int64_t state(int k) const { return lane + static_cast<std::int64_t>(k) * lanes; }

  template <class U>
  __device__ AnyStates<K> load(const U* row, std::int64_t stride) const {
    AnyStates<K> out;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const std::int64_t i = state(k), at = (kComplex ? 2 * i : i) * stride;
      const bool has = row != nullptr && i < p.n;
      out.re[k] = has ? load_constant(row + at) : 0.0f;
      out.im[k] = kComplex && has ? load_constant(row + at + stride) : 0.0f;
    }
    return out;
  }
  __device__ void store(const AnyStates<K>& s, float* row, std::int64_t stride, bool add = false) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const std::int64_t i = state(k), at = (kComplex ? 2 * i : i) * stride;
      if (i >= p.n) continue;
      row[at] = add ? row[at] + s.re[k] : s.re[k];
      if constexpr (kComplex) row[at + stride] = add ? row[at + stride] + s.im[k] : s.im[k];
    }
  }
  __device__ void put(float* slots, int stride, const AnyStates<K>& s) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      slots[(kComplex ? 2 * k : k) * stride] = s.re[k];
      if constexpr (kComplex) slots[(2 * k + 1) * stride] = s.im[k];
    }
  }
  __device__ AnyStates<K> get(const float* slots, int stride) const {
    AnyStates<K> s;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      s.re[k] = slots[(kComplex ? 2 * k : k) * stride];
      s.im[k] = kComplex ? slots[(2 * k + 1) * stride] : 0.0f;
    }
    return s;
  }
  __device__ float raw_step(std::int64_t row, std::int64_t t) const {
    return load_constant(p.dt.ptr(row, t, c)) + bias;
  }

  __device__ __forceinline__ void decay(float dt, int k, float& re, float& im) const {
    re = scan_exp2(dt * A.re[k]);
    im = 0;
    if constexpr (kComplex) {
      float sine, cosine;
      sincospif(dt * A.im[k], &sine, &cosine);
      im = re * sine;
      re *= cosine;
    }
  }
  __device__ void advance(AnyStates<K>& h, float dt, float x, const AnyStates<K>& B) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      float re, im;
      decay(dt, k, re, im);
      const float old = h.re[k];
      h.re[k] = fmaf(re, old, x * B.re[k]);
      if constexpr (kComplex) {
        h.re[k] = fmaf(-im, h.im[k], h.re[k]);
        h.im[k] = fmaf(re, h.im[k], fmaf(im, old, x * B.im[k]));
      }
    }
  }
};

// What one token adds to sums over states, and the rest of its adjoint.
struct AnySums {
  float y = 0, lambda_B = 0, local_A = 0;  // sum C h, sum lambda B, sum lambda a h A
};

// `adjoint`: what later tokens send back on entry, what this one does on return. dB comes out in B, dC in C.
template <class T, int K, bool kComplex>
__device__ __forceinline__ AnySums retreat(const AnyChannel<T, K, kComplex>& channel, float dt, float x, float grad,
                                           bool reset, const AnyStates<K>& previous, const AnyStates<K>& h,
                                           AnyStates<K>& B, AnyStates<K>& C, AnyStates<K>& adjoint, AnyStates<K>& dA) {
  AnySums s;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    float re, im;
    channel.decay(dt, k, re, im);
    if (reset) re = im = 0;
    if constexpr (kComplex) {
      const float lre = fmaf(2 * grad, C.re[k], adjoint.re[k]), lim = fmaf(-2 * grad, C.im[k], adjoint.im[k]);
      s.y += 2 * (C.re[k] * h.re[k] - C.im[k] * h.im[k]);
      s.lambda_B += lre * B.re[k] + lim * B.im[k];
      C.re[k] = 2 * grad * h.re[k];
      C.im[k] = -2 * grad * h.im[k];
      B.re[k] = lre * x;
      B.im[k] = lim * x;
      adjoint.re[k] = lre * re + lim * im;
      adjoint.im[k] = lim * re - lre * im;
      const float local_re = adjoint.re[k] * previous.re[k] + adjoint.im[k] * previous.im[k];
      const float local_im = adjoint.im[k] * previous.re[k] - adjoint.re[k] * previous.im[k];
      dA.re[k] = fmaf(dt, local_re, dA.re[k]);
      dA.im[k] = fmaf(dt, local_im, dA.im[k]);
      s.local_A += kScanLn2 * local_re * channel.A.re[k] + kScanPi * local_im * channel.A.im[k];
    } else {
      const float lambda = fmaf(grad, C.re[k], adjoint.re[k]);
      s.y = fmaf(C.re[k], h.re[k], s.y);
      s.lambda_B = fmaf(lambda, B.re[k], s.lambda_B);
      C.re[k] = grad * h.re[k];
      B.re[k] = lambda * x;
      adjoint.re[k] = lambda * re;
      const float local = adjoint.re[k] * previous.re[k];
      dA.re[k] = fmaf(dt, local, dA.re[k]);
      s.local_A = fmaf(kScanLn2 * local, channel.A.re[k], s.local_A);
    }
  }
  return s;
}

__device__ __forceinline__ float sum_of_lanes(float x, int lanes) {
  for (int other = lanes / 2; other > 0; other /= 2) x += __shfl_xor_sync(~0u, x, other);
  return x;
}

template <int K>
__device__ __forceinline__ void add_states(AnyStates<K>& to, const AnyStates<K>& from) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    to.re[k] += from.re[k];
    to.im[k] += from.im[k];
  }
}

// Sums over the block's channels of one chunk into the slab. numbers: [token][number of a lane][thread].
template <int K, bool kComplex>
__device__ void leave_chunk(const float* numbers, int count, std::int64_t width, int lanes, int channels, float* to,
                            std::int64_t stride) {
  constexpr int kNumbers = kComplex ? 2 * K : K;
  const int w = static_cast<int>(width);
  for (int i = threadIdx.x; i < count * w; i += blockDim.x) {
    const int step = i / w, e = i - step * w, n = kComplex ? e / 2 : e;
    const int number = kComplex ? n / lanes * 2 + e % 2 : n / lanes;
    const float* from = numbers + (step * kNumbers + number) * blockDim.x + n % lanes;
    float sum = 0;
    for (int c = 0; c < channels; ++c) sum += from[c * lanes];
    to[step * stride + e] = sum;
  }
}

template <class T, int K, bool kComplex>
__global__ void __launch_bounds__(kAnyThreads)
    selective_scan_bwd_any(const __grid_constant__ SelectiveScanParams<T, float> p,
                           const __grid_constant__ SelectiveScanGradParams<T, float> g, const float* checkpoints,
                           const ScanSegment segment, const ScanTokenSums sums, int lanes) {
  constexpr int kNumbers = AnyChannel<T, K, kComplex>::kNumbers;
  extern __shared__ float any_shared[];
  const int threads = blockDim.x, channels = threads / lanes;
  float* const states = any_shared;                                    // [token][number][thread], then dC
  float* const inputs = any_shared + kScanChunk * kNumbers * threads;  // dB
  float* const mine = states + threadIdx.x;
  const std::int64_t slot = blockIdx.x / segment.tiles, tile = blockIdx.x - slot * segment.tiles;
  const std::int64_t unit = tile / segment.tiles_of_unit;
  const std::int64_t in_unit = (tile - unit * segment.tiles_of_unit) * channels + threadIdx.x / lanes;
  const bool valid = in_unit < segment.unit;  // the others do the last channel's work, with gradients of zero
  const std::int64_t c = unit * segment.unit + min(in_unit, segment.unit - 1);
  const std::int64_t width = scan_width(p);
  const ScanSequence q = scan_sequence(p, slot);
  AnyChannel<T, K, kComplex> channel{
      p, g, c, c / (p.d / p.B.shape[2]), c / (p.d / p.C.shape[2]), static_cast<int>(threadIdx.x % lanes), lanes};
  channel.bias = p.dt_bias != nullptr ? p.dt_bias[c] : 0.0f;
  channel.D = p.D != nullptr ? p.D[c] : 0.0f;
  channel.A = channel.load(p.A.ptr(c), p.A.strides[1]);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    channel.A.re[k] *= kScanLog2E;
    channel.A.im[k] *= 1 / kScanPi;
  }
  // Steps of this segment. A sequence without tokens belongs to the segment that comes first.
  const std::int64_t begin = max(segment.first * kScanChunk - q.position, std::int64_t{0});
  const std::int64_t end = min(segment.end * kScanChunk - q.position, q.length);
  const bool is_empty = q.length == 0, is_first_launch = segment.end == scan_chunks(p);
  if (is_empty ? !is_first_launch : begin >= end) return;

  AnyStates<K> adjoint, dA{}, dB{}, dC{};
  float dD = 0, dbias = 0;
  if (!is_empty && end < q.length)
    adjoint = channel.load(valid ? segment.carry + (slot * p.d + c) * width : nullptr, 1);
  else
    adjoint =
        channel.load(valid && g.grad_state_out ? g.grad_state_out.ptr(slot, c) : nullptr, g.grad_state_out.strides[2]);

  for (std::int64_t chunk_end = end; chunk_end > begin;) {
    const std::int64_t chunk = (q.position + chunk_end - 1) / kScanChunk;
    const std::int64_t first = max(chunk * kScanChunk - q.position, std::int64_t{0});
    const int count = static_cast<int>(chunk_end - first);
    AnyStates<K> start;
    if (checkpoints != nullptr && chunk * kScanChunk >= q.position)
      start = channel.load(checkpoints + scan_checkpoint_at(p, q.row, chunk, c), 1);
    else
      start = channel.load(p.state_in ? p.state_in.ptr(slot, c) : nullptr, p.state_in.strides[2]);
    AnyStates<K> h = start;
#pragma unroll(K == 1 ? 2 : 1)
    for (int i = 0; i < count; ++i) {
      const std::int64_t t = q.token(first + i);
      const float dt = scan_step_size<T>(channel.raw_step(q.row, t), p.dt_softplus);
      if (p.resets && p.resets(q.row, t) != 0) h = {};
      channel.advance(h, dt, dt * load_constant(p.u.ptr(q.row, t, c)),
                      channel.load(p.B.ptr(q.row, t, channel.group_B), p.B.strides[3]));
      channel.put(mine + i * kNumbers * threads, threads, h);
    }
#pragma unroll(K == 1 ? 2 : 1)
    for (int i = count - 1; i >= 0; --i) {
      const std::int64_t t = q.token(first + i);
      const float raw = channel.raw_step(q.row, t), dt = scan_step_size<T>(raw, p.dt_softplus);
      const float u = load_constant(p.u.ptr(q.row, t, c)), z = p.z ? load_constant(p.z.ptr(q.row, t, c)) : 0.0f;
      const float grad_y = valid ? load_constant(g.grad_y.ptr(q.row, t, c)) : 0.0f;
      const float grad = p.z ? grad_y * silu(z) : grad_y;
      AnyStates<K> B = channel.load(p.B.ptr(q.row, t, channel.group_B), p.B.strides[3]);
      AnyStates<K> C = channel.load(p.C.ptr(q.row, t, channel.group_C), p.C.strides[3]);
      const AnyStates<K> previous = i == 0 ? start : channel.get(mine + (i - 1) * kNumbers * threads, threads);
      const bool reset = p.resets && p.resets(q.row, t) != 0;
      AnySums s = retreat(channel, dt, dt * u, grad, reset, previous,
                          channel.get(mine + i * kNumbers * threads, threads), B, C, adjoint, dA);
      if (p.B_is_constant)
        add_states(dB, B);
      else
        channel.put(inputs + threadIdx.x + i * kNumbers * threads, threads, B);
      if (p.C_is_constant)
        add_states(dC, C);
      else
        channel.put(mine + i * kNumbers * threads, threads, C);
      if (p.z) s.y = sum_of_lanes(s.y, lanes);
      s.lambda_B = sum_of_lanes(s.lambda_B, lanes);
      s.local_A = sum_of_lanes(s.local_A, lanes);
      float grad_dt = fmaf(u, s.lambda_B, s.local_A);
      if (p.dt_softplus) grad_dt *= scan_softplus_slope(raw);
      dD = fmaf(grad, u, dD);
      dbias += grad_dt;
      if (!valid || channel.lane != 0) continue;
      if (g.grad_u) g.grad_u(q.row, t, c) = from_float<T>(fmaf(dt, s.lambda_B, channel.D * grad));
      if (g.grad_dt) g.grad_dt(q.row, t, c) = from_float<T>(grad_dt);
      if (p.z && g.grad_z) g.grad_z(q.row, t, c) = from_float<T>(grad_y * fmaf(channel.D, u, s.y) * silu_slope(z));
    }
    const std::int64_t stride = (p.B_is_constant ? 0 : width) + (p.C_is_constant ? 0 : width);
    float* to = segment.slab + ((tile * p.u.shape[0] + q.row) * segment.positions() + q.position + first -
                                segment.first * kScanChunk) *
                                   stride;
    __syncthreads();
    if (!p.B_is_constant) leave_chunk<K, kComplex>(inputs, count, width, lanes, channels, to, stride);
    if (!p.C_is_constant)
      leave_chunk<K, kComplex>(states, count, width, lanes, channels, to + (p.B_is_constant ? 0 : width), stride);
    __syncthreads();
    chunk_end = first;
  }
  if (!valid) return;
  if (!is_empty && begin > 0)
    channel.store(adjoint, segment.carry + (slot * p.d + c) * width, 1);
  else if (g.grad_state_in)
    channel.store(adjoint, g.grad_state_in.ptr(slot, c), g.grad_state_in.strides[2]);
  float* const to_A = sums.A + slot * (width + 1) * p.d + c;
  channel.store(dA, to_A, p.d, true);
  if (sums.B != nullptr) channel.store(dB, sums.B + slot * width * p.d + c, p.d, true);
  if (sums.C != nullptr) channel.store(dC, sums.C + slot * width * p.d + c, p.d, true);
  if (channel.lane != 0) return;
  to_A[width * p.d] += dD;
  sums.dt_bias[slot * p.d + c] += dbias;
}

}  // namespace coluber::cuda
