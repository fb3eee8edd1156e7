// causal_conv1d for any number of taps and any strides, one number a thread; and the kernels of states and of one
// token, which every number of taps shares. Included by causal_conv1d.cu alone.
#pragma once

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/numbers.cuh"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPlainTile = 256;  // tokens whose gradients of the taps are one partial sum

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

}  // namespace
}  // namespace coluber::cuda
