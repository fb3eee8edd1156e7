// causal_conv1d over (b,l,d): every number is read once and written once, and nothing else matters much. 4 taps, as all
// published models have, go through registers; any other number of taps through plain kernels.
//
// A warp has 32 V neighbouring channels and walks kSlice tokens with the last 3 inputs in registers; the 8 warps of a
// block walk 8 neighbouring slices of the same channels, so that the taps are staged once, in shared memory, and
// gradients of the taps are added up there: one partial sum a block. A slice reads 3 tokens of the one before (backward
// also 3 of the next) again, from the L2 cache. Work per element: 11 instructions and 2 exponentials forward, 30 and 2
// backward, a third and a half of the time that its bytes take.
#include "kernels/causal_conv1d.h"
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/partial_sums.cuh"
#include "kernels/cuda/common/pieces.cuh"

namespace coluber::cuda {
namespace {

constexpr int kTaps = 4, kWindow = kTaps - 1;
constexpr int kBlockSlices = 8;  // warps of a block
constexpr int kThreads = kBlockSlices * 32;
constexpr int kBatch = 4;  // tokens whose loads are under way together
constexpr std::int64_t kFewBlocks =
    264;  // two for each of 132 multiprocessors: fewer than that, and slices get shorter
constexpr std::int64_t kPlainTile =
    256;  // tokens whose gradients of the taps are one partial sum, in the plain kernels

#ifndef COLUBER_CONV_FORWARD_CHANNELS
#define COLUBER_CONV_FORWARD_CHANNELS 8
#endif
#ifndef COLUBER_CONV_BACKWARD_CHANNELS
#define COLUBER_CONV_BACKWARD_CHANNELS 4
#endif
// Channels of a thread.
template <class T>
constexpr int kForwardChannels = sizeof(T) == 2 ? COLUBER_CONV_FORWARD_CHANNELS : 4;
template <class T>
constexpr int kBackwardChannels = COLUBER_CONV_BACKWARD_CHANNELS;

// A sequence in processing order: step s is token first + s sign of its row.
struct Sequence {
  std::int64_t slot, row, first, length;
  int sign;

  __device__ std::int64_t token(std::int64_t s) const { return first + s * sign; }
  __device__ std::int64_t step_of(std::int64_t token) const { return (token - first) * sign; }
};

template <class Params>
COLUBER_HD std::int64_t slots_of(const Params& p) {
  return p.sequences != nullptr ? p.num_sequences : p.x.shape[0];
}

template <class Params>
__device__ Sequence sequence_at(const Params& p, std::int64_t slot) {
  SequenceRange q{slot, 0, p.x.shape[1]};
  if (p.sequences != nullptr) q = p.sequences[slot];
  return {slot, q.row, p.reverse ? q.end - 1 : q.begin, q.end - q.begin, p.reverse ? -1 : 1};
}

// The sequence that has a token. Sequences are in the order of rows and tokens and leave no token out.
template <class Params>
__device__ Sequence sequence_of(const Params& p, std::int64_t row, std::int64_t token) {
  if (p.sequences == nullptr) return sequence_at(p, row);
  std::int64_t low = 0, high = p.num_sequences - 1;  // the first whose end is beyond the token
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    const SequenceRange q = p.sequences[middle];
    if (q.row > row || (q.row == row && q.end > token))
      high = middle;
    else
      low = middle + 1;
  }
  return sequence_at(p, low);
}

template <class Params>
__device__ bool is_reset(const Params& p, const Sequence& q, std::int64_t s) {
  return p.resets && s >= 0 && p.resets(q.row, q.token(s)) != 0;
}

// Which V channels and which tokens, in processing order of the whole row, a warp has.
struct Slice {
  std::int64_t row, begin, end, c;
  std::int64_t tile;  // number of the block's tile of tokens among all rows'
};

// Blocks: neighbours have neighbouring channels, then tiles of tokens, then rows.
template <int V>
__device__ Slice slice_of(std::int64_t l, std::int64_t d, std::int64_t slice_tokens) {
  const std::int64_t channel_blocks = (d + 32 * V - 1) / (32 * V);
  const std::int64_t tile_tokens = slice_tokens * kBlockSlices, tiles = (l + tile_tokens - 1) / tile_tokens;
  const std::int64_t tile = blockIdx.x / channel_blocks, channel_block = blockIdx.x - tile * channel_blocks;
  const std::int64_t row = tile / tiles;
  const std::int64_t begin = (tile - row * tiles) * tile_tokens + threadIdx.x / 32 * slice_tokens;
  return {row, begin, min(begin + slice_tokens, l), channel_block * 32 * V + threadIdx.x % 32 * V, tile};
}

// Taps and bias of the block's channels, (taps + 1, 32 V) in shared memory; a thread then has its V channels.
template <int V>
struct Taps {
  float of[kTaps][V], bias[V];

