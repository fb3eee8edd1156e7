// The meaning of the small things.
#pragma once

#include "core/rng.h"
#include "kernels/elementwise.h"

namespace coluber::reference {

template <class T>
void add(View<T, 2> accumulator, View<const T, 2> x, T scale) {
  for (std::int64_t i = 0; i < x.shape[0]; ++i)
    for (std::int64_t j = 0; j < x.shape[1]; ++j) accumulator(i, j) += scale * x(i, j);
}

template <class T>
void scale(View<T, 2> x, T scale) {
  for (std::int64_t i = 0; i < x.shape[0]; ++i)
    for (std::int64_t j = 0; j < x.shape[1]; ++j) x(i, j) *= scale;
}

template <class T>
double sum_of_squares(View<const T, 2> x) {
  double sum = 0;
  for (std::int64_t i = 0; i < x.shape[0]; ++i)
    for (std::int64_t j = 0; j < x.shape[1]; ++j) sum += static_cast<double>(x(i, j)) * static_cast<double>(x(i, j));
  return sum;
}

template <class T>
void dropout(const DropoutParams<T>& p) {
  const Rng rng(p.seed, p.stream);
  const T factor = static_cast<T>(1 / (1 - p.p));
  for (std::int64_t i = 0; i < p.x.shape[0]; ++i) {
    for (std::int64_t j = 0; j < p.x.shape[1]; ++j) {
      const bool keep = rng.uniform(static_cast<std::uint64_t>(i * p.x.shape[1] + j)) >= p.p;
      p.y(i, j) = keep ? p.x(i, j) * factor : T(0);
    }
  }
}

}  // namespace coluber::reference
