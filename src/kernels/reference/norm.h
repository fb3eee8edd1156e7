// The meaning of norm: one group of one row after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/norm.h"

namespace coluber::reference {

template <class T>
struct NormGroup {
  std::vector<T> r, v, v_hat, gate, gate_slope;  // gate = silu(z), gate_slope = silu'(z); 1 and 0 without z
  T inverse_sigma = 0;
};

template <class T>
NormGroup<T> norm_group(const NormParams<T>& p, std::int64_t row, std::int64_t first) {
  const auto n = static_cast<std::size_t>(p.group);
  NormGroup<T> out{std::vector<T>(n), std::vector<T>(n), std::vector<T>(n), std::vector<T>(n, 1), std::vector<T>(n), 0};
  T mean = 0, square = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t c = first + static_cast<std::int64_t>(i);
    out.r[i] = p.x(row, c) + (p.residual ? p.residual(row, c) : T(0));
    if (p.z) {
      const T z = p.z(row, c), sigmoid = 1 / (1 + std::exp(-z));
      out.gate[i] = z * sigmoid;
      out.gate_slope[i] = sigmoid * (1 + z * (1 - sigmoid));
    }
    out.v[i] = p.z && !p.norm_before_gate ? out.r[i] * out.gate[i] : out.r[i];
    mean += out.v[i];
  }
  mean = p.kind == NormKind::kLayer ? mean / static_cast<T>(n) : T(0);
  for (T v : out.v) square += (v - mean) * (v - mean);
  out.inverse_sigma = 1 / std::sqrt(square / static_cast<T>(n) + p.eps);
  for (std::size_t i = 0; i < n; ++i) out.v_hat[i] = (out.v[i] - mean) * out.inverse_sigma;
  return out;
}

template <class T>
void norm_forward(const NormParams<T>& p) {
  for (std::int64_t row = 0; row < p.rows; ++row) {
    for (std::int64_t first = 0; first < p.m; first += p.group) {
      const NormGroup<T> group = norm_group(p, row, first);
      for (std::size_t i = 0; i < group.r.size(); ++i) {
        const std::int64_t c = first + static_cast<std::int64_t>(i);
        const T y =
            group.v_hat[i] * (p.weight != nullptr ? p.weight[c] : T(1)) + (p.bias != nullptr ? p.bias[c] : T(0));
        if (p.residual_out) p.residual_out(row, c) = group.r[i];
        p.y(row, c) = p.norm_before_gate ? y * group.gate[i] : y;
      }
    }
  }
}

template <class T>
void norm_backward(const NormParams<T>& p, const NormGradParams<T>& g) {
  if (g.grad_weight != nullptr) std::fill(g.grad_weight, g.grad_weight + p.m, T(0));
  if (g.grad_bias != nullptr) std::fill(g.grad_bias, g.grad_bias + p.m, T(0));
  std::vector<T> h(static_cast<std::size_t>(p.group));  // grad_v_hat
  for (std::int64_t row = 0; row < p.rows; ++row) {
    for (std::int64_t first = 0; first < p.m; first += p.group) {
      const NormGroup<T> group = norm_group(p, row, first);
      T sum_h = 0, sum_h_v = 0;
      for (std::size_t i = 0; i < h.size(); ++i) {
        const std::int64_t c = first + static_cast<std::int64_t>(i);
        const T weight = p.weight != nullptr ? p.weight[c] : T(1), bias = p.bias != nullptr ? p.bias[c] : T(0);
        const T grad_y = g.grad_y(row, c), grad = p.norm_before_gate ? grad_y * group.gate[i] : grad_y;
        if (p.z && p.norm_before_gate) {
          g.grad_z(row, c) = grad_y * (group.v_hat[i] * weight + bias) * group.gate_slope[i];
        }
        if (g.grad_weight != nullptr) g.grad_weight[c] += grad * group.v_hat[i];
        if (g.grad_bias != nullptr) g.grad_bias[c] += grad;
        h[i] = grad * weight;
        sum_h += h[i];
        sum_h_v += h[i] * group.v_hat[i];
      }
      const T mean_h = p.kind == NormKind::kLayer ? sum_h / static_cast<T>(p.group) : T(0);
      const T mean_h_v = sum_h_v / static_cast<T>(p.group);
      for (std::size_t i = 0; i < h.size(); ++i) {
        const std::int64_t c = first + static_cast<std::int64_t>(i);
        T grad_r = (h[i] - mean_h - group.v_hat[i] * mean_h_v) * group.inverse_sigma;
        if (p.z && !p.norm_before_gate) {
          g.grad_z(row, c) = grad_r * group.r[i] * group.gate_slope[i];
          grad_r *= group.gate[i];
        }
        g.grad_x(row, c) = grad_r + (g.grad_residual_out ? g.grad_residual_out(row, c) : T(0));
      }
    }
  }
}

}  // namespace coluber::reference
