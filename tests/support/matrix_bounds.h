// How far a sum of products in f32 may be from the true one, whatever its order: gamma_k |a| |b| element by element,
// gamma_k = k u / (1 - k u) (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "coluber/tensor.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

inline double gamma_f32(std::int64_t k) {
  const double ku = static_cast<double>(k) * kUnitF32;
  return ku / (1 - ku);
}

inline Tensor absolute(const Tensor& t) {
  if (!t.defined()) return t;
  const Tensor a = t.to(DType::kF64).clone();
  for (std::int64_t i = 0; i < a.numel(); ++i) a.data<double>()[i] = std::abs(a.data<double>()[i]);
  return a;
}

// a (m,k) times b (k,n) in f64; either may be a transposed view.
inline Tensor product_f64(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(DType::kF64).contiguous(), y = b.to(DType::kF64).contiguous();
  const std::int64_t m = x.size(0), k = x.size(1), n = y.size(1);
  const Tensor c = Tensor::zeros({m, n}, DType::kF64);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t l = 0; l < k; ++l)
      for (std::int64_t j = 0; j < n; ++j)
        c.data<double>()[i * n + j] += x.data<double>()[i * k + l] * y.data<double>()[l * n + j];
  return c;
}

// max of |got - expected| / bound over all elements: at most 1 when the bound holds. An error where the bound is 0
// counts as infinite.
inline double worst_share(const Tensor& got, const Tensor& expected, const Tensor& bound) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!got.defined() || got.numel() != expected.numel() || got.numel() != bound.numel()) return kInfinity;
  const Tensor g = got.to(DType::kF64).contiguous(), e = expected.to(DType::kF64).contiguous();
  const Tensor b = bound.to(DType::kF64).contiguous();
  double worst = 0;
  for (std::int64_t i = 0; i < g.numel(); ++i) {
    const double error = std::abs(g.data<double>()[i] - e.data<double>()[i]);
    if (error == 0) continue;
    const double share = error / b.data<double>()[i];
    worst = std::isnan(share) ? kInfinity : std::max(worst, share);
  }
  return worst;
}

// The same for a product: got (m,n) against a b, with terms of `extra` (as bound and value) already in c.
inline double product_share(const Tensor& got, const Tensor& a, const Tensor& b, const Tensor& added = {}) {
  const Tensor expected = product_f64(a, b), bound = product_f64(absolute(a), absolute(b));
  const double gamma = gamma_f32(a.size(1) + 2);
  const Tensor more =
      added.defined() ? added.to(DType::kF64).contiguous() : Tensor::zeros(expected.shape(), DType::kF64);
  for (std::int64_t i = 0; i < expected.numel(); ++i) {
    expected.data<double>()[i] += more.data<double>()[i];
    bound.data<double>()[i] = gamma * (bound.data<double>()[i] + std::abs(more.data<double>()[i]));
  }
  return worst_share(got, expected, bound);
}

}  // namespace coluber::testing