  template <class Params>
  __device__ Taps(const Params& p, float (*staged)[32 * V]) {
    const std::int64_t channel_blocks = (p.d + 32 * V - 1) / (32 * V), first = blockIdx.x % channel_blocks * 32 * V;
    for (int i = threadIdx.x; i < 32 * V; i += kThreads) {
      const bool has = first + i < p.d;
      const float4 w = has ? *reinterpret_cast<const float4*>(p.weight.data + (first + i) * kTaps) : float4{};
      staged[0][i] = w.x;
      staged[1][i] = w.y;
      staged[2][i] = w.z;
      staged[3][i] = w.w;
      staged[kTaps][i] = has && p.bias != nullptr ? p.bias[first + i] : 0.0f;
    }
    __syncthreads();
    const int at = threadIdx.x % 32 * V;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) load_floats(staged[j] + at, of[j]);
    load_floats(staged[kTaps] + at, bias);
  }
};

// The inputs before step s, oldest first; what a reset cuts off is zero. The number that is not cut off is returned.
template <int V, class Params>
__device__ int load_window(const Params& p, const Sequence& q, std::int64_t s, std::int64_t c,
                           float (&window)[kWindow][V]) {
  int live = kWindow;
#pragma unroll
  for (int i = 0; i < kWindow; ++i) {
    const std::int64_t at = s - kWindow + i;
    if (at >= 0) {
      load_floats(p.x.ptr(q.row, q.token(at)) + c, window[i]);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) window[i][k] = p.state_in ? p.state_in(q.slot, c + k, at + kWindow) : 0.0f;
    }
    if (!is_reset(p, q, at)) continue;
    live = kWindow - i;
#pragma unroll
    for (int before = 0; before < i; ++before)
#pragma unroll
      for (int k = 0; k < V; ++k) window[before][k] = 0;
  }
  return live;
}

template <int V>
__device__ __forceinline__ void pre_activation(const Taps<V>& taps, const float (&e)[kWindow + kBatch][V], int i,
                                               float (&a)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) {
    a[k] = taps.bias[k];
#pragma unroll
    for (int j = 0; j < kTaps; ++j) a[k] = fmaf(taps.of[j][k], e[i + j][k], a[k]);
  }
}

// kWhole: kBatch tokens, else `count`.
template <bool kWhole, int V, class T>
__device__ __forceinline__ void load_batch(const T* x, std::int64_t stride, int count, Raw<T, V> (&raw)[kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i)
    if (kWhole || i < count) raw[i] = load_raw<V>(x + i * stride);
}

// kBatch tokens (or `count`) from step s on; e holds the window and then the batch, at the end the next window.
template <bool kWhole, int V, class T>
__device__ __forceinline__ void forward_batch(const CausalConv1dParams<T, float>& p, const Taps<V>& taps,
                                              const Sequence& q, std::int64_t s, int count,
                                              const Raw<T, V> (&raw)[kBatch], float (&e)[kWindow + kBatch][V], T* y,
                                              std::int64_t stride) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    if (!kWhole && i >= count) break;
    if (is_reset(p, q, s + i)) {
#pragma unroll
      for (int before = 0; before < i + kWindow; ++before)
#pragma unroll
        for (int k = 0; k < V; ++k) e[before][k] = 0;
    }
    widen(raw[i], e[i + kWindow]);
    float a[V];
    pre_activation(taps, e, i, a);
    if (p.silu) {
#pragma unroll
      for (int k = 0; k < V; ++k) a[k] = silu(a[k]);
    }
    store_floats(y + i * stride, a);
  }
