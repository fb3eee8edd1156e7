// The meaning of selective_scan: one channel after the other, token by token, nothing clever.
#pragma once

#include <cmath>
#include <complex>
#include <type_traits>
#include <vector>

#include "kernels/selective_scan.h"

namespace coluber::reference {

// ln(1 + e^x), and x itself above 20 as the published op has it: there they differ by less than 2.1e-9.
template <class T>
T softplus(T x) {
  using std::exp, std::log1p;
  return x > 20 ? x : log1p(exp(x));
}
template <class T>
T sigmoid(T x) {
  using std::exp;
  return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}
template <class T>
T softplus_slope(T x) {
  return x > 20 ? T(1) : sigmoid(x);
}

// States are T or std::complex<T>. T may also be a number type of a test.
namespace scan_detail {

template <class T>
struct Element {
  static constexpr std::int64_t size = 1;
  using Number = T;
};
template <class T>
struct Element<std::complex<T>> {
  static constexpr std::int64_t size = 2;
  using Number = T;
};

template <class T>
T exp_of(T x) {
  using std::exp;
  return exp(x);
}
template <class T>
std::complex<T> exp_of(std::complex<T> x) {
  using std::exp, std::cos, std::sin;
  const T size = exp(x.real());
  return {size * cos(x.imag()), size * sin(x.imag())};
}

template <class S, class T>
S read(const T* row, std::int64_t i, std::int64_t stride) {
  if constexpr (Element<S>::size == 2)
    return S(row[2 * i * stride], row[(2 * i + 1) * stride]);
  else
    return row[i * stride];
}
template <class S, class T>
void add_to(T* row, std::int64_t i, std::int64_t stride, S value) {
  if constexpr (Element<S>::size == 2) {
    row[2 * i * stride] += value.real();
    row[(2 * i + 1) * stride] += value.imag();
  } else {
    row[i * stride] += value;
  }
}
// y = C h, or 2 Re(C h).
template <class S>
auto output_term(S C, S h) {
  if constexpr (Element<S>::size == 2)
    return 2 * (C * h).real();
  else
    return C * h;
}
// Gradient of output_term with respect to one factor, per real component: g C, or 2 g conj(C).
template <class S>
S output_grad(typename Element<S>::Number g, S other) {
  if constexpr (Element<S>::size == 2)
    return 2 * g * std::conj(other);
  else
    return g * other;
}
template <class S>
S conj_of(S x) {
  if constexpr (Element<S>::size == 2)
    return std::conj(x);
  else
    return x;
}
template <class S>
typename Element<S>::Number real_of(S x) {
  if constexpr (Element<S>::size == 2)
    return x.real();
  else
    return x;
}

// Token t of the i-th processing step of a sequence.
inline std::int64_t token_at(const SequenceRange& s, std::int64_t i, bool reverse) {
  return reverse ? s.end - 1 - i : s.begin + i;
}

template <class T>
T step_size(const SelectiveScanParams<T>& p, std::int64_t b, std::int64_t t, std::int64_t d) {
  const T x = p.dt(b, t, d) + (p.dt_bias != nullptr ? p.dt_bias[d] : T(0));
  return p.dt_softplus ? softplus(x) : x;
}

template <class S, class T>
void forward_channel(const SelectiveScanParams<T>& p, std::int64_t slot, std::int64_t d) {
  const SequenceRange& s = p.sequences[slot];
  const std::int64_t group_B = d / (p.d / p.B.shape[2]), group_C = d / (p.d / p.C.shape[2]);
  std::vector<S> h(static_cast<std::size_t>(p.n), S(0));
  if (p.state_in) {
    for (std::int64_t n = 0; n < p.n; ++n)
      h[static_cast<std::size_t>(n)] = read<S>(p.state_in.ptr(slot, d), n, p.state_in.strides[2]);
  }
  for (std::int64_t i = 0; i < s.end - s.begin; ++i) {
    const std::int64_t t = token_at(s, i, p.reverse);
    if (p.resets && p.resets(s.row, t) != 0) std::fill(h.begin(), h.end(), S(0));
    const T dt = step_size(p, s.row, t, d), u = p.u(s.row, t, d);
    T y = p.D != nullptr ? p.D[d] * u : T(0);
    for (std::int64_t n = 0; n < p.n; ++n) {
      S& state = h[static_cast<std::size_t>(n)];
      const S B = read<S>(p.B.ptr(s.row, t, group_B), n, p.B.strides[3]);
      const S C = read<S>(p.C.ptr(s.row, t, group_C), n, p.C.strides[3]);
      state = exp_of(dt * read<S>(p.A.ptr(d), n, p.A.strides[1])) * state + dt * u * B;
      y += output_term(C, state);
    }
    if (p.z) y *= p.z(s.row, t, d) * sigmoid(p.z(s.row, t, d));
    p.y(s.row, t, d) = y;
  }
  if (p.state_out) {
    T* row = p.state_out.ptr(slot, d);
    for (std::int64_t n = 0; n < Element<S>::size * p.n; ++n) row[n * p.state_out.strides[2]] = T(0);
    for (std::int64_t n = 0; n < p.n; ++n) add_to(row, n, p.state_out.strides[2], h[static_cast<std::size_t>(n)]);
  }
}

// The adjoint: with lambda_t = dL/dh_t, lambda_t = C_t g_t + exp(dt_{t+1} A) lambda_{t+1}, everything else is local.
// All states of the sequence are kept: this is the slow truth.
template <class S, class T>
void backward_channel(const SelectiveScanParams<T>& p, const SelectiveScanGradParams<T>& g, std::int64_t slot,
                      std::int64_t d) {
  const SequenceRange& s = p.sequences[slot];
  const std::int64_t length = s.end - s.begin;
  const std::int64_t group_B = d / (p.d / p.B.shape[2]), group_C = d / (p.d / p.C.shape[2]);
  // Strides of constant B and C's gradients are 0 along b and l, so that every token adds to one row.
  std::vector<S> h(static_cast<std::size_t>((length + 1) * p.n), S(0)), lambda(static_cast<std::size_t>(p.n), S(0));
  auto state = [&](std::int64_t i, std::int64_t n) -> S& { return h[static_cast<std::size_t>(i * p.n + n)]; };
  for (std::int64_t n = 0; n < p.n; ++n) {
    if (p.state_in) state(0, n) = read<S>(p.state_in.ptr(slot, d), n, p.state_in.strides[2]);
    if (g.grad_state_out)
      lambda[static_cast<std::size_t>(n)] = read<S>(g.grad_state_out.ptr(slot, d), n, g.grad_state_out.strides[2]);
  }
  for (std::int64_t i = 0; i < length; ++i) {
    const std::int64_t t = token_at(s, i, p.reverse);
    const T dt = step_size(p, s.row, t, d);
    const bool reset = p.resets && p.resets(s.row, t) != 0;
    for (std::int64_t n = 0; n < p.n; ++n) {
      const S previous = reset ? S(0) : state(i, n);
      state(i + 1, n) = exp_of(dt * read<S>(p.A.ptr(d), n, p.A.strides[1])) * previous +
                        dt * p.u(s.row, t, d) * read<S>(p.B.ptr(s.row, t, group_B), n, p.B.strides[3]);
    }
  }
  for (std::int64_t i = length - 1; i >= 0; --i) {
    const std::int64_t t = token_at(s, i, p.reverse);
    const T dt = step_size(p, s.row, t, d), u = p.u(s.row, t, d);
    const bool reset = p.resets && p.resets(s.row, t) != 0;
    T grad = g.grad_y(s.row, t, d);
    if (p.z) {
      T y = p.D != nullptr ? p.D[d] * u : T(0);
      for (std::int64_t n = 0; n < p.n; ++n)
        y += output_term(read<S>(p.C.ptr(s.row, t, group_C), n, p.C.strides[3]), state(i + 1, n));
      const T z = p.z(s.row, t, d), gate = sigmoid(z);
      if (g.grad_z) g.grad_z(s.row, t, d) = grad * y * gate * (1 + z * (1 - gate));
      grad *= z * gate;
    }
    T grad_u = p.D != nullptr ? p.D[d] * grad : T(0), grad_dt = 0;
    if (g.grad_D != nullptr) g.grad_D[d] += grad * u;
    for (std::int64_t n = 0; n < p.n; ++n) {
      const S A = read<S>(p.A.ptr(d), n, p.A.strides[1]);
      const S B = read<S>(p.B.ptr(s.row, t, group_B), n, p.B.strides[3]);
      const S C = read<S>(p.C.ptr(s.row, t, group_C), n, p.C.strides[3]);
      const S previous = reset ? S(0) : state(i, n);
      const S decay = exp_of(dt * A);
      S& adjoint = lambda[static_cast<std::size_t>(n)];
      adjoint += output_grad(grad, C);
      if (g.grad_C) add_to(g.grad_C.ptr(s.row, t, group_C), n, g.grad_C.strides[3], output_grad(grad, state(i + 1, n)));
      if (g.grad_B) add_to(g.grad_B.ptr(s.row, t, group_B), n, g.grad_B.strides[3], adjoint * dt * u);
      const S local = adjoint * conj_of(decay * previous);
      if (g.grad_A) add_to(g.grad_A.ptr(d), n, g.grad_A.strides[1], dt * local);
      grad_u += dt * real_of(adjoint * conj_of(B));
      grad_dt += real_of(adjoint * conj_of(B)) * u + real_of(local * conj_of(A));
      adjoint = reset ? S(0) : adjoint * conj_of(decay);
    }
    if (p.dt_softplus) grad_dt *= softplus_slope(p.dt(s.row, t, d) + (p.dt_bias != nullptr ? p.dt_bias[d] : T(0)));
    if (g.grad_u) g.grad_u(s.row, t, d) = grad_u;
    if (g.grad_dt) g.grad_dt(s.row, t, d) = grad_dt;
    if (g.grad_dt_bias != nullptr) g.grad_dt_bias[d] += grad_dt;
  }
  if (g.grad_state_in) {
    for (std::int64_t n = 0; n < p.n; ++n)
      add_to(g.grad_state_in.ptr(slot, d), n, g.grad_state_in.strides[2], lambda[static_cast<std::size_t>(n)]);
  }
}

}  // namespace scan_detail

template <class T>
void selective_scan_forward(const SelectiveScanParams<T>& p) {
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    for (std::int64_t d = 0; d < p.d; ++d) {
      if (p.is_complex)
        scan_detail::forward_channel<std::complex<T>>(p, slot, d);
      else
        scan_detail::forward_channel<T>(p, slot, d);
    }
  }
}

// All gradients must be zero before the call.
template <class T>
void selective_scan_backward(const SelectiveScanParams<T>& p, const SelectiveScanGradParams<T>& g) {
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    for (std::int64_t d = 0; d < p.d; ++d) {
      if (p.is_complex)
        scan_detail::backward_channel<std::complex<T>>(p, g, slot, d);
      else
        scan_detail::backward_channel<T>(p, g, slot, d);
    }
  }
}

}  // namespace coluber::reference
