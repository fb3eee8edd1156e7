// The meaning of cross entropy, row by row.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/loss.h"

namespace coluber::reference {

template <class T>
void cross_entropy_rows(const CrossEntropyRowsParams<T>& p) {
  for (std::int64_t i = 0; i < p.rows; ++i) {
    const T* row = p.logits + i * p.ld;
    T* grad = p.grad == nullptr ? nullptr : p.grad + i * p.ldg;
    const std::int32_t target = p.targets[i];
    if (target < 0) {
      if (p.loss != nullptr) p.loss[i] = 0;
      if (grad != nullptr) std::fill(grad, grad + p.v, T(0));
      continue;
    }
    const double max = *std::max_element(row, row + p.v);
    double sum = 0;
    for (std::int64_t j = 0; j < p.v; ++j) sum += std::exp(row[j] - max);
    const double lse = max + std::log(sum);
    if (p.loss != nullptr) p.loss[i] = lse - row[target];
    if (grad == nullptr) continue;
    for (std::int64_t j = 0; j < p.v; ++j) {
      grad[j] = static_cast<T>((std::exp(row[j] - lse) - (j == target ? 1 : 0)) * p.grad_scale);
    }
  }
}

}  // namespace coluber::reference