#pragma unroll
  for (int i = 0; i < kWindow; ++i)
#pragma unroll
    for (int k = 0; k < V; ++k) e[i][k] = e[i + kBatch][k];
}

template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_fwd_slices(const CausalConv1dParams<T, float> p, std::int64_t slice_tokens) {
  __shared__ float staged[kTaps + 1][32 * V];
  const std::int64_t l = p.x.shape[1];
  const Slice slice = slice_of<V>(l, p.d, slice_tokens);
  const Taps<V> taps(p, staged);
  if (slice.c >= p.d) return;
  const std::int64_t x_stride = p.reverse ? -p.x.strides[1] : p.x.strides[1];
  const std::int64_t y_stride = p.reverse ? -p.y.strides[1] : p.y.strides[1];
  for (std::int64_t at = slice.begin; at < slice.end;) {  // one sequence after the other
    const std::int64_t token = p.reverse ? l - 1 - at : at;
    const Sequence q = sequence_of(p, slice.row, token);
    std::int64_t s = q.step_of(token);
    const std::int64_t end = min(q.length, s + slice.end - at);
    at += end - s;
    const T* x = p.x.ptr(slice.row, token) + slice.c;
    T* y = p.y.ptr(slice.row, token) + slice.c;
    float e[kWindow + kBatch][V];
    Raw<T, V> raw[kBatch];
    if (s + kBatch <= end) load_batch<true, V>(x, x_stride, kBatch, raw);
    {
      float window[kWindow][V];
      load_window(p, q, s, slice.c, window);
#pragma unroll
      for (int i = 0; i < kWindow; ++i)
#pragma unroll
        for (int k = 0; k < V; ++k) e[i][k] = window[i][k];
    }
    for (; s + kBatch <= end; s += kBatch) {
      Raw<T, V> next[kBatch];  // under way while this batch is computed
      x += kBatch * x_stride;
      if (s + 2 * kBatch <= end) load_batch<true, V>(x, x_stride, kBatch, next);
      forward_batch<true>(p, taps, q, s, kBatch, raw, e, y, y_stride);
      y += kBatch * y_stride;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) raw[i] = next[i];
    }
    const int rest = static_cast<int>(end - s);
    if (rest > 0) {
      load_batch<false, V>(x, x_stride, rest, raw);
      forward_batch<false>(p, taps, q, s, rest, raw, e, y, y_stride);
    }
  }
}

// What backward carries from token to token.
template <int V>
struct BackwardState {
  float e[kWindow + kBatch][V];  // inputs: the window, then the batch
  float pending[kWindow][V];     // gradients of the window's inputs, from the outputs so far
  float grad_weight[kTaps][V], grad_bias[V];
  int live;  // inputs of the window that no reset has cut off
};

// Tokens from step s on. Gradients of the taps count for steps before `own_end`, gradients of inputs are written for
// steps in [own_begin, own_end).
template <bool kWhole, int V, class T>
__device__ __forceinline__ void backward_batch(const CausalConv1dParams<T, float>& p, const Taps<V>& taps,
                                               const Sequence& q, std::int64_t s, int count, std::int64_t own_begin,
                                               std::int64_t own_end, const Raw<T, V> (&x)[kBatch],
                                               const Raw<T, V> (&grad_y)[kBatch], BackwardState<V>& state, T* grad_x,
                                               std::int64_t stride) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    if (!kWhole && i >= count) break;
    if (is_reset(p, q, s + i)) {
      state.live = 0;
#pragma unroll
      for (int before = 0; before < i + kWindow; ++before)
#pragma unroll
        for (int k = 0; k < V; ++k) state.e[before][k] = 0;
    }
    widen(x[i], state.e[i + kWindow]);
    float g[V];
    widen(grad_y[i], g);
    if (p.silu) {
      float a[V];
      pre_activation(taps, state.e, i, a);
#pragma unroll
      for (int k = 0; k < V; ++k) g[k] *= silu_slope(a[k]);
    }
    if (kWhole || s + i < own_end) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        state.grad_bias[k] += g[k];
