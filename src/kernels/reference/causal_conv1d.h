// The meaning of causal_conv1d: every output as a sum over its window, every gradient as that sum's transpose.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/causal_conv1d.h"

namespace coluber::reference {

// Position of the s-th processed token in its row.
inline std::int64_t conv_token(const SequenceRange& q, bool reverse, std::int64_t s) {
  return reverse ? q.end - 1 - s : q.begin + s;
}

// The earliest step of [first, last] that a reset has not cut off.
template <class T>
std::int64_t conv_first_live(const CausalConv1dParams<T>& p, const SequenceRange& q, std::int64_t first,
                             std::int64_t last) {
  if (!p.resets) return first;
  for (std::int64_t s = last; s >= std::max<std::int64_t>(first, 0); --s)
    if (p.resets(q.row, conv_token(q, p.reverse, s)) != 0) return s;
  return first;
}

// e_s of channel c; s from -(k-1) on.
template <class T>
T conv_input(const CausalConv1dParams<T>& p, std::int64_t slot, std::int64_t c, std::int64_t s) {
  const SequenceRange& q = p.sequences[slot];
  if (s >= 0) return p.x(q.row, conv_token(q, p.reverse, s), c);
  return p.state_in ? p.state_in(slot, c, s + p.k - 1) : T(0);
}

template <class T>
T conv_pre_activation(const CausalConv1dParams<T>& p, std::int64_t slot, std::int64_t c, std::int64_t s) {
  T sum = p.bias != nullptr ? p.bias[c] : T(0);
  for (std::int64_t e = conv_first_live(p, p.sequences[slot], s - p.k + 1, s); e <= s; ++e)
    sum += p.weight(c, e - s + p.k - 1) * conv_input(p, slot, c, e);
  return sum;
}

template <class T>
void causal_conv1d_forward(const CausalConv1dParams<T>& p) {
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    const SequenceRange& q = p.sequences[slot];
    const std::int64_t l = q.end - q.begin;
    for (std::int64_t c = 0; c < p.d; ++c) {
      for (std::int64_t s = 0; s < l; ++s) {
        const T a = conv_pre_activation(p, slot, c, s);
        p.y(q.row, conv_token(q, p.reverse, s), c) = p.silu ? a / (1 + std::exp(-a)) : a;
      }
      if (!p.state_out) continue;
      const std::int64_t first = l - p.k + 1, live = conv_first_live(p, q, first, l - 1);
      for (std::int64_t s = first; s < l; ++s)  // oldest first, so state_out may be state_in
        p.state_out(slot, c, s - first) = s < live ? T(0) : conv_input(p, slot, c, s);
    }
  }
}

template <class T>
void causal_conv1d_backward(const CausalConv1dParams<T>& p, const CausalConv1dGradParams<T>& g) {
  for (std::int64_t c = 0; c < p.d; ++c) {
    for (std::int64_t j = 0; j < p.k; ++j) g.grad_weight(c, j) = 0;
    if (g.grad_bias != nullptr) g.grad_bias[c] = 0;
  }
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    const SequenceRange& q = p.sequences[slot];
    const std::int64_t l = q.end - q.begin;
    for (std::int64_t c = 0; c < p.d; ++c) {
      auto add = [&](std::int64_t s, T grad) {
        if (s >= 0)
          g.grad_x(q.row, conv_token(q, p.reverse, s), c) += grad;
        else if (g.grad_state_in)
          g.grad_state_in(slot, c, s + p.k - 1) += grad;
      };
      for (std::int64_t s = 0; s < l; ++s) g.grad_x(q.row, conv_token(q, p.reverse, s), c) = 0;
      for (std::int64_t j = 0; g.grad_state_in && j < p.k - 1; ++j) g.grad_state_in(slot, c, j) = 0;
      for (std::int64_t s = 0; s < l; ++s) {
        T grad = g.grad_y(q.row, conv_token(q, p.reverse, s), c);
        if (p.silu) {
          const T a = conv_pre_activation(p, slot, c, s), sigmoid = 1 / (1 + std::exp(-a));
          grad *= sigmoid * (1 + a * (1 - sigmoid));
        }
        if (g.grad_bias != nullptr) g.grad_bias[c] += grad;
        for (std::int64_t e = conv_first_live(p, q, s - p.k + 1, s); e <= s; ++e) {
          const std::int64_t j = e - s + p.k - 1;
          g.grad_weight(c, j) += grad * conv_input(p, slot, c, e);
          add(e, grad * p.weight(c, j));
        }
      }
      if (!g.grad_state_out) continue;
      const std::int64_t first = l - p.k + 1;
      for (std::int64_t s = conv_first_live(p, q, first, l - 1); s < l; ++s)
        add(s, g.grad_state_out(slot, c, s - first));
    }
  }
}

}  // namespace coluber::reference
