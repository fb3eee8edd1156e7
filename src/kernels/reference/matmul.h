// The meaning of the matrix products: one sum after the other. Transposed factors are views with swapped strides.
#pragma once

#include "kernels/view.h"

namespace coluber::reference {

// c (m,n) = a (m,k) b (k,n), or c += with accumulate.
template <class T>
void matmul(View<const T, 2> a, View<const T, 2> b, View<T, 2> c, bool accumulate = false) {
  for (std::int64_t i = 0; i < c.shape[0]; ++i) {
    for (std::int64_t j = 0; j < c.shape[1]; ++j) {
      T sum = 0;
      for (std::int64_t l = 0; l < a.shape[1]; ++l) sum += a(i, l) * b(l, j);
      c(i, j) = accumulate ? c(i, j) + sum : sum;
    }
  }
}

// y (m,n) += bias (n) in every row.
template <class T>
void add_bias(View<const T, 1> bias, View<T, 2> y) {
  for (std::int64_t i = 0; i < y.shape[0]; ++i)
    for (std::int64_t j = 0; j < y.shape[1]; ++j) y(i, j) += bias(j);
}

// sums (n) = column sums of a (m,n), or sums += with accumulate.
template <class T>
void column_sums(View<const T, 2> a, View<T, 1> sums, bool accumulate = false) {
  for (std::int64_t j = 0; j < a.shape[1]; ++j) {
    T sum = 0;
    for (std::int64_t i = 0; i < a.shape[0]; ++i) sum += a(i, j);
    sums(j) = accumulate ? sums(j) + sum : sum;
  }
}

template <class T>
View<T, 2> transposed(View<T, 2> v) {
  return {v.data, {v.shape[1], v.shape[0]}, {v.strides[1], v.strides[0]}};
}

}  // namespace coluber::reference