#pragma unroll
        for (int j = 0; j < kTaps; ++j)
          state.grad_weight[j][k] = fmaf(g[k], state.e[i + j][k], state.grad_weight[j][k]);
      }
    }
    float done[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      done[k] = state.live >= 3 ? fmaf(g[k], taps.of[0][k], state.pending[0][k]) : state.pending[0][k];
      state.pending[0][k] = state.live >= 2 ? fmaf(g[k], taps.of[1][k], state.pending[1][k]) : state.pending[1][k];
      state.pending[1][k] = state.live >= 1 ? fmaf(g[k], taps.of[2][k], state.pending[2][k]) : state.pending[2][k];
      state.pending[2][k] = g[k] * taps.of[3][k];
    }
    state.live = min(state.live + 1, kWindow);
    if (s + i - kWindow >= own_begin) store_floats(grad_x + (i - kWindow) * stride, done);
  }
#pragma unroll
  for (int i = 0; i < kWindow; ++i)
#pragma unroll
    for (int k = 0; k < V; ++k) state.e[i][k] = state.e[i + kBatch][k];
}

// The sequence has ended: what is pending gets the gradient of state_out and is written.
template <int V, class T>
__device__ __forceinline__ void finish_sequence(const CausalConv1dGradParams<T, float>& g, const Sequence& q,
                                                std::int64_t c, std::int64_t own_begin, std::int64_t own_end,
                                                BackwardState<V>& state, std::int64_t row) {
#pragma unroll
  for (int i = 0; i < kWindow; ++i) {
    const std::int64_t s = q.length - kWindow + i;
    if (s < own_begin || s >= own_end) continue;
    if (g.grad_state_out && state.live >= kWindow - i) {
#pragma unroll
      for (int k = 0; k < V; ++k) state.pending[i][k] += g.grad_state_out(q.slot, c + k, i);
    }
    store_floats(g.grad_x.ptr(row, q.token(s)) + c, state.pending[i]);
  }
}

// partial: (tiles, taps + 1, d).
template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_bwd_slices(const CausalConv1dParams<T, float> p, const CausalConv1dGradParams<T, float> g,
                             std::int64_t slice_tokens, float* partial) {
  __shared__ float staged[kTaps + 1][32 * V];
  __shared__ float sums[kBlockSlices][kTaps + 1][32 * V];
  const std::int64_t l = p.x.shape[1];
  const Slice slice = slice_of<V>(l, p.d, slice_tokens);
  const Taps<V> taps(p, staged);
  const std::int64_t x_stride = p.reverse ? -p.x.strides[1] : p.x.strides[1];
  const std::int64_t y_stride = p.reverse ? -g.grad_y.strides[1] : g.grad_y.strides[1];
  const std::int64_t out_stride = p.reverse ? -g.grad_x.strides[1] : g.grad_x.strides[1];
  BackwardState<V> state{};
  for (std::int64_t at = slice.begin; at < slice.end && slice.c < p.d;) {
    const std::int64_t token = p.reverse ? l - 1 - at : at;
    const Sequence q = sequence_of(p, slice.row, token);
    std::int64_t s = q.step_of(token);
    const std::int64_t own_begin = s, own_end = min(q.length, s + slice.end - at);
    const std::int64_t end = min(q.length, own_end + kWindow);
    at += own_end - own_begin;
    const T* x = p.x.ptr(slice.row, token) + slice.c;
    const T* grad_y = g.grad_y.ptr(slice.row, token) + slice.c;
    T* grad_x = g.grad_x.ptr(slice.row, token) + slice.c;
    Raw<T, V> raw[kBatch], raw_grad[kBatch];
    if (s + kBatch <= own_end) {
      load_batch<true, V>(x, x_stride, kBatch, raw);
      load_batch<true, V>(grad_y, y_stride, kBatch, raw_grad);
    }
    {
      float window[kWindow][V];
      state.live = load_window(p, q, s, slice.c, window);
#pragma unroll
      for (int i = 0; i < kWindow; ++i)
#pragma unroll
        for (int k = 0; k < V; ++k) {
          state.e[i][k] = window[i][k];
          state.pending[i][k] = 0;
        }
    }
    for (; s + kBatch <= own_end; s += kBatch) {
      Raw<T, V> next[kBatch], next_grad[kBatch];
      x += kBatch * x_stride;
      grad_y += kBatch * y_stride;
      if (s + 2 * kBatch <= own_end) {
        load_batch<true, V>(x, x_stride, kBatch, next);
        load_batch<true, V>(grad_y, y_stride, kBatch, next_grad);
      }
      backward_batch<true>(p, taps, q, s, kBatch, own_begin, own_end, raw, raw_grad, state, grad_x, out_stride);
      grad_x += kBatch * out_stride;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        raw[i] = next[i];
        raw_grad[i] = next_grad[i];
      }
    }
    for (; s < end; s += kBatch) {  // the rest, and the next slice's first outputs, which see this slice's last inputs
      const int rest = static_cast<int>(min(end - s, std::int64_t{kBatch}));
      load_batch<false, V>(x, x_stride, rest, raw);
      load_batch<false, V>(grad_y, y_stride, rest, raw_grad);
      backward_batch<false>(p, taps, q, s, rest, own_begin, own_end, raw, raw_grad, state, grad_x, out_stride);
      if (rest < kBatch) break;
      x += kBatch * x_stride;
      grad_y += kBatch * y_stride;
      grad_x += kBatch * out_stride;
    }
    if (end == q.length) finish_sequence(g, q, slice.c, own_begin, own_end, state, slice.row);
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kTaps; ++j) store_floats(&sums[warp][j][lane * V], state.grad_weight[j]);
  store_floats(&sums[warp][kTaps][lane * V], state.grad_bias);
  __syncthreads();
  const std::int64_t first = slice.c - lane * V;
  for (int i = threadIdx.x; i < (kTaps + 1) * 32 * V; i += kThreads) {
    const int j = i / (32 * V), c = i % (32 * V);
    float sum = sums[0][j][c];
    for (int w = 1; w < kBlockSlices; ++w) sum += sums[w][j][c];
    if (first + c < p.d) partial[(slice.tile * (kTaps + 1) + j) * p.d + first + c] = sum;
  }
}

// What follows takes any number of taps and any strides, and computes one number a thread.

// The earliest step of [first, last] that no reset has cut off.
template <class Params>
__device__ std::int64_t first_live(const Params& p, const Sequence& q, std::int64_t first, std::int64_t last) {
  if (p.resets)
    for (std::int64_t s = last; s >= max(first, std::int64_t{0}); --s)
      if (is_reset(p, q, s)) return s;
  return first;
}

template <class Params>
__device__ float input_at(const Params& p, const Sequence& q, std::int64_t c, std::int64_t s) {
  if (s >= 0) return to_float(p.x(q.row, q.token(s), c));
  return p.state_in ? p.state_in(q.slot, c, s + p.k - 1) : 0.0f;
}

template <class Params>
__device__ float pre_activation_at(const Params& p, const Sequence& q, std::int64_t c, std::int64_t s) {
  float sum = p.bias != nullptr ? p.bias[c] : 0.0f;
  for (std::int64_t e = first_live(p, q, s - p.k + 1, s); e <= s; ++e)
    sum = fmaf(p.weight(c, e - s + p.k - 1), input_at(p, q, c, e), sum);
  return sum;
}

template <class T>
__device__ float grad_at(const CausalConv1dParams<T, float>& p, const CausalConv1dGradParams<T, float>& g,
                         const Sequence& q, std::int64_t c, std::int64_t s) {
  const float grad = to_float(g.grad_y(q.row, q.token(s), c));
  return p.silu ? grad * silu_slope(pre_activation_at(p, q, c, s)) : grad;
}

// Thread i of a grid: channel c of token (row, token), channels first.
struct Place {
  std::int64_t row, token, c;
};
template <class Params>
__device__ bool place_of(const Params& p, Place& at) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x, l = p.x.shape[1];
  const std::int64_t tokens = i / p.d;
  at = {tokens / l, tokens % l, i - tokens * p.d};
  return tokens < p.x.shape[0] * l;
}

template <class T>
__global__ void __launch_bounds__(kThreads) causal_conv1d_fwd_plain(const CausalConv1dParams<T, float> p) {
  Place at;
  if (!place_of(p, at)) return;
  const Sequence q = sequence_of(p, at.row, at.token);
  const float a = pre_activation_at(p, q, at.c, q.step_of(at.token));
  p.y(at.row, at.token, at.c) = from_float<T>(p.silu ? silu(a) : a);
}

// state_out, oldest first: it may be state_in, of which a later entry is read. A thread has a channel of a sequence.
template <class T>
__global__ void __launch_bounds__(kThreads) causal_conv1d_fwd_state(const CausalConv1dParams<T, float> p) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x, slot = i / p.d, c = i - slot * p.d;
  if (slot >= slots_of(p)) return;
  const Sequence q = sequence_at(p, slot);
  const std::int64_t first = q.length - p.k + 1, live = first_live(p, q, first, q.length - 1);
  for (std::int64_t s = first; s < q.length; ++s)
    p.state_out(slot, c, s - first) = s < live ? 0.0f : input_at(p, q, c, s);
}

// One token a row: output and state in one launch. A thread has a channel of a row.
template <class T>
__global__ void __launch_bounds__(kThreads) causal_conv1d_step_channels(const CausalConv1dParams<T, float> p) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x, row = i / p.d, c = i - row * p.d;
  if (row >= p.x.shape[0]) return;
  const bool reset = p.resets && p.resets(row, 0) != 0;
  const float x = to_float(p.x(row, 0, c));
  float a = p.bias != nullptr ? p.bias[c] : 0.0f;
  for (std::int64_t j = 0; j < p.k - 1; ++j) {
    const float e = reset || !p.state_in ? 0.0f : p.state_in(row, c, j);
    if (!reset) a = fmaf(p.weight(c, j), e, a);
    if (p.state_out && j > 0) p.state_out(row, c, j - 1) = e;
  }
  a = fmaf(p.weight(c, p.k - 1), x, a);
  if (p.state_out && p.k > 1) p.state_out(row, c, p.k - 2) = x;
  p.y(row, 0, c) = from_float<T>(p.silu ? silu(a) : a);
}

// Gradients of the pre-activations, (b,l,d).
template <class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_bwd_plain_pre(const CausalConv1dParams<T, float> p, const CausalConv1dGradParams<T, float> g,
                                float* grad_pre) {
  Place at;
  if (!place_of(p, at)) return;
  const Sequence q = sequence_of(p, at.row, at.token);
  grad_pre[(at.row * p.x.shape[1] + at.token) * p.d + at.c] = grad_at(p, g, q, at.c, q.step_of(at.token));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_bwd_plain_x(const CausalConv1dParams<T, float> p, const CausalConv1dGradParams<T, float> g,
                              const float* grad_pre) {
  Place at;
  if (!place_of(p, at)) return;
  const Sequence q = sequence_of(p, at.row, at.token);
  const std::int64_t s = q.step_of(at.token);
  float sum = 0;
  std::int64_t t = s;
  for (; t < min(s + p.k, q.length); ++t) {
    if (t > s && is_reset(p, q, t)) break;
    sum = fmaf(p.weight(at.c, s - t + p.k - 1), grad_pre[(at.row * p.x.shape[1] + q.token(t)) * p.d + at.c], sum);
  }
  const std::int64_t first = q.length - p.k + 1;  // of state_out
  if (g.grad_state_out && t == q.length && s >= first) sum += g.grad_state_out(q.slot, at.c, s - first);
  g.grad_x(at.row, at.token, at.c) = from_float<T>(sum);
}

// Tap blockIdx.y (or the bias, after the last) of a tile of tokens; a thread has a channel. partial: (tiles, k + 1, d).
template <class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_bwd_plain_taps(const CausalConv1dParams<T, float> p, const float* grad_pre, float* partial) {
  const std::int64_t channel_blocks = (p.d + kThreads - 1) / kThreads, tile = blockIdx.x / channel_blocks;
  const std::int64_t c = (blockIdx.x - tile * channel_blocks) * kThreads + threadIdx.x, j = blockIdx.y;
  const std::int64_t l = p.x.shape[1], tiles = (l + kPlainTile - 1) / kPlainTile, row = tile / tiles;
  if (c >= p.d) return;
  const std::int64_t begin = (tile - row * tiles) * kPlainTile, end = min(begin + kPlainTile, l);
  float sum = 0;
  for (std::int64_t token = begin; token < end; ++token) {
    float factor = 1;
    if (j < p.k) {
      const Sequence q = sequence_of(p, row, token);
      const std::int64_t s = q.step_of(token), e = s - p.k + 1 + j;
      if (e < first_live(p, q, e, s)) continue;
      factor = input_at(p, q, c, e);
    }
    sum = fmaf(grad_pre[(row * l + token) * p.d + c], factor, sum);
  }
  partial[(tile * (p.k + 1) + j) * p.d + c] = sum;
}

// A thread has one number of grad_state_in: only a sequence's first k-1 outputs see it, or nothing but its state_out.
template <class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_bwd_state(const CausalConv1dParams<T, float> p, const CausalConv1dGradParams<T, float> g) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x, window = p.k - 1;
  const std::int64_t j = i / (slots_of(p) * p.d), slot = i / p.d - j * slots_of(p), c = i % p.d;
  if (j >= window) return;
  const Sequence q = sequence_at(p, slot);
  const std::int64_t s = j - window;  // the step that the entry stands for
  float sum = 0;
  std::int64_t t = 0;
  for (; t < min(s + p.k, q.length); ++t) {
    if (is_reset(p, q, t)) break;
    sum = fmaf(p.weight(c, s - t + window), grad_at(p, g, q, c, t), sum);
  }
  const std::int64_t first = q.length - window;
  if (g.grad_state_out && t == q.length && s >= first) sum += g.grad_state_out(slot, c, s - first);
  g.grad_state_in(slot, c, j) = sum;
}

// Rows of V channels that are aligned.
template <class T>
bool fits(const View<T, 3>& v, int channels) {
  const std::int64_t bytes = channels * static_cast<std::int64_t>(sizeof(T)), size = sizeof(T);
  return is_aligned(v.data, std::min<std::int64_t>(bytes, 16)) && (v.shape[2] == 1 || v.strides[2] == 1) &&
         v.shape[2] % channels == 0 && (v.shape[0] == 1 || v.strides[0] * size % bytes == 0) &&
         (v.shape[1] == 1 || v.strides[1] * size % bytes == 0);
}

template <class T>
bool has_four_taps(const CausalConv1dParams<T, float>& p) {
  return p.k == kTaps && is_aligned(p.weight.data, 16) && p.weight.strides[1] == 1 &&
         (p.d == 1 || p.weight.strides[0] == kTaps);
}

// Tokens of a warp's slice and the grid that follows.
struct Grid {
  std::int64_t slice_tokens, tiles, blocks;

  Grid(std::int64_t b, std::int64_t l, std::int64_t channel_blocks, std::int64_t longest) : slice_tokens(longest) {
    update(b, l, channel_blocks);
    while (blocks < kFewBlocks && slice_tokens > kBatch) {
      slice_tokens /= 2;
      update(b, l, channel_blocks);
    }
  }
  void update(std::int64_t b, std::int64_t l, std::int64_t channel_blocks) {
    tiles = b * divide_up(l, slice_tokens * kBlockSlices);
    blocks = tiles * channel_blocks;
  }
};

unsigned blocks_of(std::int64_t threads) {
  return static_cast<unsigned>(divide_up(threads, kThreads));
}

constexpr std::int64_t kForwardSlice = 16, kBackwardSlice = 32;

template <class T>
void backward_slices(const Stream& stream, const CausalConv1dParams<T, float>& p,
                     const CausalConv1dGradParams<T, float>& g, Scratch& scratch) {
  constexpr int kChannels = kBackwardChannels<T>;
  const Grid grid(p.x.shape[0], p.x.shape[1], divide_up(p.d, 32 * kChannels), kBackwardSlice);
  float* partial = scratch.allocate<float>(grid.tiles * (kTaps + 1) * p.d);
  if (grid.blocks > 0) {
    causal_conv1d_bwd_slices<kChannels>
        <<<static_cast<unsigned>(grid.blocks), kThreads, 0, handle_of(stream)>>>(p, g, grid.slice_tokens, partial);
    check_launch("causal_conv1d_bwd_slices");
  }
  add_partial_sums(stream, {partial, grid.tiles, p.d, kTaps, g.grad_weight.data, g.grad_weight.strides[1],
                            g.grad_weight.strides[0], g.grad_bias});
}

template <class T>
void backward_plain(const Stream& stream, const CausalConv1dParams<T, float>& p,
                    const CausalConv1dGradParams<T, float>& g, Scratch& scratch) {
  const std::int64_t elems = p.x.shape[0] * p.x.shape[1] * p.d;
  const std::int64_t tiles = p.x.shape[0] * divide_up(p.x.shape[1], kPlainTile);
  auto* grad_pre = scratch.allocate<float>(elems);
  float* partial = scratch.allocate<float>(tiles * (p.k + 1) * p.d);
  if (elems > 0) {
    const cudaStream_t queue = handle_of(stream);
    causal_conv1d_bwd_plain_pre<<<blocks_of(elems), kThreads, 0, queue>>>(p, g, grad_pre);
    causal_conv1d_bwd_plain_x<<<blocks_of(elems), kThreads, 0, queue>>>(p, g, grad_pre);
    const dim3 grid(static_cast<unsigned>(tiles * divide_up(p.d, kThreads)), static_cast<unsigned>(p.k + 1));
    causal_conv1d_bwd_plain_taps<<<grid, kThreads, 0, queue>>>(p, grad_pre, partial);
    check_launch("causal_conv1d_bwd_plain");
  }
  add_partial_sums(stream, {partial, tiles, p.d, p.k, g.grad_weight.data, g.grad_weight.strides[1],
                            g.grad_weight.strides[0], g.grad_bias});
}

}  // namespace

template <class T>
void causal_conv1d_forward(const Stream& stream, const CausalConv1dParams<T, float>& p) {
  const DeviceScope scope(stream.device);
  const cudaStream_t queue = handle_of(stream);
  const std::int64_t b = p.x.shape[0], l = p.x.shape[1];
  if (l == 1 && p.sequences == nullptr) {
    if (b * p.d == 0) return;
    causal_conv1d_step_channels<<<blocks_of(b * p.d), kThreads, 0, queue>>>(p);
    return check_launch("causal_conv1d_step_channels");
  }
  constexpr int kChannels = kForwardChannels<T>;
  if (b * l * p.d > 0) {
    if (has_four_taps(p) && fits(p.x, kChannels) && fits(p.y, kChannels)) {
      const Grid grid(b, l, divide_up(p.d, 32 * kChannels), kForwardSlice);
      causal_conv1d_fwd_slices<kChannels>
          <<<static_cast<unsigned>(grid.blocks), kThreads, 0, queue>>>(p, grid.slice_tokens);
      check_launch("causal_conv1d_fwd_slices");
    } else {
      causal_conv1d_fwd_plain<<<blocks_of(b * l * p.d), kThreads, 0, queue>>>(p);
      check_launch("causal_conv1d_fwd_plain");
    }
  }
  if (!p.state_out || slots_of(p) * p.d * (p.k - 1) == 0) return;
  causal_conv1d_fwd_state<<<blocks_of(slots_of(p) * p.d), kThreads, 0, queue>>>(p);
  check_launch("causal_conv1d_fwd_state");
}

template <class T>
void causal_conv1d_backward(const Stream& stream, const CausalConv1dParams<T, float>& p,
                            const CausalConv1dGradParams<T, float>& g) {
  if (p.d == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  constexpr int kChannels = kBackwardChannels<T>;
  if (has_four_taps(p) && fits(p.x, kChannels) && fits(g.grad_y, kChannels) && fits(g.grad_x, kChannels))
    backward_slices(stream, p, g, scratch);
  else
    backward_plain(stream, p, g, scratch);
  const std::int64_t states = slots_of(p) * p.d * (p.k - 1);
  if (!g.grad_state_in || states == 0) return;
  causal_conv1d_bwd_state<<<blocks_of(states), kThreads, 0, handle_of(stream)>>>(p, g);
  check_launch("causal_conv1d_bwd_state");
}

#define COLUBER_INSTANTIATE(T)                                                             \
  template void causal_conv1d_forward(const Stream&, const CausalConv1dParams<T, float>&); \
  template void causal_conv1d_backward(const Stream&, const CausalConv1dParams<T, float>&, \
                                       const CausalConv1dGradParams<T, float>&);
COLUBER_INSTANTIATE(float)
COLUBER_INSTANTIATE(bfloat16)
COLUBER_INSTANTIATE(float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
